//! `GuestMemory`: the bytes behind an address space. One file for each kind of verb.

#![deny(clippy::disallowed_methods, reason = "sizes here are chosen by callers")]

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::base::target;
use super::convert::{self, Address, Size};
use super::dax::PyDaxWindow;
use super::interrupt::detached;
use super::leaving::{context_manager, patience};
use super::mapping::PyMapping;
use super::region_key::PyRegionKey;
use super::region_objects::RegionObject;
use super::registry::PyRegistry;
use super::seconds::Timeout;
use super::space_ref::SpaceRef;
use super::tracker::PyDirty;
use crate::memory::access::{Access, Shape, Verb};
use crate::memory::protection::Need;
use crate::memory::section::Section;

use crate::model::error::Error;
use crate::model::format;
use crate::model::ids::Incarnation;
use crate::model::invalid::Invalid;
use crate::model::range::Range;

mod atomic;
mod bytes;
mod checkpoint;
mod copy;
mod data;
mod discard;
mod dump;
mod image;
mod integers;
mod load;
mod memory_stats;
mod prealloc;
mod run;
mod scan;
pub mod search;
mod send;
mod stream;
mod structs;
mod transfer;
mod translate;
mod vectors;
mod views;
pub mod wait;

/// All addresses.
pub(super) const EVERYWHERE: Range = Range::between(0, u64::MAX);

/// The bytes behind a mapped address space: a live handle that follows every later change and keeps its space alive.
///
/// Made by `AddressSpace.map_memory()`. Accesses may span touching regions and are all or nothing: a hole or a device region is
/// `UnmappedAddress`, a protection `AccessDenied`, both with the first bad address. Only a fault of the memory itself, such as a
/// truncated file, can stop one midway: `MemoryFault`, never a signal. Size 0 does nothing, anywhere. Copies from 4 MiB on release
/// the interpreter's lock. Used in `with`, or closed, all memory is unmapped; views and arrays on it refuse that with `RegionBusy`.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
/// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> memory = space.map_memory()
/// >>> memory.write_u32(0x1000, 0x12345678)
/// >>> memory.read(0x1000, 4)
/// b'xV4\x12'
#[pyclass(frozen, weakref, name = "GuestMemory", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyMemory {
    space: SpaceRef,
    /// Closing the memory is a change that they are asked about.
    registry: Py<PyRegistry>,
    incarnation: Incarnation,
}

impl PyMemory {
    pub(super) const fn new(space: SpaceRef, registry: Py<PyRegistry>, incarnation: Incarnation) -> Self {
        Self { space, registry, incarnation }
    }

    /// The space, and the Python side of it.
    pub(super) fn owner(&self, py: Python<'_>) -> (SpaceRef, Py<PyRegistry>) {
        (self.space.clone(), self.registry.clone_ref(py))
    }

    /// The verb and the range for one region (exact base, name or region) and no other that takes its place, or for all that have memory.
    fn regions_of(&self, verb: Verb, region: Option<&Bound<'_, PyAny>>) -> PyResult<(Verb, Range)> {
        let Some(region) = region else { return Ok((verb.shaped(Shape::Mapped), EVERYWHERE)) };
        let target = target(region, "region")?;
        self.short(|map, memory| {
            let desc = target.find(map)?;
            match memory.find(desc.base()) {
                Some(_) => Ok((verb.shaped(Shape::Of(desc.id)), desc.range)),
                None => Err(Error::Unmapped {
                    message: format!("{desc} is a device: it has no memory"),
                    address: Some(desc.base()),
                    size: Some(desc.size()),
                    region: Some(Arc::clone(desc)),
                }),
            }
        })
    }

    /// The verb and the range for a part of a region, which lies in it.
    fn part_of(&self, verb: Verb, region: &Bound<'_, PyAny>, offset: Size, size: Size) -> PyResult<(Verb, Range)> {
        let (verb, range) = self.regions_of(verb, Some(region))?;
        let part = range.skip(offset.0).take(size.0);
        if part.size() == size.0 {
            return Ok((verb, part));
        }
        // The region was cut meanwhile: to do less than was asked for would not be noticed.
        let (size_text, offset) = (format::hex(size.0), format::hex(offset.0));
        let message = format!("the region {range} has no {size_text} bytes from offset {offset} on");
        Err(Invalid::at(message, Some(range.base()), Some(size.0)).into())
    }

    /// Calls `look` with the byte at an address, which is neither read nor held.
    fn at<T>(&self, verb: Verb, addr: Address, look: impl FnOnce(&Section<'_>) -> T) -> PyResult<T> {
        let range = convert::range(addr, Size(1))?;
        self.short(|map, memory| {
            let access = Access { map, memory, verb, range };
            access.sections()?.first().map(look).ok_or_else(|| access.unmapped(addr.0))
        })
    }
}

context_manager!(PyMemory, |memory, py| memory.close(py, Some(Timeout(Duration::ZERO))));

#[pymethods]
impl PyMemory {
    /// Whether every byte of a range has memory; protections play no part. `True` for size 0.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.check_range(0, "4MiB"), memory.check_range(0, "5MiB")
    /// (True, False)
    fn check_range(&self, addr: Address, size: Size) -> PyResult<bool> {
        let range = convert::range(addr, size)?;
        let verb = Verb::new("check_range", Need::Nothing);
        self.short(|map, memory| Ok(Access { map, memory, verb, range }.sections().is_ok()))
    }

