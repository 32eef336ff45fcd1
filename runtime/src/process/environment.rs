//! The environment of a child.

use std::ffi::{OsStr, OsString};

use crate::sys::compare_names;

/// Variables by name.
pub(super) type Variables = Vec<(OsString, OsString)>;

/// This environment with these changes, of which `None` takes out, each name once, in order. Of a
/// name that is there more than once, the first counts, as for getenv(3).
pub(super) fn merged<'a>(
    mut ours: Variables,
    changes: impl Iterator<Item = (&'a OsString, Option<&'a OsString>)>,
) -> Variables {
    ours.sort_by(|(a, _), (b, _)| compare_names(a, b));
    ours.dedup_by(|(later, _), (first, _)| compare_names(later, first).is_eq());
    for (key, value) in changes {
        match (ours.binary_search_by(|(name, _)| compare_names(name, key)), value) {
            (Ok(at), Some(value)) => ours[at] = (key.clone(), value.clone()),
            (Ok(at), None) => drop(ours.remove(at)),
            (Err(at), Some(value)) => ours.insert(at, (key.clone(), value.clone())),
            (Err(_), None) => {}
        }
    }
    ours
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

    fn merge(ours: &[(&str, &str)], changes: &[(&str, Option<&str>)]) -> Vec<String> {
        let own = |text: &str| OsString::from(text);
        let ours = ours.iter().map(|(key, value)| (own(key), own(value))).collect();
        let changes: Vec<_> = changes.iter().map(|(key, v)| (own(key), v.map(own))).collect();
        let merged = merged(ours, changes.iter().map(|(key, value)| (key, value.as_ref())));
        merged.iter().map(|(k, v)| format!("{}={}", k.display(), v.display())).collect()
    }

    #[test]
    fn variables_are_in_order_and_each_is_there_once() {
        assert_eq!(merge(&[("B", "1"), ("A", "2"), ("B", "3")], &[]), ["A=2", "B=1"]);
        assert_eq!(merge(&[], &[]), [""; 0]);
    }

    #[test]
    fn changes_add_replace_and_take_out() {
        let ours = [("C", "1"), ("B", "2"), ("A", "3")];
        let changes = [("B", Some("x")), ("C", None), ("AA", Some("")), ("Z", None)];
        assert_eq!(merge(&ours, &changes), ["A=3", "AA=", "B=x"]);
        // The last change counts.
        assert_eq!(merge(&[], &[("A", Some("1")), ("A", Some("2"))]), ["A=2"]);
    }

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
