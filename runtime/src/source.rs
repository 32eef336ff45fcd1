//! Event sources for mio that are no more than a descriptor.

/// Makes a type that is `AsFd` a `mio::event::Source` by its descriptor.
macro_rules! source_by_descriptor {
    ($(#[$attribute:meta])* $type:ident $(<$generic:ident>)?) => {
        $(#[$attribute])*
        impl$(<$generic>)? mio::event::Source for $type$(<$generic>)? {
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
