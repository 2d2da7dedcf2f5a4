//! `Mapping`: the host side of a mapped region.

use std::sync::Arc;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::calls;
use super::enum_members;
use super::region_objects::RegionObject;
use crate::memory::judge::Why;
use crate::memory::lease::WeakRegion;
use crate::memory::region::MappedRegion;
use crate::model::error::Error;
use crate::model::format::hex;
use crate::model::ids::StorageId;
use crate::model::region::SharedRegion;

/// Where a region's memory is in this process: a value that keeps nothing alive.
///
/// Made by `GuestMemory.mapping(addr)` and `mappings()`.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
/// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> mapping = space.map_memory().mapping(0)
/// >>> mapping.page_size, mapping.guarded
/// (4096, False)
#[pyclass(frozen, weakref, name = "Mapping", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyMapping {
    region: WeakRegion,
    host_address: usize,
    file_offset: Option<u64>,
    storage: StorageId,
    storage_offset: u64,
    page_size: u64,
    guarded_because: Option<Why>,
}

impl PyMapping {
    pub(super) fn of(region: &MappedRegion) -> Self {
        Self {
            region: WeakRegion::from(region),
            host_address: region.start().addr(),
            file_offset: region.start_in_file(),
            storage: region.storage().id(),
            storage_offset: region.window().shown().base(),
            page_size: region.storage().page_size(),
            guarded_because: region.guarded_because(),
        }
    }

    const fn desc(&self) -> &SharedRegion {
        self.region.desc()
    }
}

#[pymethods]
impl PyMapping {
    /// The region.
    #[getter]
    fn region(&self) -> RegionObject {
        RegionObject(Arc::clone(self.desc()))
    }

    /// The region's first guest physical address.
    #[getter]
    fn base(&self) -> u64 {
        self.desc().base()
    }

    /// The number of bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.desc().size()
    }

    /// The host address of the first byte.
    #[getter]
    fn host_address(&self) -> usize {
        self.host_address
    }

    /// The mapping's own descriptor, borrowed: open as long as the region is mapped; `None` for anonymous memory.
    ///
    /// Reading it makes huge-page memory guarded, for whoever has the descriptor can take pages away: a view taken before
    /// can then kill the process. Raises `NotMapped` when the region is gone.
    #[getter]
    fn fd(&self, py: Python<'_>) -> PyResult<Option<i32>> {
        let gone = || Error::NotMapped {
            message: format!("{} is not mapped any more, its descriptor is closed", self.desc()),
        };
        Ok(calls::detach(py, || self.region.export_descriptor()).ok_or_else(gone)?)
    }

    /// Where in the file the region begins; `None` for anonymous memory.
    #[getter]
    fn file_offset(&self) -> Option<u64> {
        self.file_offset
    }

    /// A number that tells the bytes from all others of this process: mappings that share it are windows on one memory.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> _ = space.split_region(0, 1 << 20)
    /// >>> low, high = space.memory.mappings()
    /// >>> low.storage == high.storage, high.storage_offset
    /// (True, 1048576)
    #[getter]
    const fn storage(&self) -> u64 {
        self.storage.number()
    }

    /// Where in those bytes the region begins.
    #[getter]
    const fn storage_offset(&self) -> u64 {
        self.storage_offset
    }

    /// The protection, a `Prot`.
    #[getter]
    fn prot_flags<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        enum_members::protection(py, self.desc().prot_flags)
    }

    /// Whether accesses go through the kernel, because a touch may fault.
    #[getter]
    fn guarded(&self) -> bool {
        self.guarded_because.is_some()
    }

    /// Why accesses go through the kernel, and what to do about it, as a sentence; `None` where they don't.
    ///
    /// It is why views, arrays and atomics are refused here, and what their errors say.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, BackingOptions
    /// >>> region = AddressSpaceRegion("ram", 0, "4KiB", backing=BackingOptions(seals=[]))
    /// >>> space = AddressSpace.from_regions([region], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> print(space.map_memory().mapping(0).guarded_because)
    /// its file can be cut: seal it with F_ADD_SEALS F_SEAL_SHRINK before it is mapped, or vouch for it with trusted=True
    #[getter]
    fn guarded_because(&self) -> Option<String> {
        self.guarded_because.map(|why| why.to_string())
    }

    /// Bytes a page.
    #[getter]
    fn page_size(&self) -> u64 {
        self.page_size
    }

    fn __eq__(&self, other: &Bound<'_, Self>) -> bool {
        let other = other.get();
        let is_same_memory = self.region.is_memory_of(&other.region) && self.guarded_because == other.guarded_because;
        is_same_memory && self.desc() == other.desc()
    }

    fn __hash__(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (self.desc(), self.host_address).hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        let (host, guarded) =
            (hex(u64::try_from(self.host_address).unwrap_or_default()), if self.guarded() { " guarded" } else { "" });
        let protection = crate::model::format::protection(self.desc().prot_flags);
        format!(
            "Mapping({} at host {host} {protection} {} pages{guarded})",
            self.desc(),
            crate::model::format::size(self.page_size)
        )
    }

    #[allow(clippy::unused_self, reason = "a method for pickle")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("cannot pickle a Mapping: its addresses mean nothing in another process"))
    }
}
