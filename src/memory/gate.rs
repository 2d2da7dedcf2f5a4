//! A gate for direct copies of memory that others may take away later: open until it is closed for good.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::lock::{SharedGuard, SharedLock};
use crate::sys::fork::Process;

/// Lets direct copies pass in the process that made it, until it is closed.
#[derive(Debug)]
pub(super) struct Gate {
    is_closed: AtomicBool,
    /// Held, shared, by each copy that passed.
    copying: SharedLock<()>,
    process: Process,
}

/// Held by a direct copy: the gate does not close under it.
#[derive(Debug)]
pub struct Permit<'a>(#[allow(dead_code, reason = "held, not read")] SharedGuard<'a, ()>);

impl Gate {
    pub(super) fn new() -> Self {
        Self { is_closed: AtomicBool::new(false), copying: SharedLock::default(), process: Process::current() }
    }

    /// Whether this is the process that made the gate, and not a forked child of it.
    pub(super) fn is_in_its_process(&self) -> bool {
        self.process.is_current()
    }

    /// A permit for one direct copy, or `None`: then the kernel must make it. Never waits.
    pub(super) fn pass(&self) -> Option<Permit<'_>> {
        // In a forked child the lock may have been left taken by a thread that is not there.
        if !self.process.is_current() {
            return None;
        }
        // Only `close` locks it for writing. To wait for it would deadlock two copies in opposite directions.
        let held = self.copying.try_read()?;
        // Asked under the lock: `close` sets the flag before it waits for the lock.
        (!self.is_closed.load(Ordering::Acquire)).then_some(Permit(held))
    }

    /// Lets no copy pass from here on, and waits for those that did: never called with the interpreter's lock.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        // Each caller waits, also one that finds it closed: the first may still be waiting.
        if self.process.is_current() {
            drop(self.copying.write());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_passes_a_closed_gate() {
        let gate = Gate::new();
        assert!(gate.pass().is_some());
        gate.close();
        assert!(gate.pass().is_none());
    }

    #[test]
    fn several_copies_pass_at_once() {
        let gate = Gate::new();
        let (one, two) = (gate.pass(), gate.pass());
        assert!(one.is_some() && two.is_some());
    }

    /// Copies in opposite directions between two mappings, while both gates are being closed: neither copy waits for the other.
    #[test]
    fn nobody_who_has_passed_one_gate_waits_at_another() {
        let gates = [Gate::new(), Gate::new()];
        thread::scope(|scope| {
            let [one, other] = gates.each_ref().map(Gate::pass);
            assert!(one.is_some() && other.is_some());
            for gate in &gates {
                scope.spawn(|| gate.close());
            }
            while !gates.iter().all(|gate| gate.is_closed.load(Ordering::Acquire)) {
                thread::yield_now();
            }
            // Both copies go on to their second side.
            assert!(gates[1].pass().is_none());
            assert!(gates[0].pass().is_none());
            drop((one, other));
        });
    }

    #[test]
    fn every_caller_of_close_waits_for_the_copies_that_passed() {
        let gate = Gate::new();
        let is_copied = AtomicBool::new(false);
        thread::scope(|scope| {
            let permit = gate.pass().unwrap();
            for _ in 0..2 {
                scope.spawn(|| {
                    gate.close();
                    assert!(is_copied.load(Ordering::Acquire));
                });
            }
            while gate.pass().is_some() {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(20));
            is_copied.store(true, Ordering::Release);
            drop(permit);
        });
    }
}
