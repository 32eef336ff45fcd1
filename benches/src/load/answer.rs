//! Reads one HTTP/1 answer whole, from anything that reads.

use std::fmt;
use std::io::{self, Read};

use super::report::Worker;

/// What matters of an answer, after its last byte was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) worker: Option<Worker>,
    pub(super) end: End,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It takes another request.
    Open,
    /// The server announced that it closes it.
    Closing,
    /// The server has closed it: that was the end of the answer.
    Closed,
}

#[derive(Debug)]
pub(super) enum AnswerError {
    /// The server closed the connection before the answer was complete.
    Eof,
    /// Not HTTP, or more than we understand.
    Malformed(&'static str),
    Io(io::Error),
}

/// Received bytes that are not yet understood.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; HEAD_BYTES_MAX].into(), start: 0, end: 0 }
    }

    /// Forgets what the last connection left.
    pub(super) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    pub(super) fn read_answer(&mut self, source: &mut impl Read) -> Result<Answer, AnswerError> {
        let head = loop {
            let head = self.read_head(source)?;
            // An interim answer, such as 100 Continue, comes before the final one.
            if head.status >= 200 {
                break head;
            }
        };
        let mut end = if head.close { End::Closing } else { End::Open };
        match head.body {
            Body::Bytes(count) => self.skip(count, source)?,
            Body::Chunks => self.skip_chunks(source)?,
            Body::ToEnd => {
                self.skip_to_end(source)?;
                end = End::Closed;
            }
        }
        if self.start < self.end {
            return Err(AnswerError::Malformed("bytes after the answer"));
        }
        Ok(Answer { status: head.status, worker: head.worker, end })
    }

    fn read_head(&mut self, source: &mut impl Read) -> Result<Head, AnswerError> {
        loop {
            if let Some((head, length)) = Head::parse(&self.bytes[self.start..self.end])? {
                self.start += length;
                return Ok(head);
            }
            self.fill(source)?;
        }
    }

    fn skip(&mut self, mut count: u64, source: &mut impl Read) -> Result<(), AnswerError> {
        loop {
            let available = self.end - self.start;
            let taken = usize::try_from(count).map_or(available, |count| available.min(count));
            self.start += taken;
            count -= taken as u64;
            if count == 0 {
                return Ok(());
            }
            self.fill(source)?;
        }
    }

    fn skip_to_end(&mut self, source: &mut impl Read) -> Result<(), AnswerError> {
        loop {
            self.start = self.end;
            match self.fill(source) {
                Ok(()) => {}
                Err(AnswerError::Eof) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn skip_chunks(&mut self, source: &mut impl Read) -> Result<(), AnswerError> {
        loop {
            let size = loop {
                match httparse::parse_chunk_size(&self.bytes[self.start..self.end]) {
                    Ok(httparse::Status::Complete((length, size))) => {
                        self.start += length;
                        break size;
                    }
                    Ok(httparse::Status::Partial) => self.fill(source)?,
                    Err(_) => return Err(AnswerError::Malformed("size of a chunk")),
                }
            };
            if size == 0 {
                break;
            }
            self.skip(size, source)?;
            if self.take_line(source)? != 0 {
                return Err(AnswerError::Malformed("a chunk longer than its size"));
            }
        }
        while self.take_line(source)? > 0 {} // Trailers.
        Ok(())
    }

    /// Takes a line out of the buffer; returns its length without the end of line.
    fn take_line(&mut self, source: &mut impl Read) -> Result<usize, AnswerError> {
        loop {
            let bytes = &self.bytes[self.start..self.end];
            if let Some(length) = bytes.windows(2).position(|pair| pair == b"\r\n") {
                self.start += length + 2;
                return Ok(length);
            }
            self.fill(source)?;
        }
    }

    /// Reads more bytes, at least one.
    fn fill(&mut self, source: &mut impl Read) -> Result<(), AnswerError> {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.bytes.len() {
            return Err(AnswerError::Malformed("a line or head longer than 16 KiB"));
        }
        loop {
            match source.read(&mut self.bytes[self.end..]) {
                Ok(0) => return Err(AnswerError::Eof),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(AnswerError::Io(error)),
            }
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("pending", &(self.end - self.start)).finish()
    }
}

struct Head {
    status: u16,
    worker: Option<Worker>,
    close: bool,
    body: Body,
}

/// How the end of the body is told.
enum Body {
    Bytes(u64),
    Chunks,
    ToEnd,
}

impl Head {
    /// The head and its length, or `None` when it is not complete.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, AnswerError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(AnswerError::Malformed("more than 64 headers"));
            }
            Err(_) => return Err(AnswerError::Malformed("not an HTTP answer")),
        };
        let status = response.code.unwrap_or_default();
        // In HTTP/1.0 a connection is closed unless the server says otherwise.
        let mut close = response.version == Some(0);
        let mut worker = None;
        let mut body = Body::ToEnd;
        for header in response.headers {
            let value = header.value.trim_ascii();
            if header.name.eq_ignore_ascii_case("content-length") {
                // Chunks override a length, wherever it stands.
                if !matches!(body, Body::Chunks) {
                    body = Body::Bytes(number(value).ok_or(BAD_LENGTH)?);
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(AnswerError::Malformed("a transfer-encoding other than chunked"));
                }
                body = Body::Chunks;
            } else if header.name.eq_ignore_ascii_case("connection") {
                close = !value.eq_ignore_ascii_case(b"keep-alive")
                    && (close || value.eq_ignore_ascii_case(b"close"));
            } else if header.name.eq_ignore_ascii_case("x-worker") {
                worker = std::str::from_utf8(value).ok().and_then(Worker::parse);
            }
        }
        if status < 200 || status == 204 || status == 304 {
            body = Body::Bytes(0);
        }
        Ok(Some((Self { status, worker, close, body }, length)))
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    // `parse` would take a sign too.
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The buffer's size, and so the most bytes of a head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
const BAD_LENGTH: AnswerError = AnswerError::Malformed("content-length is not a number");

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives at most `step` bytes per call.
    struct Steps<'a> {
        bytes: &'a [u8],
        step: usize,
    }

    impl Read for Steps<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.step.min(buffer.len()).min(self.bytes.len());
            self.bytes.split_at(count).0.read(&mut buffer[..count])?;
            self.bytes = &self.bytes[count..];
            Ok(count)
        }
    }

    fn read(text: &str, step: usize) -> Result<Answer, String> {
        let mut source = Steps { bytes: text.as_bytes(), step };
        Buffer::new().read_answer(&mut source).map_err(|error| match error {
            AnswerError::Eof => "eof".into(),
            AnswerError::Malformed(what) => what.into(),
            AnswerError::Io(error) => error.to_string(),
        })
    }

    /// The same however the bytes are cut.
    fn read_all(text: &str) -> Result<Answer, String> {
        let whole = read(text, usize::MAX);
        for step in [1, 2, 7] {
            assert_eq!(read(text, step), whole, "{step} at a time of {text:?}");
        }
        whole
    }

    fn answer(status: u16, end: End) -> Answer {
        Answer { status, worker: None, end }
    }

    #[test]
    fn a_body_of_a_given_length_is_read_whole() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Worker: 3.12\r\n\r\nhello";
        let worker = Some(Worker { slot: 3, generation: 12 });
        assert_eq!(read_all(text), Ok(Answer { status: 200, worker, end: End::Open }));
    }

    #[test]
    fn every_shorter_answer_is_an_early_end() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        for length in 0..text.len() {
            assert_eq!(read(&text[..length], usize::MAX), Err("eof".into()), "{length} bytes");
        }
        let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(read(&text[..length], usize::MAX), Err("eof".into()), "{length} bytes");
        }
    }

    #[test]
    fn chunks_and_trailers_are_read_whole() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n\
                    5;ext=1\r\nhello\r\nA\r\n0123456789\r\n0\r\ntrailer: x\r\n\r\n";
        assert_eq!(read_all(text), Ok(answer(200, End::Open)));
    }

    #[test]
    fn without_a_length_the_end_of_the_connection_is_the_end_of_the_body() {
        assert_eq!(read_all("HTTP/1.0 200 OK\r\n\r\nhello"), Ok(answer(200, End::Closed)));
        assert_eq!(read_all("HTTP/1.1 404 No\r\n\r\n"), Ok(answer(404, End::Closed)));
    }

    #[test]
    fn the_server_says_whether_it_closes() {
        let end = |line: &str, header: &str| {
            read_all(&format!("{line}\r\ncontent-length: 0\r\n{header}\r\n")).unwrap().end
        };
        assert_eq!(end("HTTP/1.1 200 OK", ""), End::Open);
        assert_eq!(end("HTTP/1.1 200 OK", "Connection: Close\r\n"), End::Closing);
        assert_eq!(end("HTTP/1.0 200 OK", ""), End::Closing);
        assert_eq!(end("HTTP/1.0 200 OK", "connection: keep-alive\r\n"), End::Open);
    }

    #[test]
    fn interim_answers_are_passed_over_and_some_statuses_have_no_body() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(read_all(text), Ok(answer(204, End::Open)));
    }

    #[test]
    fn a_body_may_be_longer_than_the_buffer_but_a_head_may_not() {
        let body = "x".repeat(100_000);
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{body}");
        assert_eq!(read(&text, 5000), Ok(answer(200, End::Open)));
        let text = format!("HTTP/1.1 200 OK\r\nx: {body}\r\n\r\n");
        assert_eq!(read(&text, 5000), Err("a line or head longer than 16 KiB".into()));
    }

    #[test]
    fn what_is_not_understood_is_malformed() {
        let head = "HTTP/1.1 200 OK\r\n";
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
        let cases = [
            ("SSH-2.0-OpenSSH\r\n".to_owned(), "not an HTTP answer"),
            (format!("{head}content-length: +1\r\n\r\nx"), "content-length is not a number"),
            (format!("{head}content-length: \r\n\r\n"), "content-length is not a number"),
            (
                format!("{head}transfer-encoding: gzip\r\n\r\n"),
                "a transfer-encoding other than chunked",
            ),
            (format!("{chunked}zz\r\n"), "size of a chunk"),
            (format!("{chunked}1\r\nab\r\n"), "a chunk longer than its size"),
            (format!("{head}{}\r\n", "a: b\r\n".repeat(65)), "more than 64 headers"),
        ];
        for (text, reason) in cases {
            assert_eq!(read_all(&text), Err(reason.to_owned()), "{text:?}");
        }
        let text = format!("{head}content-length: 1\r\n\r\nxy");
        assert_eq!(read(&text, usize::MAX), Err("bytes after the answer".into()));
    }

    #[test]
    fn a_worker_is_a_slot_and_a_generation() {
        let worker = |value| {
            read_all(&format!("HTTP/1.1 200 OK\r\ncontent-length:0\r\nx-worker: {value}\r\n\r\n"))
                .unwrap()
                .worker
        };
        assert_eq!(worker("0.1"), Some(Worker { slot: 0, generation: 1 }));
        for value in ["", "1", "1.", ".1", "1.2.3", "a.b", "-1.2", "4294967296.0"] {
            assert_eq!(worker(value), None, "{value}");
        }
    }
}
