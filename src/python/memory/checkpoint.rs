//! Taking checkpoints.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::PyMemory;
use crate::model::tracking::TrackingMode;
use crate::python::callback;
use crate::python::checkpoint::{PyCheckpoint, states_of};
use crate::python::interrupt::detached;
use crate::python::keywords;
use crate::python::tracker::is_trusting;
use crate::space::point::CheckpointOptions;

#[pymethods]
impl PyMemory {
    /// Stores what all memory and the map are, to come back to them with `Checkpoint.restore()` often and fast.
    ///
    /// Pause all writers: virtual CPUs, devices, other threads. It takes about a second for each GiB that is not zero; on top of another
    /// checkpoint it stores what differs from that. `mode` says how the pages are found that a restore has to put back: `"pagemap"` by the
    /// kernel (Linux 6.7), `"kvm"` by KVM's log with this package's own writes, `"compare"` by comparing all bytes, whoever wrote them. `"auto"`
    /// takes the kernel, and compares what that can't watch. A vhost-user back-end writes unseen: beside one, only `mode="compare"`, or
    /// `trust=("vhost-user",)` for one that does not write; `"share"` stands for followers that may write, and `"leader"` for all other
    /// processes of a follower. `on_restore()` is called after each restore, to put registers back.
    ///
    /// Raises `Unsupported` for memory that the mode can't watch, `MemoryFault`, `NotMapped`, and `MemoryError` or `BackingError` where there is
    /// no room. What `progress(p)` raises, and Ctrl-C, ends it, and nothing is kept.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> point = memory.checkpoint()
    /// >>> memory.fill(0x1000, "1MiB", 0xff)
    /// >>> point.restore(), memory.read(0x1000, 2)
    /// (256, b'\x00\x00')
    #[pyo3(signature = (*, mode="auto", trust=None, on_restore=None, progress=None, **others),
        text_signature = "($self, *, mode='auto', trust=(), on_restore=None, progress=None)")]
    fn checkpoint(
        &self,
        py: Python<'_>,
        mode: &str,
        trust: Option<&Bound<'_, PyAny>>,
        on_restore: Option<Py<PyAny>>,
        progress: Option<Py<PyAny>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyCheckpoint> {
        keywords::refuse_of::<Self>("checkpoint", others)?;
        let mode = TrackingMode::parse_of_checkpoint(mode)?;
        let is_trusting = is_trusting(trust)?;
        check_on_restore(py, on_restore.as_ref())?;
        let options = CheckpointOptions { mode, is_trusting };
        let take = |interrupt: &dyn crate::model::interrupt::Interrupt| {
            self.space.checkpoint(self.incarnation, options, interrupt)
        };
        let point = detached(py, progress, take)?;
        let states = states_of(py, &self.registry)?;
        Ok(PyCheckpoint { space: self.space.clone(), point, on_restore, registry: self.registry.clone_ref(py), states })
    }
}

fn check_on_restore(py: Python<'_>, on_restore: Option<&Py<PyAny>>) -> PyResult<()> {
    let Some(function) = on_restore.map(|function| function.bind(py)) else { return Ok(()) };
    if !function.is_callable() {
        let class = function.get_type().name()?;
        return Err(PyTypeError::new_err(format!("on_restore must be a function without arguments, not {class}")));
    }
    callback::check(function, "on_restore")
}
