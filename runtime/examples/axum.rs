//! An axum application, clustered: tokio in the workers, none of it in the master.
//!
//! `cargo run --release -p runtime --example axum -- 127.0.0.1:8080 4`
//!
//! The application is what it was. Two things are new: connections come from the worker's listener,
//! and the signal to stop from the worker.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use runtime::{Address, Cluster, Dispatch, ListenOptions, Listener, Peer, Stream, Worker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

/// How long to wait for descriptors when there are none left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address: Address = args.next().as_deref().unwrap_or("127.0.0.1:8080").parse()?;
    let workers = args.next().map_or(Ok(4), |text| text.parse())?;
    let cluster = Cluster::builder().workers(workers).on_event(|event| println!("{event}"));
    cluster.run(|worker| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(serve(worker, address))
    })?;
    Ok(())
}

async fn serve(worker: Worker, address: Address) -> io::Result<()> {
    let name = worker.id().to_string();
    // Where tokio waits, the kernel's rotation among workers that share a socket does not work.
    let options = ListenOptions::new().dispatch(Dispatch::Handoff);
    let listener = worker.listen_with(address, options)?;
    let connections = Connections { readable: readable(&listener)?, listener };
    let stop = readable(&worker)?;
    let hello = move || async move { format!("hello from worker {name}\n") };
    let app = Router::new().route("/", get(hello));
    axum::serve(connections, app)
        .with_graceful_shutdown(async move { drop(stop.readable().await) })
        .await
}

/// Tells when `source` is readable, by a duplicate of its descriptor.
#[allow(deprecated, reason = "what replaces it is unsafe; the duplicate outlives its registration")]
fn readable(source: impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(source.as_fd().try_clone_to_owned()?, Interest::READABLE)
}

/// The worker's listener, as axum wants it.
struct Connections {
    listener: Listener,
    readable: AsyncFd<OwnedFd>,
}

impl axum::serve::Listener for Connections {
    type Io = TcpStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (TcpStream, Peer) {
        loop {
            let accepted = self
                .readable
                .async_io(Interest::READABLE, |_| self.listener.accept())
                .await
                .map(|(connection, peer)| (connection.into_parts().0, peer));
            let error = match accepted {
                Ok((Stream::Tcp(stream), peer)) => match TcpStream::from_std(stream.into()) {
                    Ok(stream) => return (stream, peer),
                    Err(error) => error,
                },
                Ok((Stream::Unix(_), _)) => io::Error::other("this example serves TCP alone"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => error,
            };
            eprintln!("accept: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        match self.listener.local_address() {
            Address::Tcp(address) => Ok(Peer::Tcp(*address)),
            _ => Ok(Peer::Unix),
        }
    }
}
