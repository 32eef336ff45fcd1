//! Command lines and environments as a process on Windows reads them, in UTF-16; pure.

use std::collections::BTreeMap;

/// The longest command line, without the NUL at its end.
pub(crate) const COMMAND_LINE_MAX: usize = 32_766;

const QUOTE: u16 = b'"' as u16;
const BACKSLASH: u16 = b'\\' as u16;

/// The line that a C runtime, or `CommandLineToArgvW`, takes apart into these arguments.
///
/// The first is read by rules of its own, by which it can't contain a quotation mark. What is
/// `verbatim` comes last, as it is: for programs with other rules, above all `cmd.exe`.
pub(crate) fn command_line(args: &[Vec<u16>], verbatim: Option<&[u16]>) -> Vec<u16> {
    let mut line = Vec::new();
    if let Some((name, args)) = args.split_first() {
        line.push(QUOTE);
        line.extend_from_slice(name);
        line.push(QUOTE);
        for arg in args {
            line.push(b' '.into());
            append_quoted(&mut line, arg);
        }
    }
    if let Some(verbatim) = verbatim {
        line.push(b' '.into());
        line.extend_from_slice(verbatim);
    }
    line
}

/// Backslashes stand for themselves, unless a quotation mark follows: then each takes another.
fn append_quoted(line: &mut Vec<u16>, arg: &[u16]) {
    let needs_quotes = |unit: &u16| b" \t\n\x0b\"".iter().any(|special| *unit == (*special).into());
    if !arg.is_empty() && !arg.iter().any(needs_quotes) {
        line.extend_from_slice(arg);
        return;
    }
    let mut backslashes = 0;
    line.push(QUOTE);
    for unit in arg {
        if *unit == QUOTE {
            line.extend(std::iter::repeat_n(BACKSLASH, backslashes + 1));
        }
        backslashes = if *unit == BACKSLASH { backslashes + 1 } else { 0 };
        line.push(*unit);
    }
    line.extend(std::iter::repeat_n(BACKSLASH, backslashes));
    line.push(QUOTE);
}

/// An environment with these changes, of which `None` takes out; in the order that the system
/// wants, each name once.
pub(crate) fn merged(
    ours: impl Iterator<Item = (Vec<u16>, Vec<u16>)>,
    changes: impl Iterator<Item = (Vec<u16>, Option<Vec<u16>>)>,
) -> Vec<(Vec<u16>, Vec<u16>)> {
    let mut variables = BTreeMap::new();
    for (name, value) in ours {
        variables.entry(upper_case(&name)).or_insert((name, value));
    }
    for (name, value) in changes {
        let key = upper_case(&name);
        match value {
            Some(value) => drop(variables.insert(key, (name, value))),
            None => drop(variables.remove(&key)),
        }
    }
    variables.into_values().collect()
}

/// The variables as a block. They are in the order that the system wants, and each is there once.
pub(crate) fn environment_block(variables: &[(Vec<u16>, Vec<u16>)]) -> Vec<u16> {
    let mut block = Vec::new();
    for (name, value) in variables {
        block.extend_from_slice(name);
        block.push(b'='.into());
        block.extend_from_slice(value);
        block.push(0);
    }
    if block.is_empty() {
        block.push(0);
    }
    block.push(0);
    block
}

/// The name as the system compares it: letters one by one, in no language.
pub(crate) fn upper_case(name: &[u16]) -> Vec<u16> {
    let upper = |unit: &u16| {
        let mut letters = char::from_u32((*unit).into()).map(char::to_uppercase)?;
        let letter = letters.next().filter(|_| letters.next().is_none())?;
        u16::try_from(u32::from(letter)).ok()
    };
    name.iter().map(|unit| upper(unit).unwrap_or(*unit)).collect()
}

/// Whether the system gives this file to `cmd.exe`, which reads arguments by other rules than any
/// program, so that they can't be passed to it safely (CVE-2024-24576).
pub(crate) fn is_batch_file(name: &str) -> bool {
    // The system ignores these at the end.
    let name = name.trim_end_matches([' ', '.']).to_ascii_lowercase();
    name.ends_with(".bat") || name.ends_with(".cmd")
}

