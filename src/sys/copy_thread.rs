//! Copies that may never end, because a userfaultfd handler must answer them first.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::copy::{self, Stopped};
use super::errno;

/// How long a fault handler may take.
pub const FAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads `size` bytes at `from`, on a thread of its own that is left behind when the handler does not answer.
///
/// `keep` is dropped when the read has ended, however late.
pub fn read(from: *const u8, size: usize, keep: impl Send + 'static) -> Result<Vec<u8>, Stopped> {
    let from = from.expose_provenance();
    on_thread(keep, move || {
        let mut bytes = vec![0; size];
        // SAFETY: the vector has `size` bytes, and the kernel checks the source.
        unsafe { copy::read_guarded(std::ptr::with_exposed_provenance(from), bytes.as_mut_ptr(), size) }?;
        Ok(bytes)
    })
}

/// Writes bytes to `to`, on a thread of its own that is left behind when the handler does not answer.
///
/// `keep` is dropped when the write has ended, however late: it must keep the memory from being used for anything else.
///
/// # Safety
/// The caller may overwrite what is at `to`, if anything, for as long as `keep` lives.
pub unsafe fn write(to: *mut u8, bytes: Vec<u8>, keep: impl Send + 'static) -> Result<(), Stopped> {
    let to = to.expose_provenance();
    on_thread(keep, move || {
        // SAFETY: the vector has as many bytes, and the target is the caller's promise.
        unsafe { copy::write_guarded(std::ptr::with_exposed_provenance_mut(to), bytes.as_ptr(), bytes.len()) }
    })
}

fn on_thread<T: Send + 'static>(
    keep: impl Send + 'static,
    work: impl FnOnce() -> Result<T, Stopped> + Send + 'static,
) -> Result<T, Stopped> {
    let (sender, receiver) = mpsc::channel();
    let worker = thread::Builder::new().name("guest-copy".into()).spawn(move || {
        let result = work();
        drop(keep);
        // Nobody is left to hear it when the caller has given up.
        let _ = sender.send(result);
    });
    let failed = |error| Stopped { completed: 0, error: Some(error) };
    worker.map_err(failed)?;
    receiver
        .recv_timeout(FAULT_TIMEOUT)
        .unwrap_or_else(|_| Err(failed(errno::refusal(errno::ETIMEDOUT, "its fault handler does not answer"))))
}
