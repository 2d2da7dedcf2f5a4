//! A connection to a vhost-user backend: one message at a time, each with its outcome.
//!
//! A backend may be silent for as long as it likes. So each wait for it is made in slices between which the caller's `Interrupt` is asked,
//! and under no lock: that question may run a user's code, which may come back here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::message::{self, CONFIGURE_MEM_SLOTS, Header, MAX_DESCRIPTORS, NEED_REPLY, PROTOCOL_FEATURES, REPLY_ACK};
use crate::clients::duplicate;
use crate::model::error::{Errno, Error, Interrupted, Result};
use crate::model::int::usize_of;
use crate::model::interrupt::Interrupt;
use crate::model::invalid::Invalid;
use crate::model::wait::{Deadline, Monitor, SLICE};
use crate::sys::errno::{self, EINTR, EIO, ETIMEDOUT};
use crate::sys::socket;

/// The longest wait for a backend that is being detached: it may be gone, and there may be nobody who could interrupt the wait.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The features that a backend offers, those in use, and how many regions it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Negotiated {
    pub(super) features: u64,
    pub(super) protocol_features: u64,
    pub(super) max_regions: usize,
}

impl Negotiated {
    pub(super) const fn has_memory_slots(self) -> bool {
        self.protocol_features & CONFIGURE_MEM_SLOTS != 0
    }
}

#[derive(Debug, Default)]
struct ConnectionState {
    /// The thread whose message is under way.
    speaker: Option<ThreadId>,
    /// Why nothing can be sent any more: a message was lost midway.
    broken: Option<String>,
}

/// A connection to a backend, and what was negotiated with it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: File,
    timeout: Duration,
    is_hurried: AtomicBool,
    state: Monitor<ConnectionState>,
    pub(super) negotiated: Negotiated,
}

impl Connection {
    /// Becomes the owner of a backend's session and negotiates what this needs, and what the caller wants besides.
    pub(super) fn new(socket: RawFd, timeout: Duration, wanted: u64, interrupt: &dyn Interrupt) -> Result<Self> {
        let mut connection = Self {
            socket: duplicate(socket)?,
            timeout,
            is_hurried: AtomicBool::new(false),
            state: Monitor::default(),
            negotiated: Negotiated { features: 0, protocol_features: 0, max_regions: MAX_DESCRIPTORS },
        };
        let negotiated = connection.begin(interrupt)?.negotiate(wanted | REPLY_ACK | CONFIGURE_MEM_SLOTS)?;
        connection.negotiated = negotiated;
        Ok(connection)
    }

    /// Waits until no other thread's message is under way, at most for the backend's time.
    pub(super) fn begin<'a>(&'a self, interrupt: &'a dyn Interrupt) -> Result<Conversation<'a>> {
        let thread = thread::current().id();
        // A signal handler that runs while this thread waits for the backend would wait for itself.
        if self.state.lock()?.speaker == Some(thread) {
            return Err(Error::Reentrant {
                message: "a message to the vhost-user backend from inside the wait for another one: send it later"
                    .into(),
            });
        }
        let deadline = Deadline::after(Some(self.patience()));
        match self.state.wait_until(deadline, interrupt, |state| state.speaker.is_some()) {
            Ok(Some(mut state)) => {
                state.speaker = Some(thread);
                Ok(Conversation { connection: self, interrupt })
            }
            Ok(None) => Err(refused("another message to the vhost-user backend is under way".into(), ETIMEDOUT)),
            Err(Error::Interrupted) => Err(refused("the wait for another message's end was interrupted".into(), EINTR)),
            Err(error) => Err(error),
        }
    }

    /// Whether all waits are to be short, also those under way.
    pub(super) fn hurry(&self, is_hurried: bool) {
        self.is_hurried.store(is_hurried, Ordering::Relaxed);
    }

    pub(super) fn is_broken(&self) -> Result<bool> {
        Ok(self.state.lock()?.broken.is_some())
    }

    /// The time that a backend has for each message.
    fn patience(&self) -> Duration {
        if self.is_hurried.load(Ordering::Relaxed) { self.timeout.min(LAST_PATIENCE) } else { self.timeout }
    }

    /// The wait until the next look at the interrupt; `None` when the backend's time is up.
    fn slice(&self, begun: Instant) -> Option<Duration> {
        let left = self.patience().saturating_sub(begun.elapsed());
        (!left.is_zero()).then(|| left.min(SLICE))
    }
}

/// The right to send, until it is dropped.
pub(super) struct Conversation<'a> {
    connection: &'a Connection,
    interrupt: &'a dyn Interrupt,
}

impl Drop for Conversation<'_> {
    fn drop(&mut self) {
        // Refused only in a forked child, where nobody waits to speak.
        let _ = self.connection.state.change(|state| state.speaker = None);
    }
}

