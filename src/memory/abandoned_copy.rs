//! Copies on a thread of their own, which is left behind when the userfaultfd handler that must answer them does not.

use std::io::Error;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::lease::Lease;
use crate::sys::copy::{self, Stopped};
use crate::sys::errno::{self, ETIMEDOUT};

/// How long a fault handler may take.
const FAULT_TIMEOUT: Duration = Duration::from_secs(1);

const RUNNING: u8 = 0;
const GIVEN_UP: u8 = 1;
const ENDED: u8 = 2;

/// Fills a buffer with what lies at `from`, memory of the lease's.
pub(super) fn read(from: *const u8, mut bytes: Vec<u8>, lease: Lease) -> Result<Vec<u8>, Stopped> {
    // An address may go to another thread, a raw pointer may not.
    let from = from.expose_provenance();
    on_thread(lease, move || {
        // SAFETY: the vector has as many bytes, and the kernel checks the source.
        unsafe { copy::read_guarded(std::ptr::with_exposed_provenance(from), bytes.as_mut_ptr(), bytes.len()) }?;
        Ok(bytes)
    })
}

/// Writes bytes to `to`.
///
/// # Safety
/// Whatever lies at `to` is memory of the lease's, which the caller may overwrite.
pub(super) unsafe fn write(to: *mut u8, bytes: Vec<u8>, lease: Lease) -> Result<(), Stopped> {
    let to = to.expose_provenance();
    on_thread(lease, move || {
        // SAFETY: the vector has as many bytes. The lease, which is kept until the write has ended, keeps the target.
        unsafe { copy::write_guarded(std::ptr::with_exposed_provenance_mut(to), bytes.as_ptr(), bytes.len()) }
    })
}

/// The answer while an earlier copy that was given up goes on.
pub(super) fn pending() -> Stopped {
    timed_out("an earlier copy still waits")
}

fn timed_out(why: &'static str) -> Stopped {
    failed(errno::refusal(ETIMEDOUT, why))
}

const fn failed(error: Error) -> Stopped {
    Stopped { completed: 0, error: Some(error) }
}

/// Runs a copy; while one that was given up goes on, no other is begun.
fn on_thread<T: Send + 'static>(
    lease: Lease,
    work: impl FnOnce() -> Result<T, Stopped> + Send + 'static,
) -> Result<T, Stopped> {
    if lease.region().storage().pending_copies.load(Ordering::Acquire) != 0 {
        return Err(pending());
    }
    let copy = Arc::new(Copy { lease, state: AtomicU8::new(RUNNING) });
    let running = Running(Arc::clone(&copy));
    let (sender, receiver) = mpsc::channel();
    let worker = thread::Builder::new().name("guest-copy".into()).spawn(move || {
        let result = work();
        // Before the answer: the caller may remove the region next, and must not find this copy's lease on it.
        drop(running);
        // Nobody is left to hear it when the caller has given up.
        let _ = sender.send(result);
    });
    worker.map_err(failed)?;
    receiver.recv_timeout(FAULT_TIMEOUT).unwrap_or_else(|_| {
        copy.give_up();
        Err(timed_out("its fault handler does not answer"))
    })
}

/// A copy under way. Its lease is kept until it has ended, so that the pages can't be unmapped or used for anything else.
struct Copy {
    lease: Lease,
    state: AtomicU8,
}

impl Copy {
    /// Nobody waits any more: until the copy ends, it counts as pending.
    fn give_up(&self) {
        // A copy that has ended by now must not be counted: nobody would take it off again.
        if self.state.compare_exchange(RUNNING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.lease.region().storage().pending_copies.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// The copying thread's side, dropped when the copy has ended.
struct Running(Arc<Copy>);

impl Drop for Running {
    fn drop(&mut self) {
        // When this comes before the addition the count wraps for a moment, which is not 0 either.
        if self.0.state.swap(ENDED, Ordering::AcqRel) == GIVEN_UP {
            self.0.lease.region().storage().pending_copies.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
