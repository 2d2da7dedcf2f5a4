//! The messages of vhost-user, one at a time.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::time::{Duration, Instant};

use crate::model::error::{Errno, Error, Result};
use crate::sys::file;
use crate::sys::socket::{self, MAX_DESCRIPTORS};

const EIO: i32 = 5;
/// A longer timeout makes no difference, and can't be added to a clock.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 0x3;
const IS_REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
/// A header is three words: request, flags, size of what follows.
const HEADER: usize = 12;
/// No reply of the protocol is longer.
const MAX_REPLY: usize = 0x1000;

const F_PROTOCOL_FEATURES: u64 = 1 << 30;
const F_REPLY_ACK: u64 = 1 << 3;
const F_CONFIGURE_MEM_SLOTS: u64 = 1 << 15;

/// The numbers of the messages that are sent here.
pub(super) struct Request;

impl Request {
    const GET_FEATURES: u32 = 1;
    const SET_OWNER: u32 = 3;
    pub(super) const SET_MEM_TABLE: u32 = 5;
    const GET_PROTOCOL_FEATURES: u32 = 15;
    const SET_PROTOCOL_FEATURES: u32 = 16;
    const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(super) const ADD_MEM_REG: u32 = 37;
    pub(super) const REM_MEM_REG: u32 = 38;
}

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
        let duplicate = file::duplicate(socket).map_err(|error| Error::Backing {
            message: format!("socket {socket} can't be duplicated: {error}"),
            errno: Errno::from(&error),
            region: None,
        })?;
        let (features, protocol_features, max_regions) = (0, 0, MAX_DESCRIPTORS);
        let timeout = timeout.min(FOR_EVER);
        let mut connection =
            Self { socket: duplicate, timeout, broken: None, features, protocol_features, max_regions };
        connection.negotiate(wanted | F_REPLY_ACK | F_CONFIGURE_MEM_SLOTS)?;
        Ok(connection)
    }

    fn negotiate(&mut self, wanted: u64) -> Result<()> {
        self.transmit(Request::SET_OWNER, 0, &[], &[])?;
        self.features = self.ask_number(Request::GET_FEATURES)?;
        if self.features & F_PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        let common = self.ask_number(Request::GET_PROTOCOL_FEATURES)? & wanted;
        self.transmit(Request::SET_PROTOCOL_FEATURES, 0, &common.to_le_bytes(), &[])?;
        self.protocol_features = common;
        if self.has_memory_slots() {
            self.max_regions = usize::try_from(self.ask_number(Request::GET_MAX_MEM_SLOTS)?).unwrap_or(usize::MAX);
        }
        Ok(())
    }

    pub(super) const fn has_memory_slots(&self) -> bool {
        self.protocol_features & F_CONFIGURE_MEM_SLOTS != 0
    }

    pub(super) const fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Sends a message that has no reply of its own, and returns once the backend has taken it, or has refused.
    pub(super) fn report(&mut self, request: u32, payload: &[u8], fds: &[RawFd]) -> Result<()> {
        if self.protocol_features & F_REPLY_ACK == 0 {
            self.transmit(request, 0, payload, fds)?;
            return self.ask_number(Request::GET_FEATURES).map(drop);
        }
        self.transmit(request, NEED_REPLY, payload, fds)?;
        match number(&self.reply(request)?) {
            Some(0) => Ok(()),
            refused => Err(Error::Backing {
                message: format!("the vhost-user backend refused request {request}: it answered {refused:?}"),
                errno: Errno::Refused(EIO),
                region: None,
            }),
        }
    }

    /// Sends a message that has a reply, and returns that.
    pub(super) fn ask(&mut self, request: u32, payload: &[u8], fds: &[RawFd]) -> Result<Vec<u8>> {
        self.transmit(request, 0, payload, fds)?;
        self.reply(request)
    }

    fn ask_number(&mut self, request: u32) -> Result<u64> {
        let reply = self.ask(request, &[], &[])?;
        number(&reply).ok_or_else(|| self.fail(request, &io::Error::other("the answer is not a 64-bit number")))
    }

    fn transmit(&mut self, request: u32, flags: u32, payload: &[u8], fds: &[RawFd]) -> Result<()> {
        if let Some(why) = &self.broken {
            return Err(Error::Backing {
                message: format!("the connection to the vhost-user backend is lost, detach it: {why}"),
                errno: Errno::Refused(EIO),
                region: None,
            });
        }
        let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut message: Vec<u8> = [request, VERSION | flags, size].into_iter().flat_map(u32::to_le_bytes).collect();
        message.extend_from_slice(payload);
        let sent = socket::send(self.socket.as_fd(), &message, fds, self.deadline());
        sent.map_err(|error| self.fail(request, &error))
    }

    fn reply(&mut self, request: u32) -> Result<Vec<u8>> {
        let received = self.receive(request);
        received.map_err(|error| self.fail(request, &error))
    }

    fn receive(&self, request: u32) -> io::Result<Vec<u8>> {
        let (deadline, mut header) = (self.deadline(), [0; HEADER]);
        socket::receive(self.socket.as_fd(), &mut header, deadline)?;
        let mut words = header.chunks_exact(4).filter_map(|word| Some(u32::from_le_bytes(word.try_into().ok()?)));
        let (answered, flags, size) =
            (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if answered != request || flags & (VERSION_MASK | IS_REPLY) != VERSION | IS_REPLY || size > MAX_REPLY {
            return Err(io::Error::other(format!(
                "it answered with message {answered}, flags {flags:#x}, {size} bytes"
            )));
        }
        let mut payload = vec![0; size];
        socket::receive(self.socket.as_fd(), &mut payload, deadline)?;
        Ok(payload)
    }

    /// A message lost midway leaves the two sides in different places: nothing more is sent.
    fn fail(&mut self, request: u32, error: &io::Error) -> Error {
        let message = format!("the vhost-user backend did not take request {request} in {:?}: {error}", self.timeout);
        self.broken = Some(message.clone());
        Error::Backing { message, errno: Errno::from(error), region: None }
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.timeout).unwrap_or(now)
    }
}

fn number(payload: &[u8]) -> Option<u64> {
    payload.try_into().ok().map(u64::from_le_bytes)
}
