//! The bytes of messages: integers little-endian, an address as a tag and its parts, texts to the
//! end of the payload.
//!
//! Reading is total: every byte string is a message or an error, nothing may be left over, and what
//! is read is what would be written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::address::{Address, Inherited};
use crate::listen::{Dispatch, ListenOptions};

// The tags of addresses.
const PATH: u8 = 1;
const ABSTRACT: u8 = 2;
const NUMBER: u8 = 3;
const SYSTEMD: u8 = 5;
const V4: u8 = 4;
const V6: u8 = 6;
/// Beside one of the two.
const UDP: u8 = 16;
const UDP_V4: u8 = UDP | V4;
const UDP_V6: u8 = UDP | V6;

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError;

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a message of this protocol")
    }
}

impl std::error::Error for DecodeError {}

pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn dispatch(&mut self, dispatch: Dispatch) {
        self.0.push(match dispatch {
            Dispatch::Auto => 0,
            Dispatch::Handoff => 1,
            Dispatch::Shared => 2,
            Dispatch::Steered => 3,
        });
    }

    /// Without `exclusive`, of which the master never hears.
    pub(super) fn options(&mut self, options: &ListenOptions) {
        self.option(options.dispatch, Writer::dispatch);
        self.option(options.backlog, Writer::u32);
        self.option(options.only_v6, |out, only| out.0.push(u8::from(only)));
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Writer, T)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn address(&mut self, address: &Address) {
        match address {
            Address::Tcp(address) => self.socket_address(0, address),
            Address::Udp(address) => self.socket_address(UDP, address),
            Address::Unix(path) => {
                self.0.push(PATH);
                self.0.extend(path.as_os_str().as_encoded_bytes());
            }
            Address::Abstract(name) => {
                self.0.push(ABSTRACT);
                self.0.extend(name.as_bytes());
            }
            Address::Inherited(Inherited::Number(number)) => {
                self.0.push(NUMBER);
                self.u32(*number);
            }
            Address::Inherited(Inherited::Systemd { name, index }) => {
                self.0.push(SYSTEMD);
                self.u16(*index);
                self.0.extend(name.as_bytes());
            }
        }
    }

    fn socket_address(&mut self, kind: u8, address: &SocketAddr) {
        match address {
            SocketAddr::V4(v4) => {
                self.0.push(kind | V4);
                self.u16(v4.port());
                self.0.extend(v4.ip().octets());
            }
            SocketAddr::V6(v6) => {
                self.0.push(kind | V6);
                self.u16(v6.port());
                self.0.extend(v6.ip().octets());
                self.u32(v6.flowinfo());
                self.u32(v6.scope_id());
            }
        }
    }

    /// A text, to the end of the payload, and no more of it than fits.
    pub(super) fn text(&mut self, text: &str, bytes_max: usize) {
        let fits = |end: &usize| *end <= bytes_max && text.is_char_boundary(*end);
        let end = (0..=text.len()).rev().find(fits).unwrap_or(0);
        self.0.extend(&text.as_bytes()[..end]);
    }
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(DecodeError)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(DecodeError),
        }
    }

    pub(super) fn dispatch(&mut self) -> Result<Dispatch, DecodeError> {
        match self.array()? {
            [0] => Ok(Dispatch::Auto),
            [1] => Ok(Dispatch::Handoff),
            [2] => Ok(Dispatch::Shared),
            [3] => Ok(Dispatch::Steered),
            _ => Err(DecodeError),
        }
    }

    pub(super) fn options(&mut self) -> Result<ListenOptions, DecodeError> {
        Ok(ListenOptions {
            dispatch: self.option(Reader::dispatch)?,
            backlog: self.option(Reader::u32)?,
            only_v6: self.option(Reader::bool)?,
            exclusive: false,
        })
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    pub(super) fn address(&mut self) -> Result<Address, DecodeError> {
        let [tag] = self.array()?;
        let address = match tag {
            V4 | V6 => Address::Tcp(self.socket_address(tag)?),
            UDP_V4 | UDP_V6 => Address::Udp(self.socket_address(tag & !UDP)?),
            PATH => {
                let path = crate::sys::path_from_bytes(self.rest());
                Address::Unix(path.ok_or(DecodeError)?)
            }
            ABSTRACT => Address::Abstract(self.text(usize::MAX)?),
            NUMBER => Address::Inherited(Inherited::Number(self.u32()?)),
            SYSTEMD => {
                let index = self.u16()?;
                Address::Inherited(Inherited::Systemd { name: self.text(usize::MAX)?, index })
            }
            _ => return Err(DecodeError),
        };
        address.check().map_or(Ok(address), |_| Err(DecodeError))
    }

    fn socket_address(&mut self, kind: u8) -> Result<SocketAddr, DecodeError> {
        let port = self.u16()?;
        if kind == V4 {
            return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)), port));
        }
        let ip = Ipv6Addr::from(self.array::<16>()?);
        Ok(SocketAddr::V6(SocketAddrV6::new(ip, port, self.u32()?, self.u32()?)))
    }

    fn rest(&mut self) -> &[u8] {
        std::mem::take(&mut self.0)
    }

    /// A text, to the end of the payload.
    pub(super) fn text(&mut self, bytes_max: usize) -> Result<String, DecodeError> {
        let bytes = self.rest();
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError)?;
        if bytes.len() > bytes_max { Err(DecodeError) } else { Ok(text.to_owned()) }
    }

    pub(super) fn end<M>(&self, message: M) -> Result<M, DecodeError> {
        if self.0.is_empty() { Ok(message) } else { Err(DecodeError) }
    }
}
