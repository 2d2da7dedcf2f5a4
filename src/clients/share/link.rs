//! The leader's side of one follower.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::channel::{Channel, Message};
use super::record::Record;
use super::wire::Kind;
use crate::model::error::{Errno, Error, LeaseInfo, Result};
use crate::model::interrupt::Interrupt;
use crate::model::wait::SLICE;
use crate::sys::fork::Forked;
use crate::sys::lock::Lock;
use crate::sys::message::Credentials;
use crate::sys::poll::wait_any;
use crate::sys::sync::{AtomicBool, AtomicU64, Ordering};

/// The most messages that are taken notice of between two looks at the time and at Ctrl-C.
const MOST_AT_ONCE: usize = 16;

/// A follower as its leader knows it.
#[derive(Clone, Debug)]
pub struct FollowerInfo {
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// The generation that it has.
    pub generation: u64,
    /// Whether it can write to the memory.
    pub is_writable: bool,
    /// The leases of which it has told when it vetoed a change, and that it has not told the end of.
    pub leases: Vec<LeaseInfo>,
}

/// A follower, and the connection to it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) channel: Channel,
    pub(super) number: u64,
    pub(super) peer: Credentials,
    pub(super) is_writable: bool,
    generation: AtomicU64,
    /// By the number of the region.
    leases: Lock<Vec<(u64, LeaseInfo)>>,
    /// Nothing more is sent or awaited.
    is_cut: AtomicBool,
}

/// The answer of a follower, or that there will be none.
#[derive(Debug)]
pub(super) enum Answer {
    /// Yes.
    Agreed,
    /// It can't, for these leases on a region, or for what it says.
    Vetoed(Vec<(u64, LeaseInfo)>, String),
    /// It has gone.
    Gone,
}

impl Link {
    pub(super) fn new(channel: Channel, number: u64, peer: Credentials, is_writable: bool) -> Self {
        let (generation, leases, is_cut) = (AtomicU64::new(0), Lock::default(), AtomicBool::new(false));
        Self { channel, number, peer, is_writable, generation, leases, is_cut }
    }

    pub(super) fn info(&self) -> Result<FollowerInfo, Forked> {
        let leases = self.leases.lock()?.iter().map(|(_, lease)| *lease).collect();
        let generation = self.generation.load(Ordering::Acquire);
        Ok(FollowerInfo { pid: self.peer.pid, uid: self.peer.uid, generation, is_writable: self.is_writable, leases })
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
    }

    pub(super) fn has_reached(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(self.channel.socket()), self.channel.peer()].into_iter().flatten()
    }

    /// Waits for the answer to a question of a proposal; `None` when there is none in time.
    pub(super) fn wait_answer(
        &self,
        wanted: Kind,
        sequence: u64,
        until: Instant,
        interrupt: &dyn Interrupt,
    ) -> Result<Option<Answer>> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let fds: Vec<BorrowedFd<'_>> = self.descriptors().collect();
            let ready = wait_any(&fds, left.min(SLICE)).map_err(|error| failed(&error))?;
            let answer = self.answer(wanted, sequence, ready.get(1) == Some(&true))?;
            // Looked for once more when the time is up: it may have come while others were waited for.
            if answer.is_some() || left.is_zero() {
                return Ok(answer);
            }
            interrupt.check()?;
        }
    }

    /// The answer to a question of a proposal, if it has come; what else has come is noted, of a follower that never stops so much at once.
    fn answer(&self, wanted: Kind, sequence: u64, is_gone: bool) -> Result<Option<Answer>, Forked> {
        for _ in 0..MOST_AT_ONCE {
            let message = match self.channel.receive() {
                Ok(Some(message)) => message,
                Ok(None) if !is_gone && !self.is_cut() => return Ok(None),
                Ok(None) | Err(_) => {
                    self.cut();
                    return Ok(Some(Answer::Gone));
                }
            };
            match message.header.kind {
                Kind::Bye => self.cut(),
                Kind::Released => self.note_release(&message)?,
                // An answer to an older question, which was given up.
                _ if message.header.sequence != sequence => {}
                kind if kind == wanted => return Ok(Some(Answer::Agreed)),
                Kind::Veto => {
                    let leases = self.leases_of(&message);
                    let mut noted = self.leases.lock()?;
                    noted.retain(|(region, _)| !leases.iter().any(|(other, _)| other == region));
                    noted.extend(leases.iter().copied());
                    return Ok(Some(Answer::Vetoed(leases, message.text())));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Takes notice of what comes while nothing is asked; `true` when a region was let go.
    pub(super) fn listen(&self, is_gone: bool) -> Result<bool, Forked> {
        let before = self.leases.lock()?.len();
        // No question has this number: all answers are late ones.
        let answer = self.answer(Kind::Released, u64::MAX, is_gone)?;
        Ok(answer.is_some() || self.leases.lock()?.len() < before)
    }

    fn note_release(&self, message: &Message) -> Result<(), Forked> {
        let is_free = |region: u64| message.records.contains(&Record::Region(region));
        self.leases.lock()?.retain(|(region, _)| !is_free(*region));
        Ok(())
    }

    fn leases_of(&self, message: &Message) -> Vec<(u64, LeaseInfo)> {
        let lease = |record: &Record| match record {
            Record::Lease(region, lease) => Some((*region, LeaseInfo { pid: Some(self.peer.pid), ..*lease })),
            _ => None,
        };
        message.records.iter().filter_map(lease).collect()
    }

    /// Tells it something, and counts it as gone where that fails.
    pub(super) fn tell(&self, kind: Kind, of: (u64, u64), until: Instant) -> io::Result<()> {
        self.channel.say(kind, of, &[], until).inspect_err(|_| self.cut())
    }
}

/// An error of the kernel's that no follower is to blame for.
pub(super) fn failed(error: &io::Error) -> Error {
    let message = format!("the conversation with the followers failed: {error}");
    Error::Backing { message, errno: Errno::from(error), region: None }
}
