//! What the tests share, beside `harness::tools`; above all small programs for children to be.

use std::io::{self, Read, Write};

use crate::harness::{Outcome, ROLE, roles};

roles! {
    exit,
    cat,
}

/// This binary, and the arguments that make it play a role.
pub(crate) fn role(name: &str, args: &[&str]) -> (&'static str, Vec<String>) {
    let args = [ROLE, name].into_iter().chain(args.iter().copied());
    ("/proc/self/exe", args.map(str::to_owned).collect())
}

/// Exits with the code that it is given.
#[allow(clippy::disallowed_methods, reason = "a role that ends by error has code 1")]
fn exit(args: &[String]) -> Outcome {
    std::process::exit(args[0].parse()?)
}

/// Writes what it reads, to the end.
fn cat(_args: &[String]) -> Outcome {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let count = io::stdin().read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        io::stdout().write_all(&bytes[..count])?;
        io::stdout().flush()?;
    }
}
