//! A gate for direct copies of memory that others may take away later: open until it is closed for good.

use crate::model::wait::{Monitor, SLICE};

#[derive(Debug, Default)]
struct GateState {
    is_closed: bool,
    /// The copies that passed and have not ended.
    copying: usize,
}

/// Lets direct copies pass in the process that made it, until it is closed.
#[derive(Debug, Default)]
pub(super) struct Gate(Monitor<GateState>);

/// Held by a direct copy: the gate does not close under it.
#[derive(Debug)]
pub struct Permit<'a>(&'a Gate);

impl Gate {
    /// Whether this is the process that made the gate, and not a forked child of it.
    pub(super) fn is_in_its_process(&self) -> bool {
        self.0.is_in_its_process()
    }

    /// Whether nobody else may take pages away, for what is the same if that changes in the next moment.
    pub(super) fn is_open(&self) -> bool {
        self.is_in_its_process() && self.0.lock().is_ok_and(|state| !state.is_closed)
    }

    /// A permit for one direct copy, or `None`: then the kernel must make it. Waits for no copy: two in opposite directions would deadlock.
    pub(super) fn pass(&self) -> Option<Permit<'_>> {
        if !self.is_in_its_process() {
            return None;
        }
        let mut state = self.0.lock().ok()?;
        // One look for both: a copy that is not counted yet finds the gate closed.
        if state.is_closed {
            return None;
        }
        state.copying = state.copying.saturating_add(1);
        Some(Permit(self))
    }

    /// Lets no copy pass from here on, and waits for those that did: never called with the interpreter's lock.
    pub(super) fn close(&self) {
        // Refused only in a forked child, where nothing passes.
        let Ok(mut state) = self.0.lock() else { return };
        state.is_closed = true;
        // Each caller waits, also one that finds it closed: the first may still be waiting.
        while state.copying > 0 {
            let Ok(later) = self.0.wait(state, SLICE, |state| state.copying > 0) else { return };
            state = later;
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // Refused only in a forked child, where nobody waits.
        let _ = self.0.0.change(|state| state.copying = state.copying.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_passes_a_closed_gate() {
        let gate = Gate::default();
        assert!(gate.pass().is_some());
        gate.close();
        assert!(gate.pass().is_none());
    }

    #[test]
    fn several_copies_pass_at_once() {
        let gate = Gate::default();
        let (one, two) = (gate.pass(), gate.pass());
        assert!(one.is_some() && two.is_some());
    }

    /// Copies in opposite directions between two mappings, while both gates are being closed: neither copy waits for the other.
    #[test]
    fn nobody_who_has_passed_one_gate_waits_at_another() {
        let gates = [Gate::default(), Gate::default()];
        thread::scope(|scope| {
            let [one, other] = gates.each_ref().map(Gate::pass);
            assert!(one.is_some() && other.is_some());
            for gate in &gates {
                scope.spawn(|| gate.close());
            }
            while !gates.iter().all(|gate| gate.0.lock().unwrap().is_closed) {
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
        let gate = Gate::default();
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

#[cfg(all(test, feature = "shuttle"))]
mod proofs {
    use std::sync::Arc;

    use super::*;
    use crate::memory::places::tests::Page;
    use crate::memory::present::PresentPages;
    use crate::sys::sync::{AtomicBool, Ordering, prove, thread};

    /// The steps of `Storage::path` and `Storage::export_file`: the permit comes before the look at the pages.
    #[test]
    fn no_direct_copy_meets_a_page_that_another_process_took() {
        prove(|| {
            let (gate, pages) = (Arc::new(Gate::default()), Arc::new(PresentPages::new(1).unwrap()));
            let is_taken = Arc::new(AtomicBool::new(false));
            let copies: Vec<_> = (0..2)
                .map(|_| {
                    let (gate, pages, is_taken) = (Arc::clone(&gate), Arc::clone(&pages), Arc::clone(&is_taken));
                    thread::spawn(move || {
                        pages.mark(0..1);
                        let permit = gate.pass();
                        if permit.is_some() && pages.has(0..1) {
                            assert!(!is_taken.load(Ordering::SeqCst));
                            thread::yield_now();
                            assert!(!is_taken.load(Ordering::SeqCst));
                        }
                        drop(permit);
                    })
                })
                .collect();
            let exports: Vec<_> = (0..2)
                .map(|_| {
                    let (gate, is_taken) = (Arc::clone(&gate), Arc::clone(&is_taken));
                    thread::spawn(move || {
                        gate.close();
                        // From here on the descriptor is out.
                        is_taken.store(true, Ordering::SeqCst);
                    })
                })
                .collect();
            copies.into_iter().chain(exports).for_each(|thread| thread.join().unwrap());
        });
    }

    /// The steps of a view of huge pages, and of `discard`: each does its own first and looks at the other's then.
    #[test]
    fn no_view_is_of_a_page_that_a_discard_took() {
        prove(|| {
            let (gate, table) = (Arc::new(Gate::default()), Arc::new(Page::new()));
            let is_taken = Arc::new(AtomicBool::new(false));
            let view = {
                let (gate, table, is_taken) = (Arc::clone(&gate), Arc::clone(&table), Arc::clone(&is_taken));
                move || {
                    let slot = table.enter("view", 0);
                    if gate.pass().is_some() {
                        assert!(!is_taken.load(Ordering::SeqCst));
                        thread::yield_now();
                        assert!(!is_taken.load(Ordering::SeqCst));
                    }
                    table.1.leave(slot);
                }
            };
            let view = thread::spawn(view);
            gate.close();
            if table.leases().held().unwrap().is_empty() {
                is_taken.store(true, Ordering::SeqCst);
            }
            view.join().unwrap();
        });
    }
}
