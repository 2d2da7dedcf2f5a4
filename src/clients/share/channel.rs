//! One end of the socket between a leader and a follower: whole messages, and the end of the other side.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::record::{Record, shown};
use super::wire::{self, HEADER, Header, Kind, LONGEST, Packed};
use crate::model::error::Interrupted;
use crate::model::interrupt::{Interrupt, Uninterrupted};
use crate::model::wait::SLICE;
use crate::sys::errno::{self, EINTR, EIO, ETIMEDOUT};
use crate::sys::lock::Lock;
use crate::sys::message::{self, Credentials, Received};
use crate::sys::once::Once;
use crate::sys::poll::wait_any;
use crate::sys::process;
use crate::sys::socket::{self, SocketKind};

/// The time to hand a small message to the kernel.
const SENDING: Duration = Duration::from_secs(2);

/// A message that has come.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) header: Header,
    pub(super) records: Vec<Record>,
    pub(super) descriptors: Vec<File>,
    /// Whether this process had no room for all of its descriptors.
    pub(super) is_cut: bool,
    /// Its sender.
    pub(super) sender: Option<Credentials>,
}

impl Message {
    /// The text in it, as it may be shown.
    pub(super) fn text(&self) -> String {
        let text = |record: &Record| if let Record::Text(text) = record { Some(shown(text)) } else { None };
        self.records.iter().find_map(text).unwrap_or_else(|| shown(""))
    }
}

/// The message that is coming.
#[derive(Debug)]
struct Incoming {
    bytes: Box<[u8]>,
    filled: usize,
    beside: Received,
}

/// A connected socket that carries messages.
#[derive(Debug)]
pub(super) struct Channel {
    socket: File,
    kind: SocketKind,
    /// The most descriptors that a message may bring.
    most_descriptors: usize,
    incoming: Lock<Incoming>,
    /// Readable once the process of the other side has ended, which its children may survive with the socket open.
    peer: Once<OwnedFd>,
}

impl Channel {
    /// Takes over a connected socket, whose other side may send so many descriptors with a message.
    pub(super) fn new(socket: File, most_descriptors: usize) -> io::Result<Self> {
        let kind = socket::kind(socket.as_fd())?;
        socket::ask_for_senders(socket.as_fd(), true)?;
        let incoming = Incoming { bytes: vec![0; LONGEST].into(), filled: 0, beside: Received::default() };
        Ok(Self { socket, kind, most_descriptors, incoming: Lock::new(incoming), peer: Once::new() })
    }

    /// The other side has introduced itself: who sends the rest is not asked any more.
    pub(super) fn know_sender(&self) -> io::Result<()> {
        socket::ask_for_senders(self.socket(), false)
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Watches the process of the other side; an error when it is gone already.
    pub(super) fn watch(&self, pid: u32) -> io::Result<()> {
        self.peer.get_or_try_init(|| process::watch(pid)).map(drop)
    }

    pub(super) fn peer(&self) -> Option<BorrowedFd<'_>> {
        self.peer.get().map(AsFd::as_fd)
    }

    /// The next message, if all of it is there; an error when the other side has closed, or sends no message.
    pub(super) fn receive(&self) -> io::Result<Option<Message>> {
        let mut incoming = self.incoming.lock()?;
        loop {
            let wanted = match self.kind {
                SocketKind::Stream => incoming.wanted()?,
                _ => LONGEST,
            };
            let Incoming { bytes, filled, beside } = &mut *incoming;
            let room = bytes.get_mut(*filled..wanted).unwrap_or_default();
            let Some(received) = message::receive(self.socket(), room)? else { return Ok(None) };
            *filled = filled.saturating_add(received.count);
            beside.descriptors.extend(received.descriptors);
            // Kept until the message is whole, they would be missed here.
            if beside.descriptors.len() > self.most_descriptors {
                beside.descriptors.clear();
                return Err(errno::refusal(EIO, "the other side sends descriptors that nobody wants"));
            }
            beside.is_cut |= received.is_cut;
            beside.sender = received.sender.or(beside.sender);
            if self.kind != SocketKind::Stream || incoming.is_whole()? {
                return incoming.take().map(Some);
            }
        }
    }

    /// Sends a message with its descriptors, within a time.
    pub(super) fn send(
        &self,
        message: &Packed,
        descriptors: &[BorrowedFd<'_>],
        until: Instant,
        interrupt: &dyn Interrupt,
    ) -> io::Result<()> {
        let mut fds = descriptors.get(message.descriptors.clone()).unwrap_or_default();
        let mut bytes = message.bytes.as_slice();
        while !bytes.is_empty() {
            let limit = until.saturating_duration_since(Instant::now()).min(SLICE);
            let sent = socket::send(self.socket(), bytes, fds, message.is_introduced, limit)?;
            if let Some(sent) = sent {
                // They have gone with the first bytes.
                fds = &[];
                bytes = bytes.get(sent..).unwrap_or_default();
                continue;
            }
            interrupt.check().map_err(|Interrupted| errno::refusal(EINTR, "the wait for it was interrupted"))?;
            if Instant::now() >= until {
                return Err(errno::refusal(ETIMEDOUT, "the other side takes no message"));
            }
        }
        Ok(())
    }

    /// Sends a message without descriptors.
    pub(super) fn say(&self, kind: Kind, of: (u64, u64), records: &[Record], until: Instant) -> io::Result<()> {
        let messages = wire::pack(kind, of.0, of.1, records);
        messages.iter().try_for_each(|message| self.send(message, &[], until, &Uninterrupted))
    }

    /// The same to one who reads, or has room enough.
    pub(super) fn say_soon(&self, kind: Kind, of: (u64, u64), records: &[Record]) -> io::Result<()> {
        let now = Instant::now();
        self.say(kind, of, records, now.checked_add(SENDING).unwrap_or(now))
    }

    /// Waits at most `limit` for a message, or for other descriptors; an error when the other side is gone and has left no message.
    pub(super) fn wait(&self, others: &[BorrowedFd<'_>], limit: Duration) -> io::Result<Option<Message>> {
        let fds = [self.socket()].into_iter().chain(others.iter().copied()).chain(self.peer());
        let fds: Vec<BorrowedFd<'_>> = fds.collect();
        let ready = wait_any(&fds, limit)?;
        let has_come = ready.first() == Some(&true);
        let is_gone = self.peer().is_some() && ready.last() == Some(&true);
        if !has_come && !is_gone {
            return Ok(None);
        }
        match self.receive()? {
            // Looked at last: what it sent before its end counts.
            None if is_gone && !has_come => Err(errno::refusal(EIO, "its process has ended")),
            message => Ok(message),
        }
    }
}

impl Incoming {
    /// The bytes to read up to: a header, and then the rest that it tells of.
    fn wanted(&self) -> io::Result<usize> {
        if self.filled < HEADER { Ok(HEADER) } else { self.header().map(|header| header.length) }
    }

    fn header(&self) -> io::Result<Header> {
        Header::read(self.bytes.get(..self.filled).unwrap_or_default()).map_err(io::Error::other)
    }

    fn is_whole(&self) -> io::Result<bool> {
        Ok(self.filled >= HEADER && self.filled == self.header()?.length)
    }

    fn take(&mut self) -> io::Result<Message> {
        let filled = std::mem::take(&mut self.filled);
        let Received { descriptors, is_cut, sender, .. } = std::mem::take(&mut self.beside);
        let (header, records) = wire::read(self.bytes.get(..filled).unwrap_or_default()).map_err(io::Error::other)?;
        Ok(Message { header, records, descriptors, is_cut, sender })
    }
}
