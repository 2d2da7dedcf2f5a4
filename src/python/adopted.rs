//! Regions over memory that someone else made.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::argument::{Argument, has};
use super::buffer::adopt;
use super::convert::{self, Address, Name, Protection, Size};
use super::file as given;
use super::keywords;
use super::region::PyRegion;
use crate::model::region::{self, Region, RegionType};
use crate::model::source::Source;
use crate::sys::file;

#[pymethods]
impl PyRegion {
    /// RAM over part of a file: a memfd of another process, an image, a device file. Any offset will do, also one inside a page.
    ///
    /// `file` is a path, which pickles with the region, a descriptor, or what `open()` gives in a binary mode, which is flushed; it is duplicated. Another file object, such as
    /// that of `gzip.open()` or a named temporary file, is a `TypeError`. `size` is all from `offset` on where it is not given:
    /// `from_file(base, path)`. `shared=False` keeps writes out of the file. `prot_flags` are what the descriptor allows when not
    /// given; a path is opened for writing too, unless they or `shared=False` say that it need not be. A memfd with `F_SEAL_SHRINK` is as
    /// fast as the space's own memory, and has views and atomics. Another file may be cut by anyone, so accesses go through the kernel and a
    /// fault is a `MemoryFault`; `trusted=True` vouches that nobody does (`BackingOptions.trusted`). Raises as the class does, and what
    /// opening the path does; the length is checked when the region is mapped.
    ///
    /// >>> import tempfile
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> with tempfile.TemporaryFile() as file:
    /// ...     _ = file.write(bytes(100) + b"image" + bytes(4096)), file.flush()
    /// ...     region = AddressSpaceRegion.from_file(0, "4KiB", file, 100)
    /// >>> AddressSpace.from_regions([region], AddressSpaceLayout(1 << 46, 0, 1 << 45)).map_memory().read(0, 5)
    /// b'image'
    #[staticmethod]
    #[pyo3(signature = (base, size=None, file=None, offset=Size(0), *, name=None, shared=true, prot_flags=None, trusted=false, **others),
        text_signature = "(base, size=None, file=None, offset=0, *, name=None, shared=True, prot_flags=None, trusted=False)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn from_file(
        base: Address,
        size: Option<&Bound<'_, PyAny>>,
        file: Option<&Bound<'_, PyAny>>,
        offset: Size,
        name: Option<Name>,
        shared: bool,
        prot_flags: Option<Protection>,
        trusted: bool,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse_of::<Self>("from_file", others)?;
        let (size, file) = size_and_file(size, file)?;
        let is_written = shared && prot_flags.is_none_or(|flags| flags.0 & region::PROT_WRITE != 0);
        let rest = |file: &Bound<'_, PyAny>| size.map_or_else(|| given::rest_from(file, offset), Ok);
        let (file, size) = given::region_file(file, is_written, rest)?;
        let allowed = if shared { file::protection(&file.file) } else { Ok(region::PROT_READ | region::PROT_WRITE) };
        let source = Source { file: Some(file), file_offset: offset.0, ..Source::default() };
        let mut region = Region::new(RegionType::DefaultMemory, convert::range(base, size)?, source)?;
        region.perm_flags = if shared { region::MAP_SHARED } else { region::MAP_PRIVATE };
        region.prot_flags = prot_flags.map_or_else(|| allowed.unwrap_or(region.prot_flags), |flags| flags.0);
        region.options.trusted = trusted.then_some(true);
        Self::named(region, name)
    }

    /// RAM over a contiguous buffer: an `mmap.mmap`, a `shared_memory` block's `buf`, an array of NumPy, a bytearray, bytes.
    ///
    /// The buffer is held for as long as the region is, so its owner can't close or resize it. It may lie and end anywhere. A read-only one
    /// gives a region that is `"r--"`. What bytes, bytearrays, `array.array`, `BytesIO` and anonymous mmaps hold, also through memoryviews and
    /// arrays of NumPy over them, is touched directly, as is an mmap of a memfd with `F_SEAL_SHRINK`, while the process has a descriptor of it:
    /// whoever takes its pages in this process by other means, such as `mprotect`, kills it.
    /// Elsewhere the owner may move or cut the bytes (`ndarray.resize(refcheck=False)`, `ctypes.resize`), so accesses go through the kernel;
    /// `trusted=True` vouches that nobody does (`BackingOptions.trusted`). Where a userfaultfd was registered on it before it is mapped, or with
    /// `.replace(backing=BackingOptions(may_block=True))`, an access that is not answered within a second is given up with `MemoryFault`.
    /// Raises `BufferError` for a buffer that is not contiguous, `InvalidAddressRange` for an empty one, `InvalidArgument` for `prot_flags` that
    /// a read-only one can't have.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> buffer = bytearray(8192)
    /// >>> region = AddressSpaceRegion.from_buffer(0x10_0000, buffer, name="shared")
    /// >>> AddressSpace.from_regions([region], AddressSpaceLayout(1 << 46, 0, 1 << 45)).map_memory().write(0x10_0010, b"hi")
    /// >>> bytes(buffer[0x10:0x12])
    /// b'hi'
    #[staticmethod]
    #[pyo3(signature = (base, buffer, *, name=None, prot_flags=None, trusted=false, **others),
        text_signature = "(base, buffer, *, name=None, prot_flags=None, trusted=False)")]
    fn from_buffer(
        base: Address,
        buffer: &Bound<'_, PyAny>,
        name: Option<Name>,
        prot_flags: Option<Protection>,
        trusted: bool,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse_of::<Self>("from_buffer", others)?;
        let buffer = adopt(buffer).argument("buffer")?;
        let range = convert::range(base, Size(buffer.size))?;
        let source = Source { buffer: Some(buffer), ..Source::default() };
        let mut region = Region::new(RegionType::DefaultMemory, range, source)?;
        region.prot_flags = prot_flags.map_or(region.prot_flags, |flags| flags.0);
        region.options.trusted = trusted.then_some(true);
        Self::named(region, name)
    }
}

/// The size, if it is given, and the file, which may stand in its place: `from_file(base, path)`.
fn size_and_file<'a, 'py>(
    size: Option<&'a Bound<'py, PyAny>>,
    file: Option<&'a Bound<'py, PyAny>>,
) -> PyResult<(Option<Size>, &'a Bound<'py, PyAny>)> {
    let missing =
        "file is missing: from_file(base, path) takes all of a file, from_file(base, size, file, offset) a part of it";
    match (size.map(|size| (size, size.extract::<Size>())), file) {
        (size, Some(file)) => Ok((size.map(|(_, size)| size).transpose().argument("size")?, file)),
        (Some((file, Err(_))), None) if given::is_path(file)? || has(file, "fileno")? => Ok((None, file)),
        _ => Err(PyTypeError::new_err(missing)),
    }
}
