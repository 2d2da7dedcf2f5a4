//! Long work asks its caller whether to stop, and reports its progress.

use super::error::Interrupted;

/// The most bytes that are touched between two questions to an [`Interrupt`].
pub const STEP: u64 = 16 << 20;

/// A caller's answer to work that waits or takes long, and that asks it now and then.
///
/// The binding's implementation attaches to the interpreter, handles signals and calls the user's progress function: so it must not
/// be asked under a lock that a user's code could want, nor with a snapshot in hand.
pub trait Interrupt {
    /// `Err` when the work should stop and undo itself.
    fn check(&self) -> Result<(), Interrupted>;

    /// A [`check`](Self::check) that is made however short ago the last one was, for there may be a reason to stop.
    fn check_now(&self) -> Result<(), Interrupted> {
        self.check()
    }

    /// Reports `done` of `total` bytes of a stage; also a [`check`](Self::check).
    fn progress(&self, stage: &'static str, done: u64, total: u64) -> Result<(), Interrupted> {
        let _ = (stage, done, total);
        self.check()
    }
}

/// Never interrupts: for callers in Rust.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uninterrupted;

impl Interrupt for Uninterrupted {
    fn check(&self) -> Result<(), Interrupted> {
        Ok(())
    }
}
