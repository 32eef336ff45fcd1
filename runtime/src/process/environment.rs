//! The environment of a child.

use std::collections::BTreeMap;
use std::ffi::OsStr;

/// The environment of a child: that of this process, with changes.
#[derive(Debug, Default)]
pub(crate) struct Environment<'a> {
    /// Without this process's.
    pub(crate) is_clear: bool,
    /// By name; `None` takes it out.
    pub(crate) changes: BTreeMap<&'a OsStr, Option<&'a OsStr>>,
}

/// Why this can't be a variable.
pub(super) fn check(key: &OsStr, value: Option<&OsStr>) -> Result<(), String> {
    let bytes = key.as_encoded_bytes();
    if bytes.is_empty() || bytes.contains(&b'=') || bytes.contains(&0) {
        return Err(format!("env: {key:?} is no name; leave out '=' and zero bytes"));
    }
    if value.is_some_and(|value| value.as_encoded_bytes().contains(&0)) {
        return Err(format!("env: the value of {key:?} holds a zero byte; leave it out"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_variable_is_named() {
        for key in ["", "A=B", "=", "A\0"] {
            let error = check(key.as_ref(), None).unwrap_err();
            assert!(error.contains(&format!("{key:?} is no name")), "{error}");
        }
        let error = check("A".as_ref(), Some("b\0".as_ref())).unwrap_err();
        assert!(error.contains("the value of \"A\" holds a zero byte"), "{error}");
        check("A".as_ref(), Some("=".as_ref())).unwrap();
        check("A".as_ref(), None).unwrap();
    }
}