impl Conversation<'_> {
    fn negotiate(&self, wanted: u64) -> Result<Negotiated> {
        self.transmit(message::SET_OWNER, 0, &[], &[])?;
        let features = self.ask_number(message::GET_FEATURES)?;
        // A table is one message, which has room for few descriptors.
        let mut negotiated = Negotiated { features, protocol_features: 0, max_regions: MAX_DESCRIPTORS };
        // A backend without protocol features knows none of the messages below.
        if features & PROTOCOL_FEATURES == 0 {
            return Ok(negotiated);
        }
        negotiated.protocol_features = self.ask_number(message::GET_PROTOCOL_FEATURES)? & wanted;
        self.transmit(message::SET_PROTOCOL_FEATURES, 0, &negotiated.protocol_features.to_le_bytes(), &[])?;
        // Memory slots are as many as the backend says.
        if negotiated.has_memory_slots() {
            negotiated.max_regions = usize_of(self.ask_number(message::GET_MAX_MEM_SLOTS)?);
        }
        Ok(negotiated)
    }

    /// Sends a message that has no reply of its own, and returns once the backend has taken it, or has refused.
    pub(super) fn report(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        if self.connection.negotiated.protocol_features & REPLY_ACK == 0 {
            // Messages are taken in order: the answer to a later question says that this one was taken.
            self.transmit(request, 0, payload, fds)?;
            return self.ask_number(message::GET_FEATURES).map(drop);
        }
        self.transmit(request, NEED_REPLY, payload, fds)?;
        match self.reply(request, message::number)? {
            0 => Ok(()),
            answer => {
                let message = format!("the vhost-user backend refused request {request}: it answered {answer}");
                Err(refused(message, EIO))
            }
        }
    }

    /// Sends a message that has a reply, and returns that.
    pub(super) fn ask(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Vec<u8>> {
        self.transmit(request, 0, payload, fds)?;
        self.reply(request, |reply| Ok(reply.to_vec()))
    }

    fn ask_number(&self, request: u32) -> Result<u64> {
        self.transmit(request, 0, &[], &[])?;
        self.reply(request, message::number)
    }

    fn transmit(&self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        if let Some(why) = &self.connection.state.lock()?.broken {
            return Err(refused(format!("the connection to the vhost-user backend is lost, detach it: {why}"), EIO));
        }
        // Nothing of a message that can't be sent may go: the connection stays whole.
        if fds.len() > MAX_DESCRIPTORS {
            let message = format!("a vhost-user message has room for {MAX_DESCRIPTORS} descriptors, not {}", fds.len());
            return Err(Invalid::argument(message).into());
        }
        let bytes = message::encode(request, flags, payload)?;
        self.send(&bytes, fds).map_err(|error| self.fail(request, &error))
    }

    fn reply<T>(&self, request: u32, read: impl FnOnce(&[u8]) -> io::Result<T>) -> Result<T> {
        let received = self.receive(request).and_then(|payload| read(&payload));
        received.map_err(|error| self.fail(request, &error))
    }

    fn send(&self, mut bytes: &[u8], mut fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let (begun, socket) = (Instant::now(), self.connection.socket.as_fd());
        while !bytes.is_empty() {
            let sent = self.step(begun, |limit| socket::send(socket, bytes, fds, false, limit))?;
            // They have gone with the first bytes.
            fds = &[];
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    fn receive(&self, request: u32) -> io::Result<Vec<u8>> {
        // One time for header and payload: a peer that sends a byte at a time gets no more of it.
        let (begun, mut header) = (Instant::now(), Header::default());
        self.fill(begun, header.as_flattened_mut())?;
        let mut payload = vec![0; message::reply_size(request, header)?];
        self.fill(begun, &mut payload)?;
        Ok(payload)
    }

    fn fill(&self, begun: Instant, mut buffer: &mut [u8]) -> io::Result<()> {
        let socket = self.connection.socket.as_fd();
        while !buffer.is_empty() {
            let received = self.step(begun, |limit| socket::receive(socket, buffer, limit))?;
            buffer = buffer.get_mut(received..).unwrap_or_default();
        }
        Ok(())
    }

    /// Tries a step until it is done, with a look at the interrupt before each new try.
    fn step<T>(&self, begun: Instant, mut step: impl FnMut(Duration) -> io::Result<Option<T>>) -> io::Result<T> {
        loop {
            let slice = self.connection.slice(begun);
            let slice = slice.ok_or_else(|| errno::refusal(ETIMEDOUT, "the other side does not answer"))?;
            if let Some(done) = step(slice)? {
                return Ok(done);
            }
            self.interrupt.check().map_err(|Interrupted| errno::refusal(EINTR, "the wait for it was interrupted"))?;
        }
    }

    /// A message lost midway leaves the two sides in different places: nothing more is sent.
    fn fail(&self, request: u32, error: &io::Error) -> Error {
        let message = match errno::of(error) {
            ETIMEDOUT => {
                let seconds = self.connection.patience().as_secs_f64();
                format!("the vhost-user backend did not answer request {request} within {seconds} s")
            }
            EINTR => format!("the wait for the vhost-user backend's answer to request {request} was interrupted"),
            _ => format!("the vhost-user backend did not take request {request}: {error}"),
        };
        if let Ok(mut state) = self.connection.state.lock() {
            state.broken = Some(message.clone());
        }
        Error::Backing { message, errno: Errno::from(error), region: None }
    }
}

const fn refused(message: String, errno: i32) -> Error {
    Error::Backing { message, errno: Errno::Refused(errno), region: None }
}
