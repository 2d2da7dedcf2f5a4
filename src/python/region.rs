//! `AddressSpaceRegion`.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::backing::PyBackingOptions;
use super::calls::python_call;
use super::convert::{self, Address, CInt, Name, Protection, Size, U32};
use super::enum_members;
use super::file::region_file;
use super::keywords;
use super::region_args;
use crate::model::region::{self, MAP_POPULATE, MAP_PRIVATE, PROT_WRITE, Region, RegionType, SharedRegion};
use crate::model::source::{Source, UserFile};

/// The description of a range of guest physical addresses: an immutable value that owns no memory.
///
/// `base` and `size` are bytes (`size` also as text such as `"2GiB"`), `end` is exclusive, `last_addr` inclusive. RAM with neither
/// `file` nor `mem_type` is a memfd, or anonymous with `MAP_ANONYMOUS`. Flags and hints that are not given are those of the type
/// and source. The memory itself is made by `AddressSpace.map_memory()` or on insertion into a mapped space.
///
/// What would have no effect is refused: a device region has no source, flags or options; a DAX region none but `alignment`, `guard_pages`
/// and `may_block`; a buffer is mapped already, and none but `may_block` and `trusted`; `mem_file_path` is for `"hugetlbfs"`, and `file_offset` for that
/// and for `file`. `is_hotplug` and `is_anonpage` are for whoever asks the region.
///
/// `backing` are `BackingOptions`; `page_size`, `is_hugepage` and `is_mergeable` set one of them each, and must not contradict it.
///
/// Raises `InvalidAddressRange` (size 0, an end past 2^64 - 1, a bad page size), `InvalidArgument` (a bad name, options that
/// contradict each other), `InvalidRegionType`, `InvalidMemorySourceType`, `BackingError` (a descriptor that isn't open).
///
/// >>> from dbs_address_space import AddressSpaceRegion
/// >>> AddressSpaceRegion("ram", 0, "3GiB", name="ram-low", mem_type="shmem")
/// AddressSpaceRegion('ram-low' DEFAULT_MEMORY [0x0, 0xc000_0000) 3 GiB rw- shmem)
#[pyclass(frozen, eq, hash, weakref, name = "AddressSpaceRegion", module = "dbs_address_space")]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct PyRegion(pub(super) SharedRegion);

impl PyRegion {
    fn checked(region: Region) -> PyResult<Self> {
        region.check()?;
        Ok(Self(Arc::new(region)))
    }

    pub(super) fn named(mut region: Region, name: Option<Name>) -> PyResult<Self> {
        region.name = name.map(|name| name.0);
        Self::checked(region)
    }

    pub(super) fn of_type(region_type: RegionType, base: Address, size: Size) -> PyResult<Region> {
        Ok(Region::new(region_type, convert::range(base, size)?, Source::default())?)
    }
}

