//! A connected socket of the caller's: waits that end, and errors that say where.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use super::record::{Answer, Block, Flaw, MOST_TEXT, SIZE};
use crate::image::part::fault;
use crate::model::error::{Errno, Error, ImageFault, Result};
use crate::model::format::hex;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::invalid::Invalid;
use crate::model::room::Room;
use crate::model::wait::{Deadline, SLICE};
use crate::sys::errno::{ECONNRESET, ETIMEDOUT};
use crate::sys::fork::{Forked, Process};
use crate::sys::poll::{self, Direction};
use crate::sys::socket::{self, SocketKind};

/// The most bytes that room is made for before they have come.
const STEP: usize = 1 << 20;

/// An error of a stream.
pub fn broken(kind: ImageFault, message: impl Into<String>, chunk: Option<u64>) -> Error {
    fault(Path::new("<stream>"), kind, message, chunk)
}

impl From<Flaw> for Error {
    fn from((kind, message): Flaw) -> Self {
        broken(kind, message, None)
    }
}

/// One side of a connection.
#[derive(Debug)]
pub struct Connection {
    socket: File,
    /// The process whose it is: a forked child that went on with it would speak in its parent's place.
    process: Process,
    /// The longest that the other side may be silent.
    timeout: Option<Duration>,
    verb: &'static str,
    /// The bytes that went through.
    moved: u64,
}

impl Connection {
    /// Uses a duplicate of a connected stream socket.
    pub fn new(socket: File, verb: &'static str, timeout: Option<Duration>) -> Result<Self> {
        let what = match socket::kind(socket.as_fd()) {
            Ok(SocketKind::Stream) => None,
            Ok(SocketKind::Listener) => Some("it waits for connections: give what accept() returns".into()),
            Ok(SocketKind::Packets) => Some("its bytes come in packets: give one of type SOCK_STREAM".into()),
            Err(error) => Some(format!("{error}: give a connected socket of type SOCK_STREAM")),
        };
        if let Some(why) = what {
            return Err(Invalid::argument(format!("{verb}: sock is not a stream: {why}")).into());
        }
        Ok(Self { socket, process: Process::current(), timeout, verb, moved: 0 })
    }

