//! `PreallocHandle`.

use std::sync::Arc;

use pyo3::prelude::*;

use super::convert;
use super::interrupt::detached;
use super::seconds::Timeout;
use crate::memory::prealloc::{PreallocJob, PreallocReport};
use crate::model::error::Error;
use crate::model::format::hex;

/// A `PreallocReport`.
pub(super) fn report<'py>(py: Python<'py>, done: &PreallocReport) -> PyResult<Bound<'py, PyAny>> {
    convert::py_prealloc_report(py, (done.size, done.threads, done.elapsed.as_secs_f64(), done.touched))
}

/// Memory that is being populated in the background. Dropping the handle lets it go on.
///
/// Made by `GuestMemory.prealloc(background=True)`.
///
/// >>> from dbs_address_space import AddressSpaceBuilder
/// >>> handle = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.prealloc(background=True)
/// >>> handle.wait()
/// True
/// >>> handle.report.size
/// 4194304
#[pyclass(frozen, weakref, name = "PreallocHandle", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyPreallocHandle(pub(super) Arc<PreallocJob>);

#[pymethods]
impl PyPreallocHandle {
    /// Whether it has ended: it is complete, has failed or was cancelled.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> handle = memory.prealloc(background=True)
    /// >>> handle.wait(), handle.done()
    /// (True, True)
    fn done(&self) -> PyResult<bool> {
        Ok(self.0.result()?.is_some())
    }

    /// Waits until it has ended, at most `timeout` seconds (`None`: for ever), and tells whether it has. Ctrl-C ends the wait only.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.prealloc(background=True).wait(timeout=60)
    /// True
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<Timeout>) -> PyResult<bool> {
        let timeout = timeout.map(|timeout| timeout.0);
        detached(py, None, |interrupt| self.0.wait(timeout, interrupt))
    }

    /// Asks it to stop, which it does within a moment; what is there stays. Does nothing when it has ended.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> handle = memory.prealloc(background=True)
    /// >>> handle.cancel()
    /// >>> handle.wait()
    /// True
    fn cancel(&self) {
        self.0.cancel();
    }

    /// Bytes that are there, and bytes in all.
    #[getter]
    fn progress(&self) -> (u64, u64) {
        self.0.progress()
    }

    /// The `PreallocReport` when it is complete; `None` while it runs, and when it was cancelled. Raises what it failed with.
    #[getter]
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.0.result()? {
            None | Some(Err(Error::Interrupted)) => Ok(None),
            Some(Ok(done)) => report(py, &done).map(Some),
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn __repr__(&self) -> String {
        let state = match self.0.result() {
            Ok(None) => "running",
            Ok(Some(Ok(_))) => "complete",
            Ok(Some(Err(Error::Interrupted))) => "cancelled",
            Ok(Some(Err(_))) => "failed",
            Err(_) => "locked by the parent process",
        };
        let (done, total) = self.0.progress();
        format!("PreallocHandle({state}, {} of {} bytes)", hex(done), hex(total))
    }
}
