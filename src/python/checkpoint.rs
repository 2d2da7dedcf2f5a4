//! `Checkpoint`.

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::callback;
use super::calls::python_call;
use super::convert;
use super::dirty::PyDirtyPages;
use super::interrupt::detached;
use super::leaving::leave;
use super::region_objects::RegionObject;
use super::space_ref::SpaceRef;
use crate::space::point::Point;

/// The memory of a space and its map at one moment, to which `restore()` leads back, in place and often.
///
/// Made by `GuestMemory.checkpoint`; used in `with`, it closes. Its bytes lie in a sealed file. It vetoes no removal: what is unplugged is
/// plugged in again by a restore. Checkpoints can be taken on top of others; one that is restored closes those taken after it, which
/// raise `CheckpointClosed`. After `GuestMemory.close()` it raises `NotMapped`, and `ForkedProcess` in a forked child.
///
/// >>> from dbs_address_space import AddressSpaceBuilder
/// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
/// >>> memory.write(0x1000, b"before")
/// >>> with memory.checkpoint() as point:
/// ...     memory.write(0x1000, b"behind")
/// ...     point.restore(), memory.read(0x1000, 6)
/// (1, b'before')
#[pyclass(frozen, weakref, name = "Checkpoint", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyCheckpoint {
    pub(super) space: SpaceRef,
    pub(super) point: Arc<Point>,
    pub(super) on_restore: Option<Py<PyAny>>,
}

impl PyCheckpoint {
    fn pages(&self, py: Python<'_>, compares: bool) -> PyResult<PyDirtyPages> {
        Ok(detached(py, None, |interrupt| self.space.differing(&self.point, compares, interrupt))?.into())
    }
}

#[pymethods]
impl PyCheckpoint {
    /// Makes map and bytes what they were, calls `on_restore`, and returns the number of 4 KiB pages that differed.
    ///
    /// Pause all writers: virtual CPUs, devices, other threads. Mappings and host addresses stay, and so do KVM slots, vhost tables, views and
    /// pointers. A changed map is put back first, as by any change: `RegionBusy` and `ClientError` then mean that nothing changed.
    /// `MemoryFault` (a file that was cut) and Ctrl-C leave it half done, and it can be done again. What `on_restore` raises passes, and the
    /// memory is restored.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> with memory.checkpoint(on_restore=lambda: print("the processors' registers")) as point:
    /// ...     memory.fill(0, "8KiB", 1)
    /// ...     point.restore()
    /// the processors' registers
    /// 2
    fn restore(&self, py: Python<'_>) -> PyResult<u64> {
        let copied = match self.space.restore_quickly(&self.point)? {
            Some(copied) => copied,
            None => detached(py, None, |interrupt| self.space.restore(&self.point, interrupt))?,
        };
        if let Some(on_restore) = &self.on_restore {
            let _guard = python_call();
            callback::answer(on_restore.bind(py).call0()?, "on_restore")?;
        }
        Ok(copied)
    }

    /// The pages that a `restore()` would change, of 4 KiB: those that were written and differ, and regions that came or went.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> with memory.checkpoint() as point:
    /// ...     memory.write_u8(0x2000, 1)
    /// ...     memory.write_u8(0x5000, 0)
    /// ...     [str(pages) for pages in point.dirty()]
    /// ['[0x2000, 0x3000)']
    fn dirty(&self, py: Python<'_>) -> PyResult<PyDirtyPages> {
        self.pages(py, false)
    }

    /// All pages that differ, of 4 KiB, by comparing everything: empty after a `restore()`, whoever wrote.
    ///
    /// It takes about a second for 2 GiB, and finds what a source can't see, such as a back-end's writes.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> with memory.checkpoint() as point:
    /// ...     memory.write_u8(0x2000, 1)
    /// ...     _ = point.restore()
    /// ...     len(point.verify())
    /// 0
    fn verify(&self, py: Python<'_>) -> PyResult<PyDirtyPages> {
        self.pages(py, true)
    }

    /// Lets go of the bytes; the memory stays as it is. A second time does nothing.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> point = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.checkpoint()
    /// >>> point.close()
    /// >>> point.restore()
    /// Traceback (most recent call last):
    /// dbs_address_space.errors.CheckpointClosed: this checkpoint is closed: by close(), at the end of its with block, or by the restore of one that was taken before it
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, None, |interrupt| self.space.close_checkpoint(&self.point, interrupt))
    }

    /// The observers of the writes: `"pagemap"`, `"compare"`, or `"pagemap+compare"` where the kernel can't watch all memory; `"kvm"`.
    #[getter]
    fn mode(&self) -> String {
        let names = self.point.sources();
        if names.contains("kvm") { "kvm".into() } else { names.iter().rev().copied().collect::<Vec<_>>().join("+") }
    }

    /// The generation of the map when it was taken.
    #[getter]
    fn generation(&self) -> u64 {
        self.point.generation().0
    }

    /// The bytes that it stores: all that was not zero, or, on top of another checkpoint, what differed from that.
    #[getter]
    fn size(&self) -> u64 {
        self.point.size()
    }

    /// The regions whose bytes are not kept, a tuple: DAX windows, read-only files and buffers, memory whose pages somebody brings in.
    #[getter]
    fn excluded<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        convert::py_tuple(py, self.point.excluded().iter().cloned().map(RegionObject))
    }

    /// The `ResetStats` of all restores.
    #[getter]
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = self.point.stats()?;
        let counts = stats.counts;
        let pages = (counts.found, counts.copied, counts.hot, counts.protected, counts.punched);
        convert::py_reset_stats(py, (stats.resets, pages.0, pages.1, pages.2, pages.3, pages.4, stats.seconds))
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _type: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        leave(value, self.close(py))
    }

    fn __repr__(&self) -> String {
        let (size, generation) = (crate::model::format::size(self.point.size()), self.generation());
        format!("Checkpoint({size} of generation {generation}, {})", self.mode())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.on_restore)
    }
}

impl Drop for PyCheckpoint {
    fn drop(&mut self) {
        // Refused in a forked child only, whose copy nobody asks.
        let _ = self.space.abandon_checkpoint(&self.point);
    }
}
