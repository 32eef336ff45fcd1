//! Fuzz bodies: each takes arbitrary bytes and panics on a finding. `cargo fuzz run NAME` feeds
//! them with a fuzzer, `cargo test -p fuzz` with the committed corpus.
#![forbid(unsafe_code)]

mod capture;
mod control;
#[cfg(test)]
mod corpus;
mod frame;
mod handles;
mod inbox;
mod life;
mod machine;
mod policy;
mod post;
mod protocol;
mod ring;
mod segment;
mod token;

pub use capture::capture;
pub use control::control;
pub use frame::frame;
pub use handles::handles;
pub use inbox::inbox;
pub use life::life;
pub use machine::machine;
pub use policy::policy;
pub use post::post;
pub use protocol::protocol;
pub use ring::ring;
pub use segment::segment;
pub use token::token;

/// Runs a body on every file that the command line names: replays a finding without a fuzzer.
///
/// # Errors
///
/// When a file can't be read; the error names it.
pub fn replay(body: fn(&[u8])) -> std::io::Result<()> {
    for path in std::env::args_os().skip(1) {
        let data = std::fs::read(&path)
            .map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        body(&data);
        println!("{}: ok", path.display());
    }
    Ok(())
}