/// The names that a file is tried by: with each of the extensions of programs, and first by its own
/// if it has one.
pub(crate) fn file_names(name: &str, extensions: &str) -> Vec<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let has_extension = last.trim_start_matches('.').contains('.');
    let with = extensions.split(';').filter(|extension| extension.starts_with('.'));
    let with = with.map(|extension| format!("{name}{extension}"));
    let mut names: Vec<String> = with.collect();
    names.insert(if has_extension { 0 } else { names.len() }, name.into());
    names
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn wide(text: &str) -> Vec<u16> {
        text.encode_utf16().collect()
    }

    fn line(args: &[&str]) -> String {
        let args: Vec<Vec<u16>> = args.iter().map(|arg| wide(arg)).collect();
        String::from_utf16(&command_line(&args, None)).expect("it was text")
    }

    /// As `CommandLineToArgvW` does it, by its description.
    fn parse(line: &[u16]) -> Vec<Vec<u16>> {
        let (mut args, mut rest) = (Vec::new(), line);
        let is_space = |unit: u16| unit == b' '.into() || unit == b'\t'.into();
        if let Some(quoted) = rest.strip_prefix(&[QUOTE]) {
            let end = quoted.iter().position(|unit| *unit == QUOTE).unwrap_or(quoted.len());
            args.push(quoted[..end].to_vec());
            rest = quoted.get(end + 1..).unwrap_or_default();
        }
        let (mut arg, mut is_quoted, mut backslashes) = (None, false, 0_usize);
        for unit in rest {
            if *unit == BACKSLASH {
                backslashes += 1;
                arg.get_or_insert_with(Vec::new).push(BACKSLASH);
            } else if *unit == QUOTE {
                let text = arg.get_or_insert_with(Vec::new);
                text.truncate(text.len() - backslashes.div_ceil(2));
                if backslashes % 2 == 1 {
                    text.push(QUOTE);
                } else {
                    is_quoted = !is_quoted;
                }
                backslashes = 0;
            } else {
                backslashes = 0;
                if is_space(*unit) && !is_quoted {
                    args.extend(arg.take());
                } else {
                    arg.get_or_insert_with(Vec::new).push(*unit);
                }
            }
        }
        args.extend(arg);
        args
    }

    /// What matters to one of the two, and other letters, halves of pairs too.
    fn unit() -> impl Strategy<Value = u16> {
        prop_oneof![
            3 => prop::sample::select(wide("\\\" \t\n")),
            1 => prop::sample::select(wide("ab'%^&|<>;é𝄞")),
            1 => 1..=u16::MAX,
        ]
    }

    proptest! {
        #[test]
        fn what_was_quoted_is_parsed_as_the_same_arguments(args in vec(vec(unit(), 0..12), 0..6)) {
            let name = wide(r"C:\Program Files\a\");
            let args: Vec<Vec<u16>> = [name].into_iter().chain(args).collect();
            prop_assert_eq!(parse(&command_line(&args, None)), args);
        }
    }

    #[test]
    fn arguments_are_quoted_only_where_they_must_be() {
        assert_eq!(line(&["a.exe", "b", r"c:\d\", "e=f"]), r#""a.exe" b c:\d\ e=f"#);
        assert_eq!(line(&["a", "", "b c", r"d e\"]), r#""a" "" "b c" "d e\\""#);
        assert_eq!(line(&["a", r#"b"c"#, r#"d\"e"#]), r#""a" "b\"c" "d\\\"e""#);
    }

    #[test]
    fn what_is_verbatim_comes_last_and_as_it_is() {
        let args = [wide("cmd.exe"), wide("/d"), wide("/s"), wide("/c")];
        let line = command_line(&args, Some(&wide(r#""echo "a" b""#)));
        assert_eq!(line, wide(r#""cmd.exe" /d /s /c "echo "a" b""#));
    }

    #[test]
    fn a_block_ends_with_two_zeros() {
        let variables =
            [("=C:", r"C:\x"), ("Path", "")].map(|(name, value)| (wide(name), wide(value)));
        assert_eq!(environment_block(&variables), wide("=C:=C:\\x\0Path=\0\0"));
        assert_eq!(environment_block(&[]), [0, 0]);
    }

    #[test]
    fn changes_replace_variables_however_they_are_written() {
        let both = |(name, value): (&str, &str)| (wide(name), wide(value));
        let ours = [("path", "1"), ("B", "2"), ("PATH", "3"), ("C", "4")].map(both);
        let changes = [("Path", Some("5")), ("c", None), ("a", Some("")), ("z", None)];
        let changes = changes.map(|(name, value)| (wide(name), value.map(wide)));
        let expected = [("a", ""), ("B", "2"), ("Path", "5")].map(both);
        assert_eq!(merged(ours.clone().into_iter(), changes.into_iter()), expected);
        let unchanged = [("B", "2"), ("C", "4"), ("path", "1")].map(both);
        assert_eq!(merged(ours.into_iter(), std::iter::empty()), unchanged);
    }

    #[test]
    fn names_are_compared_letter_by_letter_whatever_their_case() {
        assert_eq!(upper_case(&wide("pÄth_ß")), upper_case(&wide("PäTH_ß")));
        assert_ne!(upper_case(&wide("ß")), upper_case(&wide("ss")));
        assert_eq!(upper_case(&wide("𝄞x")), wide("𝄞X"));
    }

    #[test]
    fn f_cve_2024_24576_batch_files_are_known_however_they_are_written() {
        for name in ["a.bat", "A.BAT", "a.cmd", "a.bat.", "a.Cmd . .", r"C:\x\a.b.bat "] {
            assert!(is_batch_file(name), "{name}");
        }
        for name in ["a.exe", "bat", "a.bat.exe", "cmd", "a.cmd\\b"] {
            assert!(!is_batch_file(name), "{name}");
        }
    }

    #[test]
    fn a_name_is_tried_with_the_extensions_of_programs() {
        let names = |name| file_names(name, ".COM;.EXE;;junk");
        assert_eq!(names("a"), ["a.COM", "a.EXE", "a"]);
        assert_eq!(names(r"C:\x.y\a"), [r"C:\x.y\a.COM", r"C:\x.y\a.EXE", r"C:\x.y\a"]);
        assert_eq!(names("a.exe"), ["a.exe", "a.exe.COM", "a.exe.EXE"]);
        assert_eq!(names("./a"), ["./a.COM", "./a.EXE", "./a"]);
    }
}
