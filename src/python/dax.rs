//! `DaxWindow`.

use std::sync::{Arc, Weak};

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::convert::{self, Protection, Size};
use super::interrupt::detached;
use super::region_objects::RegionObject;
use super::space_ref::SpaceRef;
use crate::memory::dax;
use crate::memory::lease::Lease;
use crate::memory::mapping::Mapping;
use crate::memory::region::{DAX_LEASE, MappedRegion};
use crate::model::error::{Error, Result};
use crate::model::invalid::Invalid;
use crate::model::region::SharedRegion;

/// A DAX region into which files, or parts of them, are mapped while the guest runs, as virtio-fs does it.
///
/// Made by `GuestMemory.dax_window(region)`. Where a file is mapped, `GuestMemory` reads and writes it as its protection allows;
/// elsewhere the window is `AccessDenied`. Offsets and sizes are of whole pages. It keeps its space alive, not its region.
///
/// >>> import tempfile
/// >>> from dbs_address_space import AddressSpaceBuilder
/// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"], dax_window="2MiB").build().memory
/// >>> window = memory.dax_window("dax0")
/// >>> with tempfile.TemporaryFile() as file:
/// ...     _ = file.write(b"hello".ljust(4096)), file.flush()
/// ...     window.map_file(0, file, 0, 4096, "r--")
/// >>> memory.read(window.region.base, 5)
/// b'hello'
#[pyclass(frozen, name = "DaxWindow", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyDaxWindow {
    space: SpaceRef,
    desc: SharedRegion,
    mapping: Weak<Mapping>,
}

impl PyDaxWindow {
    pub(super) fn of(space: SpaceRef, region: Arc<MappedRegion>) -> Result<Self> {
        match region.mapping.window() {
            Some(_) => Ok(Self { space, desc: Arc::clone(&region.desc), mapping: Arc::downgrade(&region.mapping) }),
            None => {
                Err(Invalid::argument(format!("{} is not a DAX window: create it with create_dax_region", region.desc))
                    .about(Some(region.desc.base()), Some(region.desc.size()))
                    .into())
            }
        }
    }

    /// The region as it is now, held so that it is not removed meanwhile.
    fn lease(&self) -> Result<(Arc<MappedRegion>, Lease)> {
        let gone = || Error::NotMapped { message: format!("the DAX window {} was removed", self.desc) };
        let region = {
            let snapshot = self.space.load();
            let memory = snapshot.memory.as_ref().ok_or_else(gone)?;
            Arc::clone(memory.find(self.desc.base()).ok_or_else(gone)?)
        };
        if !std::ptr::eq(Weak::as_ptr(&self.mapping), Arc::as_ptr(&region.mapping)) {
            return Err(gone());
        }
        let lease = region.lease(DAX_LEASE, region.desc.base(), region.desc.size(), false).map_err(|_| gone())?;
        Ok((region, lease))
    }
}

#[pymethods]
impl PyDaxWindow {
    /// The region.
    #[getter]
    fn region(&self) -> RegionObject {
        RegionObject(Arc::clone(&self.desc))
    }

    /// Maps `size` bytes of a file, from `file_offset` on, at an offset of the window; the file may be closed then.
    ///
    /// Bytes that the file does not have are `MemoryFault` when accessed. Raises `InvalidAddressRange` when it does not lie in the
    /// window or something is mapped there, `Misaligned`, `BackingError`, `NotMapped` when the region was removed.
    ///
    /// >>> import tempfile
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"], dax_window="2MiB").build().memory
    /// >>> window = memory.dax_window("dax0")
    /// >>> with tempfile.TemporaryFile() as file:
    /// ...     _ = file.truncate(4096)
    /// ...     window.map_file(0x1000, file, 0, 4096)
    /// >>> window.mappings[0].offset
    /// 4096
    #[pyo3(signature = (offset, file, file_offset, size, prot=Protection(3)), text_signature = "($self, offset, file, file_offset, size, prot='rw-')")]
    fn map_file(
        &self,
        py: Python<'_>,
        offset: Size,
        file: &Bound<'_, PyAny>,
        file_offset: Size,
        size: Size,
        prot: Protection,
    ) -> PyResult<()> {
        let file = convert::user_file(file)?;
        detached(py, None, |_| {
            let (region, _lease) = self.lease()?;
            dax::map_file(&region, offset.0, &file.file, file.identity, file_offset.0, size.0, prot.0)
        })
    }

    /// Takes what is mapped in a range out of the window; it may cut mappings and cover holes.
    ///
    /// Raises `InvalidAddressRange`, `Misaligned`, `RegionBusy` when a view holds part of it, `NotMapped`.
    ///
    /// >>> import tempfile
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"], dax_window="2MiB").build().memory
    /// >>> window = memory.dax_window("dax0")
    /// >>> with tempfile.TemporaryFile() as file:
    /// ...     _ = file.truncate(8192)
    /// ...     window.map_file(0, file, 0, 8192)
    /// >>> window.unmap(0, 4096)
    /// >>> window.mappings[0].offset
    /// 4096
    fn unmap(&self, py: Python<'_>, offset: Size, size: Size) -> PyResult<()> {
        detached(py, None, |_| {
            let (region, _lease) = self.lease()?;
            dax::unmap(&region, offset.0, size.0)
        })
    }

    /// What is mapped, a tuple of `DaxMapping` by ascending offset.
    #[getter]
    fn mappings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let sections =
            self.mapping.upgrade().and_then(|mapping| Some(mapping.window()?.sections())).unwrap_or_default();
        let mapping = |section: crate::memory::dax_table::DaxMapping| {
            let prot_flags = convert::py_protection(py, (section.prot_flags,))?;
            convert::py_dax_mapping(py, (section.offset, section.size, section.file_offset, prot_flags))
        };
        PyTuple::new(py, sections.into_iter().map(mapping).collect::<PyResult<Vec<_>>>()?)
    }

    fn __repr__(&self) -> String {
        let count =
            self.mapping.upgrade().and_then(|mapping| Some(mapping.window()?.sections().len())).unwrap_or_default();
        format!("DaxWindow({}, {count} mappings)", self.desc)
    }
}
