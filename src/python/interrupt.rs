//! Ctrl-C and progress for work that runs without the interpreter's lock.

use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::callback;
use super::calls::{self, python_call};
use super::import_once::ImportOnce;
use super::logging;
use crate::model::error::{Error, Interrupted, Result};
use crate::model::interrupt::{Interrupt, Uninterrupted};
use crate::sys::fork::Process;
use crate::sys::lock::{Lock, LockGuard};

/// Signals are handled, and the user's function is called, at most 20 times a second: taking the interpreter's lock may cost a switch
/// interval each time.
const PERIOD: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct InterruptState {
    begun: Instant,
    last: Instant,
    /// The end of a stage was reported, and is not reported again.
    is_complete: bool,
    raised: Option<PyErr>,
}

/// Attaches now and then to handle signals and to call the user's progress function; keeps what they raise.
#[derive(Debug)]
pub(super) struct PyInterrupt {
    progress: Option<Py<PyAny>>,
    /// The process whose work it is. What its Python code forks has the same work before it, on files and sockets that are its parent's.
    process: Process,
    /// Never locked across an attach: a thread that has the interpreter's lock may want it.
    state: Lock<InterruptState>,
}

impl PyInterrupt {
    pub(super) fn new(py: Python<'_>, progress: Option<Py<PyAny>>) -> PyResult<Self> {
        callback::check_progress(py, progress.as_ref())?;
        let now = Instant::now();
        let state = InterruptState { begun: now, last: now, is_complete: false, raised: None };
        Ok(Self { progress, process: Process::current(), state: Lock::new(state) })
    }

    /// The user's function.
    pub(super) const fn function(&self) -> Option<&Py<PyAny>> {
        self.progress.as_ref()
    }

    /// Runs `work` without the interpreter's lock. An exception of a signal handler or of the progress function comes out as it is.
    pub(super) fn run<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&dyn Interrupt) -> Result<T> + Send,
    ) -> PyResult<T> {
        logging::look(py);
        let result = calls::detach(py, || work(self));
        logging::tell(py);
        if !self.process.is_current() {
            return Err(Error::Forked.into());
        }
        let raised = self.state.lock()?.raised.take();
        // Also when the work came to its end all the same, as a commit does that can't be undone: Ctrl-C must not be lost.
        raised.map_or_else(|| result.map_err(PyErr::from), Err)
    }

    /// Refused only in a child that a fork of the work's own left without the thread: there it has to end.
    fn state(&self) -> Result<LockGuard<'_, InterruptState>, Interrupted> {
        self.state.lock().map_err(|_| Interrupted)
    }

    /// Runs `work` attached, unless the last time was a moment ago.
    fn now_and_then(
        &self,
        at_once: bool,
        work: impl FnOnce(Python<'_>, Duration) -> PyResult<()>,
    ) -> Result<(), Interrupted> {
        // Unlocked again before the interpreter's lock is taken, as every lock of ours must be.
        let elapsed = {
            let mut state = self.state()?;
            if !at_once && state.last.elapsed() < PERIOD {
                return Ok(());
            }
            state.last = Instant::now();
            state.begun.elapsed()
        };
        let raised = calls::attach(|py| py.check_signals().and_then(|()| work(py, elapsed)).err());
        match raised {
            Some(None) if self.process.is_current() => Ok(()),
            // Raised, or in a forked child, or the interpreter is shutting down: either way the work has to end.
            raised => {
                self.state()?.raised = raised.flatten();
                Err(Interrupted)
            }
        }
    }

    fn call_progress(&self, py: Python<'_>, elapsed: Duration, stage: &str, done: u64, total: u64) -> PyResult<()> {
        let _guard = python_call();
        static CLASS: ImportOnce = ImportOnce::new();
        let Some(progress) = &self.progress else { return Ok(()) };
        let class = CLASS.import(py, "dbs_address_space.progress", "Progress")?;
        // In KiB, since only a u32 is a float without rounding; beyond 4 TiB the rate is too low.
        let rate = f64::from(u32::try_from(done >> 10).unwrap_or(u32::MAX)) * 1024.0 / elapsed.as_secs_f64().max(1e-9);
        let told = progress.bind(py).call1((class.call1((stage, done, total, rate))?,))?;
        callback::answer(told, "progress").map(drop)
    }
}

impl Interrupt for PyInterrupt {
    fn check(&self) -> Result<(), Interrupted> {
        self.now_and_then(false, |_, _| Ok(()))
    }

    fn check_now(&self) -> Result<(), Interrupted> {
        self.now_and_then(true, |_, _| Ok(()))
    }

    fn progress(&self, stage: &'static str, done: u64, total: u64) -> Result<(), Interrupted> {
        let is_complete = self.progress.is_some() && done == total;
        if std::mem::replace(&mut self.state()?.is_complete, is_complete) && is_complete {
            return self.check();
        }
        self.now_and_then(is_complete, |py, elapsed| self.call_progress(py, elapsed, stage, done, total))
    }
}

/// [`PyInterrupt::run`] for work that is done in one part.
pub(super) fn detached<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&dyn Interrupt) -> Result<T> + Send,
) -> PyResult<T> {
    PyInterrupt::new(py, progress)?.run(py, work)
}

/// Runs `work` on so many regions or other small things: with the interpreter's lock, unless they are many.
pub(super) fn of_many<T: Send>(
    py: Python<'_>,
    count: usize,
    work: impl FnOnce(&dyn Interrupt) -> Result<T> + Send,
) -> PyResult<T> {
    if count < MANY { Ok(work(&Uninterrupted)?) } else { detached(py, None, work) }
}

/// From here on they take some milliseconds.
const MANY: usize = 1 << 10;
