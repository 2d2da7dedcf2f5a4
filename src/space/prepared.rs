//! The two phases of a change, as clients go through them.

use std::sync::Arc;

use super::proposal::Proposal;
use super::subscription::Subscription;
use super::turn::TurnGuard;
use crate::model::error::{Error, Result};

/// A client and the proposal that it is asked about.
pub(super) type Participant = (Arc<Subscription>, Arc<Proposal>);

/// Clients that prepared a change; those not committed are rolled back, in reverse.
pub(super) struct Prepared<'a> {
    turn: &'a TurnGuard<'a>,
    done: Vec<Participant>,
}

impl<'a> Prepared<'a> {
    /// Asks each client in order of subscription; the first refusal undoes the others.
    ///
    /// A client that refused has undone its own part: it is not among those that are rolled back.
    pub(super) fn all(participants: Vec<Participant>, turn: &'a TurnGuard<'a>) -> Result<Self> {
        let mut prepared = Self { turn, done: Vec::with_capacity(participants.len()) };
        for (subscription, proposal) in participants {
            turn.check_process()?;
            // Noted before the call: writers that wait name this client, and give up on one that never comes back.
            turn.enter(Some(subscription.name()), "prepare");
            subscription.client().prepare(&proposal, turn)?;
            prepared.done.push((subscription, proposal));
        }
        turn.check_process()?;
        turn.enter(None, "change");
        Ok(prepared)
    }

    /// Tells each client in order that the change is published, and returns those that failed at it.
    pub(super) fn commit(mut self) -> Vec<(Arc<Subscription>, Error)> {
        self.commit_each()
    }

    fn commit_each(&mut self) -> Vec<(Arc<Subscription>, Error)> {
        let mut failures = Vec::new();
        // Taken out first: from here on nothing is rolled back, for the change is published.
        for (subscription, proposal) in std::mem::take(&mut self.done) {
            self.turn.enter(Some(subscription.name()), "commit");
            // The others are told whatever one of them answers, for the change is a fact. But not in a forked child.
            if self.turn.check_process().is_ok()
                && let Err(error) = subscription.commit(&proposal, self.turn)
            {
                failures.push((subscription, error));
            }
        }
        failures
    }

    /// [`commit`](Self::commit); a failure ends the subscription, which reports it.
    pub(super) fn commit_all(mut self) {
        for (subscription, error) in self.commit_each() {
            // The report runs code of the user's too.
            self.turn.enter(Some(subscription.name()), "commit");
            subscription.fail(error);
        }
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        // In reverse, so that a client finds those before it as they were when it was asked. A panic of a client comes here too.
        for (subscription, proposal) in self.done.iter().rev() {
            if self.turn.check_process().is_err() {
                return;
            }
            self.turn.enter(Some(subscription.name()), "rollback");
            if let Err(error) = subscription.client().rollback(proposal, self.turn) {
                subscription.fail(error);
            }
        }
        self.turn.enter(None, "change");
    }
}
