//! How long work asks whether it should stop, and tells how far it is.

use super::error::Interrupted;

/// Asked now and then by everything that waits or takes long.
///
/// The binding's implementation attaches to the interpreter, handles signals and calls the user's progress function.
pub trait Interrupt {
    /// `Err` when the work should stop and undo itself.
    fn check(&self) -> Result<(), Interrupted>;

    /// A [`check`](Self::check) when there may be a reason to stop, however short ago the last one was.
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
