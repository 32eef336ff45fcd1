//! Event sources for mio that are no more than a descriptor.

/// Makes a type that is `AsFd` a `mio::event::Source` by its descriptor; or, of one that threads
/// share, the reference to it.
macro_rules! source_by_descriptor {
    ($(#[$attribute:meta])* $type:ident $(<$generic:ident>)?) => {
        source_by_descriptor!(@ $(#[$attribute])* [$(<$generic>)?] $type$(<$generic>)?);
    };
    ($(#[$attribute:meta])* &$type:ident) => {
        source_by_descriptor!(@ $(#[$attribute])* [] &$type);
    };
    (@ $(#[$attribute:meta])* [$($generics:tt)*] $type:ty) => {
        $(#[$attribute])*
        impl $($generics)* mio::event::Source for $type {
            fn register(
                &mut self,
                registry: &mio::Registry,
                token: mio::Token,
                interests: mio::Interest,
            ) -> std::io::Result<()> {
                let descriptor = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(self));
                mio::unix::SourceFd(&descriptor).register(registry, token, interests)
            }

            fn reregister(
                &mut self,
                registry: &mio::Registry,
                token: mio::Token,
                interests: mio::Interest,
            ) -> std::io::Result<()> {
                let descriptor = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(self));
                mio::unix::SourceFd(&descriptor).reregister(registry, token, interests)
            }

            fn deregister(&mut self, registry: &mio::Registry) -> std::io::Result<()> {
                let descriptor = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(self));
                mio::unix::SourceFd(&descriptor).deregister(registry)
            }
        }
    };
}
