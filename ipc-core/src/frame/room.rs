/// Where the next bytes of the stream go: to the head, then to the body's spare capacity, then to
/// the tail.
#[derive(Debug)]
pub struct Room<'a> {
    /// May be empty.
    pub head: &'a mut [u8],
    /// Bytes are appended to it, to the capacity that it has and not beyond.
    pub body: Option<&'a mut Vec<u8>>,
    /// May be empty.
    pub tail: &'a mut [u8],
}

impl Room<'_> {
    /// How many bytes find room.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        let body = self.body.as_ref().map_or(0, |body| body.capacity() - body.len());
        self.head.len() + body + self.tail.len()
    }

    /// Copies bytes there, as a read would put them; says how many found room.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let (head, rest) = bytes.split_at(bytes.len().min(self.head.len()));
        self.head[..head.len()].copy_from_slice(head);
        let body_room = self.body.as_ref().map_or(0, |body| body.capacity() - body.len());
        let (body, rest) = rest.split_at(rest.len().min(body_room));
        if let Some(place) = &mut self.body {
            place.extend_from_slice(body);
        }
        let tail = &rest[..rest.len().min(self.tail.len())];
        self.tail[..tail.len()].copy_from_slice(tail);
        head.len() + body.len() + tail.len()
    }
}
