//! `DaxWindow`.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::calls;
use super::convert::{self, Protection, Size};
use super::enum_members;
use super::file::user_file;
use super::interrupt::detached;
use super::region_objects::RegionObject;
use super::space_ref::SpaceRef;
use crate::memory::dax::{self, DAX_LEASE};
use crate::memory::dax_window::DaxMapping;
use crate::memory::held_lease::Writes;
use crate::memory::lease::{Lease, WeakRegion};
use crate::memory::places::Refused;
use crate::memory::region::MappedRegion;
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;

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
#[pyclass(frozen, weakref, name = "DaxWindow", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyDaxWindow {
    space: SpaceRef,
    region: WeakRegion,
}

impl PyDaxWindow {
    pub(super) fn of(space: SpaceRef, region: &MappedRegion) -> Result<Self> {
        dax::check_window(region)?;
        Ok(Self { space, region: WeakRegion::from(region) })
    }

    /// Runs `work` on the window while it is leased, without the interpreter's lock.
    fn change(&self, py: Python<'_>, work: impl FnOnce(&MappedRegion) -> Result<()> + Send) -> PyResult<()> {
        self.space.check_process()?;
        detached(py, None, |interrupt| work(self.lease(interrupt)?.region()))
    }

    /// Without the interpreter's lock, for the memory may be unmapped at the end of this look, when its region was just removed.
    fn files(&self, py: Python<'_>) -> Result<Vec<DaxMapping>> {
        Ok(calls::detach(py, || self.region.dax_mappings())?)
    }

    /// Holds the region, so that it is not removed meanwhile.
    fn lease(&self, interrupt: &dyn Interrupt) -> Result<Lease> {
        loop {
            match self.region.lease(DAX_LEASE, self.region.desc().range, Writes::Never) {
                Ok(lease) => return Ok(lease),
                Err(Refused::Closing) => self.space.wait_settled(&self.region, interrupt)?,
                Err(Refused::Closed) => {
                    let message = format!("the DAX window {} was removed", self.region.desc());
                    return Err(Error::NotMapped { message });
                }
            }
        }
    }
}

#[pymethods]
impl PyDaxWindow {
    /// The region.
    #[getter]
    fn region(&self) -> RegionObject {
        RegionObject(Arc::clone(self.region.desc()))
    }

    /// Maps `size` bytes of a file, from `file_offset` on, at an offset of the window; the file may be closed then.
    ///
    /// `file` is one that `AddressSpaceRegion.from_file` takes.
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
        let (file, range) = (user_file(file)?, Range::new(offset.0, size.0)?);
        let (file_offset, prot_flags) = (file_offset.0, prot.0);
        let mapping = DaxMapping { range, file_offset, prot_flags, file: file.identity };
        self.change(py, |region| dax::map_file(region, &file.file, mapping))
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
        let range = Range::new(offset.0, size.0)?;
        self.change(py, |region| dax::unmap(region, range))
    }

    /// The mapped files, a tuple of `DaxMapping` by ascending offset.
    #[getter]
    fn mappings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let mapping = |mapping: DaxMapping| {
            let prot_flags = enum_members::protection(py, mapping.prot_flags)?;
            let (offset, size) = (mapping.range.base(), mapping.range.size());
            convert::py_dax_mapping(py, (offset, size, mapping.file_offset, prot_flags))
        };
        PyTuple::new(py, self.files(py)?.into_iter().map(mapping).collect::<PyResult<Vec<_>>>()?)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("DaxWindow({}, {} mappings)", self.region.desc(), self.files(py)?.len()))
    }
}
