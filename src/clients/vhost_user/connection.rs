//! A connection to a vhost-user backend: one message at a time, each with its outcome.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use super::message::{self, CONFIGURE_MEM_SLOTS, Header, NEED_REPLY, PROTOCOL_FEATURES, REPLY_ACK};
use crate::model::error::{Errno, Error, Result};
use crate::model::int::usize_of;
use crate::model::invalid::Invalid;
use crate::sys::errno::{self, EIO, ETIMEDOUT};
use crate::sys::file;
use crate::sys::socket::{self, MAX_DESCRIPTORS};

/// A connection to a backend, and what was negotiated with it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: File,
    timeout: Duration,
    /// Why nothing can be sent any more: a message was lost midway.
    broken: Option<String>,
    pub(super) features: u64,
    pub(super) protocol_features: u64,
    pub(super) max_regions: usize,
}

impl Connection {
    /// Becomes the owner of a backend's session and negotiates what this needs, and what the caller wants besides.
    pub(super) fn new(socket: RawFd, timeout: Duration, wanted: u64) -> Result<Self> {
        let mut connection = Self {
            socket: duplicate(socket)?,
            timeout,
            broken: None,
            features: 0,
            protocol_features: 0,
            max_regions: MAX_DESCRIPTORS,
        };
        connection.negotiate(wanted | REPLY_ACK | CONFIGURE_MEM_SLOTS)?;
        Ok(connection)
    }

    fn negotiate(&mut self, wanted: u64) -> Result<()> {
        self.transmit(message::SET_OWNER, 0, &[], &[])?;
        self.features = self.ask_number(message::GET_FEATURES)?;
        // A backend without protocol features knows none of the messages below.
        if self.features & PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        let common = self.ask_number(message::GET_PROTOCOL_FEATURES)? & wanted;
        self.transmit(message::SET_PROTOCOL_FEATURES, 0, &common.to_le_bytes(), &[])?;
        self.protocol_features = common;
        // A table is one message, which has room for few descriptors; memory slots are as many as the backend says.
        if self.has_memory_slots() {
            self.max_regions = usize_of(self.ask_number(message::GET_MAX_MEM_SLOTS)?);
        }
        Ok(())
    }

    pub(super) const fn has_memory_slots(&self) -> bool {
        self.protocol_features & CONFIGURE_MEM_SLOTS != 0
    }

    pub(super) const fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Sends a message that has no reply of its own, and returns once the backend has taken it, or has refused.
    pub(super) fn report(&mut self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        if self.protocol_features & REPLY_ACK == 0 {
            // Messages are taken in order: the answer to a later question says that this one was taken.
            self.transmit(request, 0, payload, fds)?;
            return self.ask_number(message::GET_FEATURES).map(drop);
        }
        self.transmit(request, NEED_REPLY, payload, fds)?;
        match self.reply(request, message::number)? {
            0 => Ok(()),
            answer => Err(Error::Backing {
                message: format!("the vhost-user backend refused request {request}: it answered {answer}"),
                errno: Errno::Refused(EIO),
                region: None,
            }),
        }
    }

    /// Sends a message that has a reply, and returns that.
    pub(super) fn ask(&mut self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Vec<u8>> {
        self.transmit(request, 0, payload, fds)?;
        self.reply(request, |reply| Ok(reply.to_vec()))
    }

    fn ask_number(&mut self, request: u32) -> Result<u64> {
        self.transmit(request, 0, &[], &[])?;
        self.reply(request, message::number)
    }

    fn transmit(&mut self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        if let Some(why) = &self.broken {
            return Err(Error::Backing {
                message: format!("the connection to the vhost-user backend is lost, detach it: {why}"),
                errno: Errno::Refused(EIO),
                region: None,
            });
        }
        // Nothing of a message that can't be sent may go: the connection stays whole.
        if fds.len() > MAX_DESCRIPTORS {
            let message = format!("a vhost-user message has room for {MAX_DESCRIPTORS} descriptors, not {}", fds.len());
            return Err(Invalid::argument(message).into());
        }
        let bytes = message::encode(request, flags, payload)?;
        let sent = socket::send(self.socket.as_fd(), &bytes, fds, self.deadline());
        sent.map_err(|error| self.fail(request, &error))
    }

    fn reply<T>(&mut self, request: u32, read: impl FnOnce(&[u8]) -> io::Result<T>) -> Result<T> {
        let received = self.receive(request).and_then(|payload| read(&payload));
        received.map_err(|error| self.fail(request, &error))
    }

    fn receive(&self, request: u32) -> io::Result<Vec<u8>> {
        // One deadline for header and payload: a peer that sends a byte at a time gets no more time for it.
        let (deadline, mut header) = (self.deadline(), Header::default());
        socket::receive(self.socket.as_fd(), header.as_flattened_mut(), deadline)?;
        let mut payload = vec![0; message::reply_size(request, header)?];
        socket::receive(self.socket.as_fd(), &mut payload, deadline)?;
        Ok(payload)
    }

    /// A message lost midway leaves the two sides in different places: nothing more is sent.
    fn fail(&mut self, request: u32, error: &io::Error) -> Error {
        let message = match errno::of(error) {
            ETIMEDOUT => {
                let seconds = self.timeout.as_secs_f64();
                format!("the vhost-user backend did not answer request {request} within {seconds} s")
            }
            _ => format!("the vhost-user backend did not take request {request}: {error}"),
        };
        self.broken = Some(message.clone());
        Error::Backing { message, errno: Errno::from(error), region: None }
    }

    /// The end of the time that the backend has; `None` when the clock has no room for it.
    fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.timeout)
    }
}

/// A descriptor of our own for what the caller may close at any time.
pub(super) fn duplicate(fd: RawFd) -> Result<File> {
    file::duplicate(fd).map_err(|error| Error::Backing {
        message: format!("file descriptor {fd} can't be duplicated: {error}"),
        errno: Errno::from(&error),
        region: None,
    })
}