    /// The socket, refused in a forked child.
    fn socket(&self) -> Result<BorrowedFd<'_>, Forked> {
        if self.process.is_current() { Ok(self.socket.as_fd()) } else { Err(Forked) }
    }

    /// The bytes that went through.
    pub const fn moved(&self) -> u64 {
        self.moved
    }

    /// Sends some parts, one behind the other.
    pub(super) fn send(&mut self, mut parts: &mut [IoSlice<'_>], interrupt: &dyn Interrupt) -> Result<()> {
        let mut deadline = Deadline::after(self.timeout);
        while parts.iter().any(|part| !part.is_empty()) {
            // The receiver speaks only when it is done: with us, before we are.
            if self.is_readable()? {
                return Err(self.refusal(interrupt));
            }
            match socket::send_parts(self.socket()?, parts, SLICE) {
                Ok(Some(count)) => {
                    IoSlice::advance_slices(&mut parts, count);
                    self.moved = self.moved.saturating_add(u64_of(count));
                    deadline = Deadline::after(self.timeout);
                    interrupt.check()?;
                }
                Ok(None) => self.wait_on(deadline, interrupt)?,
                // It may have said why before it went.
                Err(_) if self.is_readable()? => return Err(self.refusal(interrupt)),
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(())
    }

    /// Fills a buffer.
    pub(super) fn receive(&mut self, buffer: &mut [u8], interrupt: &dyn Interrupt) -> Result<()> {
        let mut there = 0usize;
        let mut deadline = Deadline::after(self.timeout);
        while let Some(rest) = buffer.get_mut(there..).filter(|rest| !rest.is_empty()) {
            let received = socket::receive(self.socket()?, rest, SLICE);
            if let Some(count) = received.map_err(|error| self.failed(&error))? {
                there = there.saturating_add(count);
                self.moved = self.moved.saturating_add(u64_of(count));
                deadline = Deadline::after(self.timeout);
                interrupt.check()?;
            } else {
                self.wait_on(deadline, interrupt)?;
            }
        }
        Ok(())
    }

    /// The next block.
    pub(super) fn block(&mut self, interrupt: &dyn Interrupt) -> Result<Block> {
        let mut block = [0; SIZE];
        self.receive(&mut block, interrupt)?;
        Ok(block)
    }

    /// As many bytes, for which room is made as they come.
    pub(super) fn bytes(&mut self, size: u64, interrupt: &dyn Interrupt) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while u64_of(bytes.len()) < size {
            let there = bytes.len();
            bytes.fit(usize_of(size).min(there.saturating_add(STEP)))?;
            self.receive(bytes.get_mut(there..).unwrap_or_default(), interrupt)?;
        }
        Ok(bytes)
    }

    /// The receiver's answer.
    pub(super) fn answer(&mut self, interrupt: &dyn Interrupt) -> Result<Answer> {
        let answer = Answer::parse(&self.block(interrupt)?)?;
        if answer.is_published {
            return Ok(answer);
        }
        let why = self.bytes(answer.size, interrupt)?;
        let message = format!("the receiver refused it: {}", String::from_utf8_lossy(&why));
        Err(broken(ImageFault::Refused, message, None))
    }

    /// Answers, without a wait: who refuses may have a reason not to.
    pub(super) fn reply(&self, content: Option<[u8; 32]>, why: &str) {
        let most = usize_of(MOST_TEXT).min(why.len());
        let end = (0..=most).rev().find(|end| why.is_char_boundary(*end)).unwrap_or_default();
        let why = why.get(..end).unwrap_or_default();
        let answer =
            Answer { is_published: content.is_some(), size: u64_of(why.len()), content: content.unwrap_or_default() };
        let bytes = [&answer.encode(), why.as_bytes()].concat();
        // A sender that has gone, or that does not read, learns it by the end of the connection.
        let _ = self.socket().map(|socket| socket::send(socket, &bytes, &[], false, Duration::ZERO));
    }

    /// Ends the conversation, of which bytes may be missing: the other side hears of it.
    pub(super) fn shut(&self) {
        // Refused only where it has ended already, and in a forked child, whose parent goes on with it.
        let _ = self.socket().map(socket::shut);
    }

    fn is_readable(&self) -> Result<bool> {
        poll::wait_ready(self.socket()?, Direction::In, Duration::ZERO).map_err(|error| self.failed(&error))
    }

    /// The error of a receiver that has said something, or has gone.
    fn refusal(&mut self, interrupt: &dyn Interrupt) -> Error {
        match self.answer(interrupt) {
            Ok(_) => broken(ImageFault::Corrupt, "the receiver says that it has all, and it has not", None),
            Err(error) => error,
        }
    }

    fn wait_on(&self, deadline: Deadline, interrupt: &dyn Interrupt) -> Result<()> {
        interrupt.check_now()?;
        let seconds = self.timeout.unwrap_or_default().as_secs_f64();
        deadline.slice().map(drop).ok_or_else(|| {
            self.partial(&format!("the other side was silent for {seconds} s"), Errno::Refused(ETIMEDOUT))
        })
    }

    fn failed(&self, error: &io::Error) -> Error {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let message = "the other side closed the connection before the stream's end";
            return if self.verb == "receive" {
                broken(ImageFault::Corrupt, format!("{message}, after {} bytes", hex(self.moved)), None)
            } else {
                self.partial(message, Errno::Refused(ECONNRESET))
            };
        }
        self.partial(&error.to_string(), Errno::from(error))
    }

    fn partial(&self, why: &str, errno: Errno) -> Error {
        let message = format!("{}: {why}, after {} bytes", self.verb, hex(self.moved));
        Error::Partial { message, errno, done: self.moved, size: self.moved }
    }
}
