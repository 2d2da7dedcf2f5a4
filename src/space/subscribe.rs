//! How clients join a space and leave it.

use std::ops::Deref;
use std::sync::Arc;

use super::prepared::Prepared;
use super::proposal::Proposal;
use super::space::AddressSpace;
use super::subscription::Subscription;
use super::turn::TurnGuard;
use crate::model::change::Change;
use crate::model::error::{Error, Result};
use crate::model::interrupt::{Interrupt, Uninterrupted};
use crate::sys::lock::LockGuard;

/// A writer's turn, at the end of which clients leave that were told to during it.
pub(super) struct WriterTurn<'a> {
    space: &'a AddressSpace,
    turn: TurnGuard<'a>,
}

impl<'a> Deref for WriterTurn<'a> {
    type Target = TurnGuard<'a>;

    fn deref(&self) -> &Self::Target {
        &self.turn
    }
}

impl Drop for WriterTurn<'_> {
    fn drop(&mut self) {
        self.space.let_clients_leave(&self.turn);
    }
}

fn following_no_more(mut clients: LockGuard<'_, Vec<Arc<Subscription>>>) -> Vec<Arc<Subscription>> {
    clients.extract_if(.., |subscription| !subscription.is_following()).collect()
}

impl AddressSpace {
    /// Waits for the writers' turn; refused in a forked child.
    pub(super) fn take_turn<'a>(&'a self, interrupt: &'a dyn Interrupt) -> Result<WriterTurn<'a>> {
        self.check_process()?;
        Ok(WriterTurn { space: self, turn: self.turn().take(interrupt)? })
    }

    /// Adds a client: itself a change that offers it every present region, undone when it refuses or fails.
    pub fn subscribe(&self, subscription: &Arc<Subscription>, interrupt: &dyn Interrupt) -> Result<()> {
        // No region may come or go between the offer and the client's entry in the table, or it would never hear of it.
        let turn = self.take_turn(interrupt)?;
        // Two loads, and one snapshot: nobody else has the turn.
        let (map, memory) = (self.map(), self.load().memory.clone());
        if subscription.client().needs_memory() {
            self.check_mapped(subscription.name())?;
        }
        let proposal = Arc::new(Proposal::new(Change::attach_all(&map), None, memory));
        let prepared = Prepared::all(vec![(Arc::clone(subscription), Arc::clone(&proposal))], &turn)?;
        if let Some((_, error)) = prepared.commit().pop() {
            turn.enter(Some(subscription.name()), "rollback");
            // Whatever comes of it, the first error is the one to tell.
            let _ = subscription.client().rollback(&proposal, &*turn);
            return Err(error);
        }
        // Only now: a client that refused or failed never was one.
        subscription.begin();
        self.clients()?.push(Arc::clone(subscription));
        Ok(())
    }

    /// Shows all that is there to one who wants to follow a client of this space, in the turn.
    pub fn offer(
        &self,
        client: &str,
        interrupt: &dyn Interrupt,
        offer: impl FnOnce(&Arc<Proposal>, &dyn Interrupt) -> Result<()>,
    ) -> Result<()> {
        self.between_changes((client, "admission"), interrupt, |turn| {
            self.check_mapped(client)?;
            let (map, memory) = (self.map(), self.load().memory.clone());
            offer(&Arc::new(Proposal::new(Change::attach_all(&map), None, memory)), turn)
        })
    }

    /// Runs work of a client's, of some name, in the turn: no change begins before it has ended.
    pub fn between_changes<T>(
        &self,
        (client, phase): (&str, &'static str),
        interrupt: &dyn Interrupt,
        work: impl FnOnce(&dyn Interrupt) -> Result<T>,
    ) -> Result<T> {
        let turn = self.take_turn(interrupt)?;
        turn.enter(Some(&client.into()), phase);
        let result = work(&*turn);
        turn.enter(None, "change");
        result
    }

    /// Lets a client leave; an error of its leaving comes back when it has left. One that has left already is left alone.
    ///
    /// In the thread that has the turn, which is inside a client's phase, the client leaves when the change under way is decided: it
    /// may have prepared that change, and has to be told the outcome.
    pub fn unsubscribe(&self, subscription: &Arc<Subscription>, interrupt: &dyn Interrupt) -> Result<()> {
        self.check_process()?;
        if self.turn().is_mine()? {
            return self.leave_later(subscription);
        }
        // A change that waits for this very client would keep the turn for as long as the client is silent.
        let client = subscription.client();
        client.hurry(true);
        let turn = self.take_turn(interrupt).inspect_err(|_| client.hurry(false))?;
        // Out of the table before it lets go, so that a failure half way leaves no client that is asked about changes.
        self.clients()?.retain(|other| !Arc::ptr_eq(other, subscription));
        turn.enter(Some(subscription.name()), "detach");
        let result = subscription.leave(&*turn);
        subscription.has_ended();
        result
    }

    fn leave_later(&self, subscription: &Arc<Subscription>) -> Result<()> {
        subscription.leave_later();
        subscription.client().hurry(true);
        let mut clients = self.clients()?;
        // A client that failed is not there any more.
        if !clients.iter().any(|other| Arc::ptr_eq(other, subscription)) {
            clients.push(Arc::clone(subscription));
        }
        Ok(())
    }

    /// Forgets the clients that follow no more, and lets those leave that are to.
    fn let_clients_leave(&self, turn: &TurnGuard<'_>) {
        // In a forked child the clients are the parent's.
        let Ok(clients) = turn.check_process().and_then(|()| Ok(self.clients()?)) else { return };
        // Collected first: a client's end may do anything, also ask for the clients, and must not find their table locked.
        let ended = following_no_more(clients);
        for subscription in ended.iter().filter(|subscription| subscription.is_leaving()) {
            turn.enter(Some(subscription.name()), "detach");
            if let Err(error) = subscription.leave(turn) {
                subscription.fail(error);
            }
            subscription.has_ended();
        }
    }

    /// Refuses a client that follows memory while there is none.
    pub fn check_mapped(&self, client: &str) -> Result<()> {
        if self.load().memory.is_some() {
            return Ok(());
        }
        Err(Error::NotMapped {
            message: format!("{client} follows memory, and the space has none: call map_memory() first"),
        })
    }

    /// Lets every client leave, for the last owner of a space: nobody else can have the turn or want it.
    pub fn dismiss(&self) {
        // In a forked child the clients are the parent's.
        let clients = self.check_process().and_then(|()| Ok(std::mem::take(&mut *self.clients()?)));
        self.follow_no_more();
        // There is nobody left to tell of an error; the client keeps whatever it could not let go.
        for subscription in clients.iter().flatten() {
            subscription.client().hurry(true);
            drop(subscription.leave(&Uninterrupted));
        }
    }
}
