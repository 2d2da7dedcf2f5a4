//! `MemoryPart`, and regions that are windows on bytes which others brought.

use std::sync::Arc;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::calls;
use super::convert::{self, Address, Name, Protection, Size};
use super::keywords;
use super::leaving::context_manager;
use super::memory::PyMemory;
use super::region::PyRegion;
use crate::memory::access::{Access, Verb};
use crate::memory::kept::KeptMemory;
use crate::memory::part;
use crate::memory::protection::Need;
use crate::model::alias;
use crate::model::cut;
use crate::model::format::hex;
use crate::model::ids::Origin;
use crate::model::invalid::Invalid;
use crate::model::range::{Range, joined};
use crate::model::region::{Region, RegionType, ShownBytes, WindowSource};
use crate::model::source::{KeptBytes, Part};
use crate::sys::lock::Lock;

/// Bytes of a guest's memory that stay for as long as this is kept, whether a region shows them or not.
///
/// Made by `GuestMemory.part`. Its regions are windows on those bytes, in the same space or in another; without one the bytes are seen by nobody. Used
/// in `with`, or closed, it lets go of them: what no region shows then is gone. It vetoes nothing.
///
/// >>> from dbs_address_space import AddressSpaceBuilder
/// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
/// >>> space.memory.write(0xf0000, b"RAM")
/// >>> part = space.memory.part(0xf0000, 0x10000)
/// >>> _ = space.insert_region(part.region(1 << 32, prot_flags="r-x", name="copy"))
/// >>> space.memory.read(1 << 32, 3)
/// b'RAM'
#[pyclass(frozen, weakref, name = "MemoryPart", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyPart {
    kept: Lock<Option<Arc<KeptMemory>>>,
    origin: Origin,
    /// A region that shows all of it.
    desc: Region,
}

impl Drop for PyPart {
    /// Bytes that nobody shows are given back, which takes long, without the interpreter's lock.
    fn drop(&mut self) {
        if let Some(kept) = self.kept.get_mut().take() {
            // At the interpreter's end there is no lock to let go: then they are dropped with the closure.
            let _ = calls::attach(|py| calls::detach(py, || drop(kept)));
        }
    }
}

impl PyPart {
    /// The bytes, as windows name them.
    fn bytes(&self) -> PyResult<Part> {
        let kept = self.kept.lock()?.as_ref().map(Arc::downgrade);
        let bytes = kept.ok_or_else(|| Invalid::argument("the part is closed: it keeps no bytes any more"))?;
        Ok(Part { origin: self.origin, bytes: bytes as std::sync::Weak<dyn KeptBytes> })
    }
}

context_manager!(PyPart, PyPart::close);

#[pymethods]
impl PyPart {
    /// The number of bytes.
    #[getter]
    const fn size(&self) -> u64 {
        self.desc.size()
    }

    /// A region at a base that shows `size` bytes of the part from `offset` on, or all of the rest.
    ///
    /// `offset` is a multiple of the page size. Protection and type are those of the region that the part was taken from when they are not given; the
    /// type is RAM or firmware. It can be inserted while the part is kept, and later as long as some region shows the bytes; then the insertion
    /// raises `UnmappedAddress`. Raises `InvalidAddressRange`, and `InvalidArgument` when the part is closed.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.part(0, "64KiB").region(0xf_0000_0000, 0x1000, name="window")
    /// AddressSpaceRegion('window' DEFAULT_MEMORY [0xf_0000_0000, 0xf_0000_f000) 60 KiB rw- shmem)
    #[pyo3(signature = (base, offset=Size(0), size=None, *, prot_flags=None, name=None, region_type=None, **others),
        text_signature = "($self, base, offset=0, size=None, *, prot_flags=None, name=None, region_type=None)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn region(
        &self,
        base: Address,
        offset: Size,
        size: Option<Size>,
        prot_flags: Option<Protection>,
        name: Option<Name>,
        region_type: Option<&Bound<'_, PyAny>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyRegion> {
        keywords::refuse_of::<Self>("region", others)?;
        let window = WindowSource { of: ShownBytes::Part(self.bytes()?), offset: offset.0 };
        let shown = alias::inside(&self.desc, offset.0, size.map(|size| size.0))?;
        let mut region = alias::window_on(base.0, &cut::part_of(&self.desc, shown)?, window)?;
        if let Some(region_type) = region_type {
            region.region_type = memory_type(convert::region_type(region_type)?)?;
        }
        region.prot_flags = prot_flags.map_or(region.prot_flags, |flags| flags.0);
        PyRegion::named(region, name)
    }

    /// Lets go of the bytes, as the end of a `with` does; to close it twice does nothing.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> part = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.part(0, 0x1000)
    /// >>> part.close()
    /// >>> part
    /// MemoryPart(closed)
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        // Taken out first, and dropped without either lock: giving bytes back takes long.
        let kept = self.kept.lock()?.take();
        calls::detach(py, || drop(kept));
        Ok(())
    }

    fn __repr__(&self) -> PyResult<String> {
        let is_kept = self.kept.lock()?.is_some();
        Ok(if is_kept { format!("MemoryPart({} bytes)", hex(self.size())) } else { "MemoryPart(closed)".into() })
    }

    #[allow(clippy::unused_self, reason = "a method for pickle")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("cannot pickle a MemoryPart: its bytes are those of this process"))
    }
}

