//! `Checkpoint`.

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::attachment::PyAttachment;
use super::callback;
use super::calls::python_call;
use super::convert;
use super::dirty::PyDirtyPages;
use super::import_once::interned;
use super::interrupt::detached;
use super::leaving::context_manager;
use super::region_objects::RegionObject;
use super::registry::PyRegistry;
use super::space::PySpace;
use super::space_ref::SpaceRef;
use crate::model::range::Range;
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
    pub(super) registry: Py<PyRegistry>,
    /// The clients that have a state of their own, with what it was.
    pub(super) states: Vec<(Py<PyAny>, Py<PyAny>)>,
}

/// The clients of a space in Python that have a method.
fn clients_with<'py>(
    py: Python<'py>,
    registry: &Py<PyRegistry>,
    method: &Bound<'py, PyString>,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let _guard = python_call();
    let mut found = Vec::new();
    for handle in registry.get().registry().handles(py)? {
        let client = handle.cast::<PyAttachment>().ok().and_then(|attachment| attachment.get().object(py));
        if let Some(client) = client
            && client.hasattr(method)?
        {
            found.push(client);
        }
    }
    Ok(found)
}

/// The states of the clients that have one: an emulator's registers.
pub(super) fn states_of(py: Python<'_>, registry: &Py<PyRegistry>) -> PyResult<Vec<(Py<PyAny>, Py<PyAny>)>> {
    let _guard = python_call();
    let clients = clients_with(py, registry, interned!(py, "_capture"))?;
    clients.into_iter().map(|client| Ok((client.clone().unbind(), client.call_method0("_capture")?.unbind()))).collect()
}

impl PyCheckpoint {
    /// Gives each client its state back, and tells it of the pages that were.
    fn tell_clients(&self, py: Python<'_>, pages: Vec<Range>) -> PyResult<()> {
        let _guard = python_call();
        let clients = clients_with(py, &self.registry, interned!(py, "_restored"))?;
        if clients.is_empty() {
            return Ok(());
        }
        let pages = convert::py_ranges(py, pages)?;
        for client in clients {
            let state = self.states.iter().find(|(other, _)| other.bind(py).is(&client));
            client.call_method1("_restored", (state.map(|(_, state)| state), &pages))?;
        }
        Ok(())
    }

    fn pages(&self, py: Python<'_>, compares: bool) -> PyResult<PyDirtyPages> {
        Ok(detached(py, None, |interrupt| self.space.differing(&self.point, compares, interrupt))?.into())
    }
}

context_manager!(PyCheckpoint, PyCheckpoint::close);

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
        let restored = match self.space.restore_quickly(&self.point)? {
            Some(restored) => restored,
            None => detached(py, None, |interrupt| self.space.restore(&self.point, interrupt))?,
        };
        self.tell_clients(py, restored.pages)?;
        if let Some(on_restore) = &self.on_restore {
            let _guard = python_call();
            callback::answer(on_restore.bind(py).call0()?, "on_restore")?;
        }
        Ok(restored.copied)
    }

    /// A new space with the same map, mapped, whose memory begins as what is stored: O(1) in its size, and nobody's writes reach another.
    ///
    /// Pages are shared until they are written (`MAP_PRIVATE`), and nothing is left to its parent, which may go on, change or be closed.
    /// It has no clients, and `Mapping.fd` is `None`: a vhost-user back-end can't have it, and parts of it can't be discarded. A page that is written
    /// takes memory of its own. Raises `CheckpointClosed`, `BackingError`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.write(0x1000, b"booted")
    /// >>> with memory.checkpoint() as point:
    /// ...     one, other = point.fork().memory, point.fork().memory
    /// >>> one.write(0x1000, b"one")
    /// >>> one.read(0x1000, 6), other.read(0x1000, 6), memory.read(0x1000, 6)
    /// (b'oneted', b'booted', b'booted')
    fn fork(&self, py: Python<'_>) -> PyResult<PySpace> {
        PySpace::of(py, detached(py, None, |interrupt| self.space.fork(&self.point, interrupt))?)
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

    fn __repr__(&self) -> String {
        let (size, generation) = (crate::model::format::size(self.point.size()), self.generation());
        format!("Checkpoint({size} of generation {generation}, {})", self.mode())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.on_restore)?;
        visit.call(&self.registry)?;
        self.states.iter().try_for_each(|(client, state)| visit.call(client).and_then(|()| visit.call(state)))
    }
}

impl Drop for PyCheckpoint {
    fn drop(&mut self) {
        // Refused in a forked child only, whose copy nobody asks.
        let _ = self.space.abandon_checkpoint(&self.point);
    }
}
