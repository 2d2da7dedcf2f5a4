//! Clients follow an address space: they may veto its changes, and are told of them.

use std::sync::Arc;

use super::proposal::Proposal;
use crate::model::error::Result;
use crate::model::interrupt::Interrupt;

/// A follower of every change: asked before it is published, told after.
///
/// Called in the writer's turn, without the interpreter's lock. Additions are made in `prepare` and removals in `commit`, so that
/// at any moment the guest has at least the memory that both maps have. The exception is a removed region that is in the way of an
/// added one ([`Proposal::removed_before`]): it must go in `prepare` already, and `rollback` puts it back.
///
/// A client that waits for somebody does so in slices, between which it asks the interrupt. Stopped in `prepare`, it refuses the change; in
/// `commit` or `rollback`, it fails.
pub trait Client: Send + Sync {
    /// The name in errors.
    fn name(&self) -> &str;

    /// Whether it can't follow a space without memory.
    fn needs_memory(&self) -> bool {
        false
    }

    /// Whether it writes to the memory where no page table and no log of this process shows it.
    fn writes_unseen(&self) -> bool {
        false
    }

    /// Makes additions real and checks removals; an error undoes the whole change, and the client's own part is undone already.
    fn prepare(&self, proposal: &Arc<Proposal>, interrupt: &dyn Interrupt) -> Result<()>;

    /// Makes removals real. The change is published: an error ends the subscription and changes nothing else.
    fn commit(&self, proposal: &Arc<Proposal>, interrupt: &dyn Interrupt) -> Result<()>;

    /// Undoes [`prepare`](Self::prepare); an error ends the subscription.
    fn rollback(&self, proposal: &Arc<Proposal>, interrupt: &dyn Interrupt) -> Result<()>;

    /// From here on, until it is told otherwise, the client waits for nobody long: somebody wants it to leave. Called without the turn, also
    /// while another thread is in one of its phases.
    fn hurry(&self, is_hurried: bool) {
        let _ = is_hurried;
    }

    /// Lets go of everything, at the end of the subscription. An error comes once as much as can be is let go.
    fn leave(&self, interrupt: &dyn Interrupt) -> Result<()> {
        let _ = interrupt;
        Ok(())
    }

    /// Whether it has nothing to follow any more.
    fn is_over(&self) -> bool {
        false
    }
}
