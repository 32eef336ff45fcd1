use handle_passing::HANDLES_MAX;

/// How much one channel may hold, in each direction.
///
/// The limits on a message count both ways: what is over them is neither sent nor received. The
/// limits on a queue count for what waits to be sent; received messages are not queued, because
/// nothing is read from the socket while a complete message waits.
///
/// # Examples
///
/// ```
/// use ipc_core::Limits;
///
/// // A control channel: small messages, one handle at most.
/// let limits = Limits {
///     payload_bytes_max: 64 * 1024,
///     handles_per_message_max: 1,
///     ..Limits::default()
/// };
/// assert_eq!(limits.queued_messages_max, 1024);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest payload of one message, in bytes. Default: 1 MiB. At most `u32::MAX`.
    pub payload_bytes_max: usize,
    /// Most handles in one message. Default, and most that is possible: 253, what Linux takes in
    /// one `sendmsg(2)`.
    pub handles_per_message_max: usize,
    /// Most bytes that wait to be sent, headers included. Default: 4 MiB.
    pub queued_bytes_max: usize,
    /// Most messages that wait to be sent, the one that is partly sent included. Default: 1024.
    pub queued_messages_max: usize,
    /// Most handles that wait to be sent; each is an open descriptor of this process.
    /// Default: 506, two messages full of them.
    pub queued_handles_max: usize,
}

impl Limits {
    /// The limit on a message's handles that counts: the user's, or the system's if it is lower.
    pub(crate) fn handles_per_message(&self) -> usize {
        self.handles_per_message_max.min(HANDLES_MAX)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: 1024 * 1024,
            handles_per_message_max: HANDLES_MAX,
            queued_bytes_max: 4 * 1024 * 1024,
            queued_messages_max: 1024,
            queued_handles_max: 2 * HANDLES_MAX,
        }
    }
}