#[pymethods]
impl PyRegion {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str, &'static str) {
        ("region_type", "base", "size")
    }

    #[new]
    #[pyo3(signature = (region_type, base, size, *, name=None, host_numa_node_id=None, mem_type=None, mem_file_path=None, file=None,
        file_offset=Size(0), perm_flags=None, prot_flags=None, page_size=None, is_hugepage=None, is_hotplug=false, is_anonpage=None,
        is_mergeable=None, backing=None, **others),
        text_signature = "(region_type, base, size, *, name=None, host_numa_node_id=None, mem_type=None, mem_file_path='', file=None, file_offset=0, perm_flags=None, prot_flags=None, page_size=None, is_hugepage=None, is_hotplug=False, is_anonpage=None, is_mergeable=False, backing=None)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn new(
        region_type: &Bound<'_, PyAny>,
        base: Address,
        size: Size,
        name: Option<Name>,
        host_numa_node_id: Option<U32>,
        mem_type: Option<&Bound<'_, PyAny>>,
        mem_file_path: Option<&Bound<'_, PyAny>>,
        file: Option<&Bound<'_, PyAny>>,
        file_offset: Size,
        perm_flags: Option<CInt>,
        prot_flags: Option<Protection>,
        page_size: Option<Size>,
        is_hugepage: Option<bool>,
        is_hotplug: bool,
        is_anonpage: Option<bool>,
        is_mergeable: Option<bool>,
        backing: Option<&Bound<'_, PyBackingOptions>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse::<Self>(others)?;
        let region_type = convert::region_type(region_type)?;
        let is_private =
            perm_flags.as_ref().map_or(region_type == RegionType::FirmwareMemory, |flags| flags.0 & MAP_PRIVATE != 0);
        let is_written = !is_private && prot_flags.as_ref().is_none_or(|flags| flags.0 & PROT_WRITE != 0);
        let opened = |file| region_file(file, is_written, |_| Ok(()));
        let source = Source {
            source_type: mem_type.map(convert::source_type).transpose()?,
            path: mem_file_path.map(|path| convert::path(path, "mem_file_path")).transpose()?.unwrap_or_default(),
            file: file.map(opened).transpose()?.map(|(file, ())| file),
            file_offset: file_offset.0,
            ..Source::default()
        };
        let mut region = Region::new(region_type, convert::range(base, size)?, source)?;
        region.host_numa_node_id = host_numa_node_id.map(|node| node.0);
        region.perm_flags = perm_flags.map_or(region.perm_flags, |flags| flags.0);
        region.prot_flags = prot_flags.map_or(region.prot_flags, |flags| flags.0);
        region.is_anonpage = is_anonpage.unwrap_or(region.is_anonpage);
        region.is_hotplug = is_hotplug;
        region.options = backing
            .map_or_else(Default::default, |backing| backing.get().0.clone())
            .with_arguments(page_size.map(|size| size.0), is_hugepage, is_mergeable, region.is_huge())
            .map_err(|refused| refused.about(Some(base.0), Some(size.0)))?;
        Self::named(region, name)
    }

    /// The name, unique in a space, or `None`.
    #[getter]
    fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// The region's meaning to the guest, an `AddressSpaceRegionType`.
    #[getter]
    fn region_type<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        enum_members::region_type(py, self.0.region_type.value())
    }

    /// The first address.
    #[getter]
    fn base(&self) -> u64 {
        self.0.base()
    }

    /// The number of bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.0.size()
    }

    /// The first address behind the region.
    #[getter]
    fn end(&self) -> u64 {
        self.0.end()
    }

    /// The last address of the region.
    #[getter]
    fn last_addr(&self) -> u64 {
        self.0.range.last_addr()
    }

    /// The host's NUMA node that the memory should come from, or `None`.
    #[getter]
    fn host_numa_node_id(&self) -> Option<u32> {
        self.0.host_numa_node_id
    }

    /// The source that was given, a `MemorySourceType`, or `None`.
    #[getter]
    fn mem_type<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.source.source_type.map(|source| enum_members::source_type(py, source.as_str())).transpose()
    }

    /// The path of a `"hugetlbfs"` source; empty for the others.
    #[getter]
    fn mem_file_path<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        Ok(self.0.source.path.as_os_str().into_pyobject(py)?)
    }

    /// The region's own duplicate of the descriptor that `file` gave, borrowed: open as long as the region lives. `None` without.
    #[getter]
    fn file(&self) -> Option<RawFd> {
        self.0.source.file.as_ref().map(|user_file| user_file.file.as_raw_fd())
    }

    /// The offset of the region in its file, in bytes.
    #[getter]
    fn file_offset(&self) -> u64 {
        self.0.source.file_offset
    }

    /// The `mmap` flags, a `MapFlags`.
    #[getter]
    fn perm_flags<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        enum_members::map_flags(py, self.0.perm_flags)
    }

    /// The `mmap` protection, a `Prot`.
    #[getter]
    fn prot_flags<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        enum_members::protection(py, self.0.prot_flags)
    }

    /// The page size of a huge source in bytes, or `None` for the host's default.
    #[getter]
    fn page_size(&self) -> Option<u64> {
        self.0.options.page_size
    }

    /// Whether huge pages are asked for: of the pool for a huge source, transparent ones for the others.
    #[getter]
    fn is_hugepage(&self) -> bool {
        self.0.is_hugepage()
    }

    /// Whether the region was plugged into a running machine.
    #[getter]
    fn is_hotplug(&self) -> bool {
        self.0.is_hotplug
    }

    /// Whether the memory is anonymous.
    #[getter]
    fn is_anonpage(&self) -> bool {
        self.0.is_anonpage
    }

    /// Whether the memory is offered to kernel samepage merging.
    #[getter]
    fn is_mergeable(&self) -> bool {
        self.0.is_mergeable()
    }

    /// The options with which the memory is requested from the kernel, a `BackingOptions`.
    #[getter]
    fn backing(&self) -> PyBackingOptions {
        PyBackingOptions(self.0.options.clone())
    }

    /// Whether the memory is or will be backed by a file or memfd.
    #[getter]
    fn has_file(&self) -> bool {
        self.0.has_file()
    }

    /// Whether the two regions share an address.
    ///
    /// >>> from dbs_address_space import AddressSpaceRegion
    /// >>> low = AddressSpaceRegion("ram", 0, 0x1000)
    /// >>> low.intersect_with(AddressSpaceRegion("ram", 0x1000, 0x1000))
    /// False
    fn intersect_with(&self, other: &Bound<'_, Self>) -> bool {
        self.0.range.overlaps(&other.get().0.range)
    }

    #[pyo3(signature = (**changes))]
    fn __replace__<'py>(&self, py: Python<'py>, changes: Option<&Bound<'py, PyDict>>) -> PyResult<Self> {
        self.replace(py, changes)
    }

    /// The region with some of the constructor's arguments changed; `copy.replace` does the same.
    ///
    /// Flags and hints that were the defaults of the old type and source become those of the new. Raises as the class does, and
    /// `TypeError` for a name that is not an argument.
    ///
    /// >>> from dbs_address_space import AddressSpaceRegion
    /// >>> AddressSpaceRegion("ram", 0, "1GiB").replace(name="ram0", size="2GiB")
    /// AddressSpaceRegion('ram0' DEFAULT_MEMORY [0x0, 0x8000_0000) 2 GiB rw- shmem)
    #[pyo3(signature = (**changes))]
    fn replace<'py>(&self, py: Python<'py>, changes: Option<&Bound<'py, PyDict>>) -> PyResult<Self> {
        let _guard = python_call();
        let (old, changes) = (&self.0, changes.cloned().unwrap_or_else(|| PyDict::new(py)));
        let arguments = region_args::changed(py, old, &changes)?;
        // The class takes no buffer: what is said of it is put back with it.
        let trusted = if old.source.is_held() { region_args::take_trusted(&arguments)? } else { None };
        let new = py.get_type::<Self>().call((), Some(&arguments))?.cast_into::<Self>()?;
        let mut region = (*new.get().0).clone();
        if !changes.contains("perm_flags")? {
            region.perm_flags |= old.perm_flags & MAP_POPULATE;
        }
        // The duplicate is the file of equal regions, and need not be held twice.
        if !changes.contains("file")? {
            region.source.file.clone_from(&old.source.file);
        }
        region.source.buffer.clone_from(&old.source.buffer);
        region.source.reader.clone_from(&old.source.reader);
        region.window.clone_from(&old.window);
        region.options.trusted = trusted.or(region.options.trusted);
        // The default of a buffer or dump is its own, which the class does not know.
        if old.source.is_held() && !changes.contains("prot_flags")? {
            region.prot_flags = old.prot_flags;
        }
        Self::checked(region)
    }

    fn __len__(&self) -> PyResult<usize> {
        let length = isize::try_from(self.0.size()).map(isize::unsigned_abs);
        length.map_err(|_| PyOverflowError::new_err("the region is larger than sys.maxsize; use .size"))
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __contains__(&self, addr: Address) -> bool {
        self.0.range.contains(addr.0)
    }

    fn __repr__(&self) -> String {
        region::repr(&self.0)
    }

    fn __copy__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __deepcopy__(slf: Py<Self>, _memo: &Bound<'_, PyAny>) -> Py<Self> {
        slf
    }

    #[allow(clippy::type_complexity, reason = "what pickle asks for")]
    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<((Bound<'py, PyAny>, u64, u64), Bound<'py, PyDict>)> {
        let (region, keywords) = (&self.0, region_args::keywords(py, &self.0)?);
        let refused = |why: &str| PyTypeError::new_err(format!("cannot pickle {region}: {why}"));
        match &region.source {
            _ if region.window.is_some() => {
                return Err(refused("it is a window on bytes of another region; make it anew there"));
            }
            Source { buffer: None, reader: None, file: None, .. } => {}
            Source { buffer: None, reader: None, file: Some(UserFile { path: Some(path), .. }), .. } => {
                keywords.set_item("file", path.as_os_str())?;
            }
            _ => {
                return Err(refused(
                    "its descriptor, buffer or dump means nothing elsewhere; give the path of a file, or another one there",
                ));
            }
        }
        Ok(((self.region_type(py)?, region.base(), region.size()), keywords))
    }
}
