//! The leader's word, for which a follower waits with a change that is prepared: the last client that is asked.

use std::sync::Arc;

use super::channel::Channel;
use super::wire::Kind;
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::wait::SLICE;
use crate::space::client::Client;
use crate::space::proposal::Proposal;
use crate::space::subscription::Subscriber;
use crate::sys::sync::{AtomicU8, Ordering};

/// The outcome of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The leader was not told that it can be done.
    Unasked = 0,
    /// It is done.
    Committed,
    /// It is not done.
    Aborted,
    /// The leader is gone.
    Lost,
}

/// Waits for the leader's word about one proposal.
pub(super) struct Word {
    channel: Arc<Channel>,
    /// The proposal, and the generation behind it.
    of: (u64, u64),
    outcome: AtomicU8,
}

impl Word {
    pub(super) fn new(channel: Arc<Channel>, of: (u64, u64)) -> Self {
        Self { channel, of, outcome: AtomicU8::new(Outcome::Unasked as u8) }
    }

    pub(super) fn outcome(&self) -> Outcome {
        let outcomes = [Outcome::Committed, Outcome::Aborted, Outcome::Lost];
        let number = self.outcome.load(Ordering::Acquire);
        outcomes.into_iter().find(|outcome| *outcome as u8 == number).unwrap_or(Outcome::Unasked)
    }

    /// Says that all is ready, and waits for the decision.
    pub(super) fn wait(&self, interrupt: &dyn Interrupt) -> Result<()> {
        let outcome = self.ask(interrupt).unwrap_or(Outcome::Lost);
        self.outcome.store(outcome as u8, Ordering::Release);
        match outcome {
            Outcome::Committed => Ok(()),
            Outcome::Aborted => Err(Error::Share { message: "the leader did not make the change".into() }),
            _ => Err(Error::Share { message: "the leader is gone".into() }),
        }
    }

    fn ask(&self, interrupt: &dyn Interrupt) -> std::io::Result<Outcome> {
        self.channel.say_soon(Kind::Ready, self.of, &[])?;
        loop {
            let message = self.channel.wait(&[], SLICE)?;
            match message.map(|message| (message.header.kind, message.header.sequence)) {
                Some((Kind::Commit, sequence)) if sequence == self.of.0 => return Ok(Outcome::Committed),
                Some((Kind::Abort, sequence)) if sequence == self.of.0 => return Ok(Outcome::Aborted),
                Some((Kind::Commit | Kind::Abort, _)) | None => {}
                Some(_) => return Ok(Outcome::Lost),
            }
            if interrupt.check().is_err() {
                return Ok(Outcome::Lost);
            }
        }
    }
}

impl Client for Word {
    fn name(&self) -> &str {
        "leader"
    }

    fn prepare(&self, _proposal: &Arc<Proposal>, interrupt: &dyn Interrupt) -> Result<()> {
        self.wait(interrupt)
    }

    fn commit(&self, _proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        Ok(())
    }

    fn rollback(&self, _proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        Ok(())
    }
}

/// Nobody is told of a word's end: who made it asks.
pub(super) struct Nobody;

impl Subscriber for Nobody {
    fn failed(&self, _error: Error) {}

    fn left(&self) {}
}
