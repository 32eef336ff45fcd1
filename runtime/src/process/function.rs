use std::error::Error;
use std::ffi::OsString;
use std::io;

use super::command::Command;
use super::parent::{BOOTSTRAP, FUNCTION_VARIABLE, Parent};
use crate::sys;

/// What a function of this program that is run in a process of its own gets, and gives: the exit
/// code of its process.
pub type Run = fn(Parent, Vec<OsString>) -> Result<u8, Box<dyn Error + Send + Sync>>;

/// With which code a process ends that can't run the function that it was started for.
const REFUSED: i32 = 2;

/// A function of this program that can be run in a process of its own.
///
/// It gets the channel to the process that has started it, and arguments. What it returns is the
/// exit code; an error is printed to standard error, and the code is 1.
///
/// ```no_run
/// use std::error::Error;
/// use std::ffi::OsString;
/// use runtime::process::{self, Function, Parent};
///
/// const RESIZE: Function = Function::new("resize", resize);
///
/// fn resize(
///     mut parent: Parent,
///     _args: Vec<OsString>,
/// ) -> Result<u8, Box<dyn Error + Send + Sync>> {
///     while let Ok(image) = parent.recv() {
///         parent.send(format!("{} bytes are plenty", image.bytes.len()))?;
///     }
///     Ok(0)
/// }
///
/// fn main() -> Result<(), Box<dyn Error>> {
///     process::run_functions(&[RESIZE]);
///     let mut child = RESIZE.command().fork()?;
///     child.send("an image")?;
///     println!("{:?}", child.recv()?);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Function {
    name: &'static str,
    run: Run,
}

impl Function {
    /// A function under a name, which no other of this program's functions has.
    #[must_use]
    pub const fn new(name: &'static str, run: Run) -> Function {
        Function { name, run }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A command that runs it in a new process, when it is started by
    /// [`fork`](Command::fork): this very program, also when its file was replaced or removed since
    /// (on Linux).
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(sys::this_program());
        if let Some(name) = std::env::args_os().next() {
            command.arg0(name);
        }
        command.function = Some(self.name);
        command
    }
}

/// Runs the function that this process was started for, and ends with its exit code; returns in
/// any other process. Call it first in `main`, with all functions that [`Function::command`] is
/// used on.
///
/// Only a process that was given a channel with it runs a function, whatever its environment says.
/// One that was started for a function that is not here says so and ends with code 2, and so does
/// one without a channel.
pub fn run_functions(functions: &[Function]) {
    let Some(name) = std::env::var_os(FUNCTION_VARIABLE) else { return };
    let function = functions.iter().find(|function| *function.name == *name);
    let refusal = match (BOOTSTRAP.take(), function) {
        (Ok(Some(channel)), Some(function)) => exit(function.run(Parent::new(channel))),
        // It was inherited from a process that was started for a function.
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => return,
        (Err(error), _) => error.to_string(),
        (Ok(None), _) => "only a process that was started for it, with a channel, runs it".into(),
        (Ok(Some(_)), None) => {
            let names: Vec<_> = functions.iter().map(Function::name).collect();
            format!("this program has no such function, only these: {}", names.join(", "))
        }
    };
    eprintln!("{FUNCTION_VARIABLE}={}: {refusal}", name.display());
    exit(REFUSED)
}

impl Function {
    fn run(&self, parent: Parent) -> i32 {
        match (self.run)(parent, std::env::args_os().skip(1).collect()) {
            Ok(code) => code.into(),
            Err(error) => {
                eprintln!("{}, process {}: {error}", self.name, std::process::id());
                1
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the rest of `main` is not for this process")]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}
