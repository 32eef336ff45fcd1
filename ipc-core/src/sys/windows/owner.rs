//! Whose a pipe is.
#![allow(unsafe_code)] // System calls.

use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::{HANDLE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, GetSecurityInfo, SE_KERNEL_OBJECT,
};
use windows_sys::Win32::Security::{
    EqualSid, GetTokenInformation, IsWellKnownSid, OWNER_SECURITY_INFORMATION, TOKEN_QUERY,
    TOKEN_USER, TokenUser, WinLocalSystemSid,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// The user that this process runs as.
pub(super) struct User {
    /// A `TOKEN_USER`, and behind it what it points to.
    token_user: Box<[u64; 32]>,
}

impl User {
    pub(super) fn current() -> io::Result<Self> {
        let mut token: HANDLE = ptr::null_mut();
        // SAFETY: the process is a constant that stands for this one, and `token` outlives the
        // call.
        let result = unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) };
        check(result)?;
        // SAFETY: it was opened just now, and nobody else knows it.
        let token = unsafe { OwnedHandle::from_raw_handle(token) };
        let mut token_user = Box::new([0_u64; 32]); // The longest one takes 84 bytes.
        let (room, mut needed) = (u32::try_from(size_of_val(&*token_user)).expect("small"), 0);
        // SAFETY: the token is open, and `token_user` has so much room.
        let result = unsafe {
            GetTokenInformation(
                token.as_raw_handle(),
                TokenUser,
                token_user.as_mut_ptr().cast(),
                room,
                &raw mut needed,
            )
        };
        check(result)?;
        Ok(Self { token_user })
    }

    /// The user as security descriptors in text name one.
    pub(super) fn to_text(&self) -> io::Result<String> {
        let mut text = ptr::null_mut();
        // SAFETY: the user is a valid one, and `text` outlives the call.
        check(unsafe { ConvertSidToStringSidW(self.sid(), &raw mut text) })?;
        let mut units = Vec::new();
        // SAFETY: the system has allocated the text, which ends with a NUL, and says that it is
        // freed like this.
        unsafe {
            let mut at = text;
            while *at != 0 {
                units.push(*at);
                at = at.add(1);
            }
            LocalFree(text.cast());
        }
        Ok(String::from_utf16_lossy(&units))
    }

    /// Whether the user, or the system itself, owns a pipe. Who makes a pipe owns it: nobody can
    /// make one in the name of others without the right to restore backups.
    pub(super) fn owns(&self, pipe: BorrowedHandle<'_>) -> io::Result<bool> {
        let (mut owner, mut descriptor) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the pipe is open; `owner` and `descriptor` outlive the call, and of nothing else
        // is asked.
        let error = unsafe {
            GetSecurityInfo(
                pipe.as_raw_handle(),
                SE_KERNEL_OBJECT,
                OWNER_SECURITY_INFORMATION,
                &raw mut owner,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                &raw mut descriptor,
            )
        };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error.cast_signed()));
        }
        // SAFETY: the owner is a valid one within the descriptor, which the system has allocated,
        // and says that it is freed like this.
        unsafe {
            let is_ours = !owner.is_null()
                && (EqualSid(owner, self.sid()) != 0
                    || IsWellKnownSid(owner, WinLocalSystemSid) != 0);
            LocalFree(descriptor);
            Ok(is_ours)
        }
    }

    fn sid(&self) -> *mut std::ffi::c_void {
        // SAFETY: the system has filled it with a TOKEN_USER, which needs no stricter alignment
        // than u64 has; what that points to is behind it, on the heap.
        unsafe { (*self.token_user.as_ptr().cast::<TOKEN_USER>()).User.Sid }
    }
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
