//! Short messages between a test and its workers, beside the cluster.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use runtime::Address;

use super::{DEADLINE, Directory, wait_until};

/// The test's side.
pub(crate) struct Desk {
    directory: Directory,
    socket: UnixDatagram,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        let directory = Directory::new();
        let socket = UnixDatagram::bind(directory.join("desk")).expect("a new directory");
        socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
        Desk { directory, socket }
    }

    /// What a role needs to know to call.
    pub(crate) fn number(&self) -> String {
        self.directory.join("").display().to_string()
    }

    /// What anybody says next.
    #[track_caller]
    pub(crate) fn hear(&self) -> String {
        hear(&self.socket).unwrap_or_else(|error| panic!("waited in vain for a call: {error}"))
    }

    /// What is said next, if it was said already.
    pub(crate) fn heard(&self) -> Option<String> {
        self.socket.set_nonblocking(true).expect("a socket");
        let heard = hear(&self.socket).ok();
        self.socket.set_nonblocking(false).expect("a socket");
        heard
    }

    #[track_caller]
    pub(crate) fn tell(&self, name: &str, text: &str) {
        let sent = self.socket.send_to(text.as_bytes(), self.directory.join(name));
        sent.unwrap_or_else(|error| panic!("tell {name} to {text}: {error}"));
    }

    /// Tells one, if it is there.
    pub(crate) fn try_tell(&self, name: &str, text: &str) -> bool {
        self.socket.send_to(text.as_bytes(), self.directory.join(name)).is_ok()
    }

    /// Waits until so many puppets have come.
    #[track_caller]
    pub(crate) fn ready(&self, puppets: usize) {
        for _ in 0..puppets {
            let said = self.hear();
            assert!(said.starts_with("ready "), "{said}");
        }
    }

    /// Has a puppet listen, for the `number`-th time from 0; says where.
    #[track_caller]
    pub(crate) fn listen(&self, name: &str, number: usize, address: &str) -> Address {
        let said = self.ask(name, &format!("listen {address}"));
        let real = said.strip_prefix(&format!("{number} ")).and_then(|text| text.parse().ok());
        real.unwrap_or_else(|| panic!("listen on {address}: {said}"))
    }

    /// Has a puppet take the connection that is on its way to it; says from where it is.
    #[track_caller]
    pub(crate) fn take(&self, name: &str, number: usize) -> String {
        let mut said = String::new();
        wait_until("there is a connection", || {
            said = self.ask(name, &format!("take {number}"));
            !said.starts_with("WouldBlock: ")
        });
        let peer = said.strip_prefix("took ");
        peer.unwrap_or_else(|| panic!("it takes a connection: {said}")).to_owned()
    }

    /// Tells one, and hears its answer.
    #[track_caller]
    pub(crate) fn ask(&self, name: &str, text: &str) -> String {
        self.tell(name, text);
        self.hear()
    }
}

/// A worker's side.
pub(crate) struct Phone {
    desk: PathBuf,
    socket: UnixDatagram,
}

impl Phone {
    /// Its `name` may be used once at a time.
    pub(crate) fn new(number: &str, name: &str) -> io::Result<Phone> {
        let directory = Path::new(number);
        // Whoever has the name before loses it, also when both come at once.
        let own = directory.join(format!("pid {}", std::process::id()));
        let socket = UnixDatagram::bind(&own)?;
        std::fs::rename(own, directory.join(name))?;
        Ok(Phone { desk: directory.join("desk"), socket })
    }

    pub(crate) fn say(&self, text: &str) -> io::Result<()> {
        self.socket.send_to(text.as_bytes(), &self.desk).map(drop)
    }

    pub(crate) fn hear(&self) -> io::Result<String> {
        hear(&self.socket)
    }
}

impl AsFd for Phone {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn hear(socket: &UnixDatagram) -> io::Result<String> {
    let mut bytes = [0; 16 << 10];
    let length = socket.recv(&mut bytes)?;
    String::from_utf8(bytes[..length].to_vec()).map_err(io::Error::other)
}
