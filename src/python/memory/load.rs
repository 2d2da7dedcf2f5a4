//! Programs: ELF files and images, from a file into guest memory. The work is the package's.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::PyMemory;
use crate::python::calls::python_call;
use crate::python::convert::Address;
use crate::python::import_once::ImportOnce;
use crate::python::keywords;

#[pymethods]
impl PyMemory {
    /// Loads an ELF program of 32 or 64 bits: each segment at its physical address, zeroes behind its bytes. Returns a `LoadedElf`.
    ///
    /// `file` is a path, what `open()` gives in a binary mode, or the bytes of a file. `.entry` is the physical address to begin at,
    /// `.segments` are the ranges that were written, `.notes` such as the one with the entry for Xen's boot protocol (`"Xen"`, 18).
    /// All of it is written, or nothing. Raises `FormatError` for another file, a damaged one and segments that overlap; as `write`
    /// does where they lie.
    ///
    /// >>> import struct
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 0xffff8000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    /// >>> segment = struct.pack("<IIQQQQQQ", 1, 5, 120, 0xffff8000, 0x8000, 4, 0x100, 0x1000)
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> program = memory.load_elf(header + segment + b"code")
    /// >>> hex(program.entry), memory.read(program.entry, 5)
    /// ('0x8000', b'code\x00')
    #[pyo3(signature = (file))]
    fn load_elf<'py>(slf: &Bound<'py, Self>, file: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        static LOAD: ImportOnce = ImportOnce::new();
        let _guard = python_call();
        LOAD.import(slf.py(), "dbs_address_space.loading", "load_elf")?.call1((slf, file))
    }

    /// Loads all of a file at `addr`, as an initial RAM disk or firmware wants it, and returns the number of bytes written.
    ///
    /// `file` is as for `load_elf`. `compression="gzip"` unpacks it; an image is never unpacked unasked. `force=True` writes through a
    /// protection, as of `write`. All of it is written, or nothing. Raises as `write` does, and `FormatError` for what can't be unpacked.
    ///
    /// >>> import gzip
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.load_image(gzip.compress(b"ramdisk"), 0x1000, compression="gzip")
    /// 7
    /// >>> memory.read(0x1000, 7)
    /// b'ramdisk'
    #[pyo3(signature = (file, addr, *, compression=None, force=false, **others),
        text_signature = "($self, file, addr, *, compression=None, force=False)")]
    fn load_image<'py>(
        slf: &Bound<'py, Self>,
        file: &Bound<'py, PyAny>,
        addr: Address,
        compression: Option<&Bound<'py, PyAny>>,
        force: bool,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static LOAD: ImportOnce = ImportOnce::new();
        keywords::refuse_of::<Self>("load_image", others)?;
        let _guard = python_call();
        let arguments = (slf, file, addr.0, compression, force);
        LOAD.import(slf.py(), "dbs_address_space.loading", "load_image")?.call1(arguments)
    }
}
