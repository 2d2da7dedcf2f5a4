//! Who follows an address space, may veto its changes, and is told of them.

use std::sync::Arc;

use super::turn::TurnGuard;
use crate::model::change::Change;
use crate::model::error::Result;

/// A follower of every change: asked before it is published, told after.
pub trait Client: Send + Sync {
    /// The name in errors.
    fn name(&self) -> &str;

    /// Makes additions real and checks removals; an error undoes the whole change.
    fn prepare(&self, change: &Change) -> Result<()>;

    /// Makes removals real; the change is published and can't fail any more.
    fn commit(&self, change: &Change);

    /// Undoes [`prepare`](Self::prepare).
    fn rollback(&self, change: &Change);
}

/// Clients that prepared a change; those not committed are rolled back, in reverse.
pub(super) struct Prepared<'a> {
    change: &'a Change,
    turn: &'a TurnGuard<'a>,
    clients: Vec<Arc<dyn Client>>,
}

impl<'a> Prepared<'a> {
    /// Asks each client in order; the first refusal undoes the others.
    pub(super) fn all(clients: &[Arc<dyn Client>], change: &'a Change, turn: &'a TurnGuard<'a>) -> Result<Self> {
        let mut prepared = Self { change, turn, clients: Vec::new() };
        for client in clients {
            turn.enter(Some(client.name()), "prepare");
            client.prepare(change)?;
            prepared.clients.push(Arc::clone(client));
        }
        turn.enter(None, "change");
        Ok(prepared)
    }

    /// Tells each client in order that the change is published.
    pub(super) fn commit(mut self) {
        for client in std::mem::take(&mut self.clients) {
            self.turn.enter(Some(client.name()), "commit");
            client.commit(self.change);
        }
        self.turn.enter(None, "change");
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        for client in self.clients.iter().rev() {
            self.turn.enter(Some(client.name()), "rollback");
            client.rollback(self.change);
        }
    }
}
