//! `iceoryx2`, publish-subscribe, a service for each direction: polled, with payloads that are
//! copied in and out, or written and read where they are; and with its events to wake who waits.

use std::env;
use std::fs;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use iceoryx2::node::Node;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

use crate::contender::Result;
use crate::end::{End, spin};

/// Where the files of a connection are; the memory is elsewhere, with this for a prefix.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

/// Which end of a connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// That of the bench, which is made first.
    Bench,
    Peer,
}

/// Messages that are copied in and out.
#[derive(Debug)]
pub(crate) struct Copying {
    ports: Ports<u8, ()>,
    payload: Vec<u8>,
}

/// Messages that are left where they are: only a counter is written and read, in the user's part
/// of the header, since the payload could not be left as it is without `unsafe` otherwise.
#[derive(Debug)]
pub(crate) struct InPlace {
    ports: Ports<MaybeUninit<u64>, u64>,
    words: usize,
    counter: u64,
}

/// Messages that are copied in and out, and whose receiver sleeps.
#[derive(Debug)]
pub(crate) struct Event {
    copying: Copying,
    notifier: Notifier<ipc::Service>,
    listener: Listener<ipc::Service>,
}

#[derive(Debug)]
struct Ports<T: ZeroCopySend + std::fmt::Debug + 'static, H: ZeroCopySend + std::fmt::Debug> {
    publisher: Publisher<ipc::Service, [T], H>,
    subscriber: Subscriber<ipc::Service, [T], H>,
    node: Node<ipc::Service>,
}

impl Copying {
    pub(crate) fn new(folder: &Folder, side: Side, bytes: usize, queued: usize) -> Result<Copying> {
        Ok(Copying { ports: Ports::new(folder, side, bytes, queued)?, payload: vec![0; bytes] })
    }

    fn publish(&mut self) -> Result<()> {
        let sample = self.ports.publisher.loan_slice_uninit(self.payload.len())?;
        sample.write_from_slice(&self.payload).send()?;
        Ok(())
    }

    fn look(&mut self) -> Result<Option<()>> {
        Ok(self.ports.subscriber.receive()?.map(|sample| {
            self.payload.copy_from_slice(sample.payload());
        }))
    }
}

impl End for Copying {
    fn send(&mut self) -> Result<()> {
        self.publish()
    }

    fn receive(&mut self) -> Result<()> {
        spin(|| self.look())
    }
}

impl InPlace {
    pub(crate) fn new(folder: &Folder, side: Side, bytes: usize, queued: usize) -> Result<InPlace> {
        let words = bytes / size_of::<u64>();
        Ok(InPlace { ports: Ports::new(folder, side, words, queued)?, words, counter: 0 })
    }
}

impl End for InPlace {
    fn send(&mut self) -> Result<()> {
        let mut sample = self.ports.publisher.loan_slice_uninit(self.words)?;
        *sample.user_header_mut() = self.counter;
        sample.write_from_fn(|_| MaybeUninit::uninit()).send()?;
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let sample = spin(|| Ok(self.ports.subscriber.receive()?))?;
        self.counter = sample.user_header() + 1;
        Ok(())
    }
}

impl Event {
    pub(crate) fn new(folder: &Folder, side: Side, bytes: usize, queued: usize) -> Result<Event> {
        let copying = Copying::new(folder, side, bytes, queued)?;
        let event = |name: &str| -> Result<_> {
            let service = copying.ports.node.service_builder(&name.try_into()?);
            Ok(service.event().open_or_create()?)
        };
        let [sending, receiving] = side.names();
        let notifier = event(sending)?.notifier_builder().create()?;
        let listener = event(receiving)?.listener_builder().create()?;
        Ok(Event { copying, notifier, listener })
    }
}

impl End for Event {
    fn send(&mut self) -> Result<()> {
        self.copying.publish()?;
        self.notifier.notify()?;
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        loop {
            if self.listener.blocking_wait_one()?.is_some() && self.copying.look()?.is_some() {
                return Ok(());
            }
        }
    }
}

impl<T: ZeroCopySend + std::fmt::Debug, H: ZeroCopySend + std::fmt::Debug + Default> Ports<T, H> {
    /// Makes them for slices of that length, of which so many may wait.
    fn new(folder: &Folder, side: Side, length: usize, queued: usize) -> Result<Self> {
        let node = NodeBuilder::new()
            .config(&folder.config()?)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<ipc::Service>()?;
        let service = |name: &str| -> Result<_> {
            let service = node.service_builder(&name.try_into()?).publish_subscribe::<[T]>();
            let service = service
                .user_header::<H>()
                .enable_safe_overflow(false)
                .subscriber_max_buffer_size(queued);
            Ok(service.open_or_create()?)
        };
        let [sending, receiving] = side.names();
        let publisher = service(sending)?
            .publisher_builder()
            .initial_max_slice_len(length)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        let subscriber = service(receiving)?.subscriber_builder().create()?;
        Ok(Ports { publisher, subscriber, node })
    }
}

impl Side {
    /// Of the services for sending, and for receiving.
    fn names(self) -> [&'static str; 2] {
        match self {
            Side::Bench => ["there", "back"],
            Side::Peer => ["back", "there"],
        }
    }
}

impl Folder {
    pub(crate) fn new() -> Result<Folder> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("ring-bench-{}-{next}_", process::id()));
        fs::create_dir(&folder)?;
        Ok(Folder(folder))
    }

    pub(crate) fn open(path: &str) -> Folder {
        Folder(path.into())
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("the temporary folder's name is UTF-8")
    }

    /// Removes what iceoryx2 leaves when both ends of a connection are gone.
    pub(crate) fn remove(&self) -> Result<()> {
        let prefix = self.0.file_name().unwrap_or_default().as_encoded_bytes();
        for entry in fs::read_dir(MEMORY)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(prefix) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(fs::remove_dir_all(&self.0)?)
    }

    fn config(&self) -> Result<Config> {
        let mut config = Config::default();
        config.global.set_root_path(&Path::new(self.path().as_bytes())?);
        let prefix = self.0.file_name().unwrap_or_default();
        config.global.prefix = FileName::new(prefix.as_encoded_bytes())?;
        Ok(config)
    }
}

/// Where the system keeps named memory.
const MEMORY: &str = "/dev/shm";