    /// The host address of a guest physical address, valid until its region is removed: nothing holds it.
    ///
    /// Raises `UnmappedAddress`, `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.host_address(0x1000) - memory.host_address(0)
    /// 4096
    fn host_address(&self, addr: Address) -> PyResult<usize> {
        self.at(Verb::new("host_address", Need::Address), addr, |section| section.host().addr())
    }

    /// The lowest guest physical address at which the byte at a host address is seen now: the way back from `host_address`.
    ///
    /// Raises `UnmappedAddress` with the host address where no region shows it, `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.guest_address(memory.host_address(0x1234)) == 0x1234
    /// True
    fn guest_address(&self, host: Address) -> PyResult<u64> {
        self.short(|_, memory| memory.guest_addresses(host.0).min().ok_or_else(|| not_shown(host.0)))
    }

    /// All guest physical addresses at which the byte at a host address is seen now: an ascending tuple, empty where no region shows it.
    ///
    /// Raises `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.guest_addresses(memory.host_address(0)), memory.guest_addresses(0)
    /// ((0,), ())
    fn guest_addresses<'py>(&self, py: Python<'py>, host: Address) -> PyResult<Bound<'py, PyTuple>> {
        let mut found: Vec<u64> = self.short(|_, memory| Ok(memory.guest_addresses(host.0).collect()))?;
        found.sort_unstable();
        PyTuple::new(py, found)
    }

    /// The regions that have memory, by ascending base.
    #[getter]
    fn regions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        // Objects are made behind the snapshot: making one may run Python code.
        let descs: Vec<_> =
            self.short(|_, memory| Ok(memory.regions().map(|region| Arc::clone(region.desc())).collect()))?;
        convert::py_tuple(py, descs.into_iter().map(RegionObject))
    }

    /// The `Mapping` of the region that holds `addr`. Raises `UnmappedAddress`, `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.mapping(0x1000).base
    /// 0
    fn mapping(&self, addr: Address) -> PyResult<PyMapping> {
        self.at(Verb::new("mapping", Need::Nothing), addr, |section| PyMapping::of(section.region()))
    }

    /// The `Mapping` of every region that has memory, by ascending base. Raises `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> [mapping.size for mapping in memory.mappings()]
    /// [4194304]
    fn mappings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let mappings: Vec<_> = self.short(|_, memory| Ok(memory.regions().map(PyMapping::of).collect()))?;
        convert::py_tuple(py, mappings)
    }

    /// The `DaxWindow` of a DAX region, given by exact base, name or region.
    ///
    /// Raises `UnmappedAddress`, `InvalidAddressRange` for another region.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"], dax_window="2MiB").build().memory
    /// >>> memory.dax_window("dax0").mappings
    /// ()
    fn dax_window(&self, region: &Bound<'_, PyAny>) -> PyResult<PyDaxWindow> {
        let (verb, range) = self.regions_of(Verb::new("dax_window", Need::Nothing), Some(region))?;
        self.short(|map, memory| {
            let access = Access { map, memory, verb, range };
            let sections = access.sections()?;
            let section = sections.first().ok_or_else(|| access.unmapped(range.base()))?;
            PyDaxWindow::of(self.space.clone(), section.region())
        })
    }

    /// The key of a region with memory, which no other has; it can stand for the region wherever a name can.
    fn _key(&self, region: &Bound<'_, PyAny>) -> PyResult<PyRegionKey> {
        let target = target(region, "region")?;
        self.short(|map, _| target.find(map).cloned()).map(PyRegionKey)
    }

    /// Unmaps everything; the space stays as a map, and `map_memory()` then makes new memory. Closing twice does nothing.
    ///
    /// A region that views, arrays or long accesses hold is `RegionBusy`, at once or after `timeout` seconds (`None`: never); then nothing is
    /// unmapped.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> space.memory.close()
    /// >>> space.is_mapped
    /// False
    #[pyo3(signature = (*, timeout=Some(Timeout(Duration::ZERO))), text_signature = "($self, *, timeout=0.0)")]
    fn close(&self, py: Python<'_>, timeout: Option<Timeout>) -> PyResult<()> {
        let patience = patience(timeout);
        detached(py, None, |interrupt| self.space.close_memory(self.incarnation, patience, interrupt))
    }

    /// The tracking of writes: `start()` it, and see which sources are `available()`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> tracker = memory.dirty.start("api")
    /// >>> tracker.sources
    /// ('api',)
    #[getter]
    fn dirty(&self) -> PyDirty {
        PyDirty { space: self.space.clone(), incarnation: self.incarnation }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        visit.call(&self.registry)
    }

    fn __repr__(&self) -> String {
        // Held while it is shown: no Python code runs here.
        let snapshot = self.space.load();
        let Ok(memory) = snapshot.memory_of(self.incarnation) else { return "GuestMemory(closed)".into() };
        let size = memory.regions().map(|region| region.range().size()).sum();
        format!("GuestMemory({} regions, {})", memory.regions().len(), format::size(size))
    }

    #[allow(clippy::unused_self, reason = "a method for pickle")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "cannot pickle GuestMemory: it is a handle on this process's mappings; multiprocessing, imported before this package, gives \
             other processes a follower's",
        ))
    }
}

fn not_shown(host: u64) -> Error {
    let message = format!("no region shows the host address {}", format::hex(host));
    Error::Unmapped { message, address: Some(host), size: None, region: None }
}