fn memory_type(region_type: RegionType) -> PyResult<RegionType> {
    match region_type {
        RegionType::DefaultMemory | RegionType::FirmwareMemory => Ok(region_type),
        RegionType::DeviceMemory | RegionType::DaxMemory => {
            let message = format!("region_type={}: a window on memory is \"ram\" or \"firmware\"", region_type.value());
            Err(Invalid::argument(message).into())
        }
    }
}

#[pymethods]
impl PyMemory {
    /// Keeps the bytes of a range, whether regions show them or not: a `MemoryPart`, whose regions show them again, also in another space.
    ///
    /// The range is one of whole pages, and its bytes are those of one memory: regions that were cut from one, and may be inserted at any base.
    /// Raises `UnmappedAddress`, `NotContiguous` at the first byte of another memory, `Misaligned`, `InvalidAddressRange` for size 0, `Unsupported` for a DAX window and `may_block` memory, and
    /// `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> space.memory.write(0, b"kept")
    /// >>> part = space.memory.part(0, 0x1000)
    /// >>> with space.transaction() as change:
    /// ...     _ = change.remove_region(0)
    /// ...     _ = change.insert_region(part.region(0x8000))
    /// >>> space.memory.read(0x8000, 4)
    /// b'kept'
    fn part(&self, addr: Address, size: Size) -> PyResult<PyPart> {
        let (verb, range) = (Verb::new("part", Need::Nothing), convert::range(addr, size)?);
        self.short(|map, memory| {
            let (kept, desc) = part::keep(&Access { map, memory, verb, range }.sections()?)?;
            Ok(PyPart { kept: Lock::new(Some(Arc::new(kept))), origin: Origin::unique(), desc })
        })
    }

    /// The other addresses at which bytes of a range are seen, by ascending base: a tuple of `AddressRange`.
    ///
    /// Raises `UnmappedAddress`, `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder, AddressSpaceRegion
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> _ = space.insert_region(AddressSpaceRegion.alias(0x8000_0000, space[0], 0x10000, 0x1000))
    /// >>> space.memory.aliases(0, "1MiB")
    /// (AddressRange(base=0x8000_0000, size=0x1000),)
    fn aliases<'py>(&self, py: Python<'py>, addr: Address, size: Size) -> PyResult<Bound<'py, PyTuple>> {
        let (verb, range) = (Verb::new("aliases", Need::Nothing), convert::range(addr, size)?);
        let mut aliases = self.short(|map, memory| {
            let sections = Access { map, memory, verb, range }.sections()?;
            Ok(sections.iter().flat_map(|section| memory.aliases(section)).collect::<Vec<Range>>())
        })?;
        aliases.sort_unstable();
        convert::py_ranges(py, joined(aliases))
    }
}

#[pymethods]
impl PyRegion {
    /// A window on bytes of another region of the same space: `size` of them from `offset` on, or all of the rest, seen at `base` too.
    ///
    /// It is found by `region` when it is inserted: by that very description, or by another window on its bytes, for no window is more than the
    /// others, and each can be removed, moved or protected by itself. `offset` is a multiple of the page size. Source and options are the region's; the
    /// protection is too when it is not given. The insertion raises `UnmappedAddress` when no region there shows the bytes. Raises
    /// `InvalidAddressRange`, and `Unsupported` for devices, DAX windows and `may_block` memory.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder, AddressSpaceRegion
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> _ = space.insert_region(AddressSpaceRegion.alias(1 << 32, space[0], 0xf0000, "64KiB", prot_flags="r-x"))
    /// >>> space.memory.write(0xf0000, b"shadow")
    /// >>> space.memory.read(1 << 32, 6)
    /// b'shadow'
    #[staticmethod]
    #[pyo3(signature = (base, region, offset=Size(0), size=None, *, prot_flags=None, name=None, **others),
        text_signature = "(base, region, offset=0, size=None, *, prot_flags=None, name=None)")]
    fn alias(
        base: Address,
        region: &Bound<'_, Self>,
        offset: Size,
        size: Option<Size>,
        prot_flags: Option<Protection>,
        name: Option<Name>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse_of::<Self>("alias", others)?;
        let mut alias = alias::alias(base.0, &region.get().0, offset.0, size.map(|size| size.0))?;
        alias.prot_flags = prot_flags.map_or(alias.prot_flags, |flags| flags.0);
        Self::named(alias, name)
    }
}
