//! Looking at many bytes: comparing, hashing, dumping, finding.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::search::{self, PySearch};
use super::{PyMemory, Verb, whole};
use crate::memory::access::Access;
use crate::memory::mapped_regions::Need;
use crate::memory::scan::{self, Chunk, Digest};
use crate::memory::section::Section;
use crate::model::error::{Error, Result};
use crate::model::format::hex;
use crate::model::hexdump::Hexdump;
use crate::model::interrupt::Interrupt;
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::python::buffer;
use crate::python::convert::{self, Address, Size, U64};
use crate::python::interrupt::detached;

/// A `hashlib` object, fed without the interpreter's lock leased in between.
struct PyDigest {
    update: Py<PyAny>,
    raised: Option<PyErr>,
}

impl Digest for PyDigest {
    fn update(&mut self, bytes: &[u8]) -> Result<()> {
        Python::attach(|py| self.update.call1(py, (PyBytes::new(py, bytes),)).map(drop)).map_err(|raised| {
            self.raised = Some(raised);
            Error::Interrupted
        })
    }
}

impl PyMemory {
    /// Does long work on a range under leases, without the interpreter's lock.
    fn scan<T: Default + Send>(
        &self,
        py: Python<'_>,
        verb: &'static str,
        range: Range,
        progress: Option<Py<PyAny>>,
        work: impl FnOnce(&[Section], &dyn Interrupt) -> Result<T> + Send,
    ) -> PyResult<T> {
        let verb: Verb = (verb, Need::Read);
        if range.is_empty() {
            return self.with_memory(|_, _| Ok(T::default()));
        }
        let leased = self.lease(py, verb, range, whole)?;
        detached(py, progress, move |interrupt| work(&leased.sections, interrupt))
    }
}

#[pymethods]
impl PyMemory {
    /// The first address at which the guest's bytes differ from `data`, or `None`.
    ///
    /// Looking at memory that no one has written does not allocate it. Raises as `read` does.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.map_memory().compare(0x10, bytes(3) + b"x")
    /// 19
    fn compare(&self, py: Python<'_>, addr: Address, data: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
        buffer::with_input(data, |data| {
            let range = convert::range(addr, Size::of(data.size()))?;
            self.scan(py, "compare", range, None, |sections, interrupt| {
                scan::first_difference(sections, data, interrupt)
            })
        })
    }

    /// A digest of a range: BLAKE3, or any algorithm of `hashlib`.
    ///
    /// Looking at memory that no one has written does not allocate it. `progress(p)` is called at most 20 times a second. Raises as
    /// `read` does, `InvalidArgument` for an unknown algorithm.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.map_memory().hash(0, "4KiB", algorithm="sha256").hex()[:16]
    /// 'ad7facb2586fc6e9'
    #[pyo3(signature = (addr, size, *, algorithm="blake3", progress=None))]
    fn hash<'py>(
        &self,
        py: Python<'py>,
        addr: Address,
        size: Size,
        algorithm: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let range = convert::range(addr, size)?;
        if algorithm == "blake3" {
            let mut hasher = blake3::Hasher::new();
            self.scan(py, "hash", range, progress, |sections, interrupt| scan::hash(sections, &mut hasher, interrupt))?;
            return Ok(PyBytes::new(py, hasher.finalize().as_bytes()));
        }
        let object = py.import("hashlib")?.call_method1("new", (algorithm,)).map_err(|error| {
            match error.is_instance_of::<PyValueError>(py) {
                true => Invalid::argument(format!("algorithm={algorithm:?}: {}", error.value(py))).into(),
                false => error,
            }
        })?;
        if object.getattr("digest_size")?.eq(0)? {
            return Err(Invalid::argument(format!("digests of {algorithm} have no length of their own")).into());
        }
        let mut digest = PyDigest { update: object.getattr("update")?.unbind(), raised: None };
        let fed =
            self.scan(py, "hash", range, progress, |sections, interrupt| scan::hash(sections, &mut digest, interrupt));
        match digest.raised {
            Some(raised) => return Err(raised),
            None => fed?,
        }
        Ok(object.call_method0("digest")?.cast_into()?)
    }

    /// The guest pages of 4 KiB, whole in one region, that hold nothing but zeroes: a tuple of `AddressRange`, touching ones joined.
    ///
    /// Holes, device regions and what may not be read are skipped; looking at memory that no one has written does not allocate it.
    /// `end=None` stands for the end of the address space.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "16KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.write_u8(0x1000, 1)
    /// >>> [str(pages) for pages in memory.find_zero_pages()]
    /// ['[0x0, 0x1000)', '[0x2000, 0x4000)']
    #[pyo3(signature = (start=Address(0), end=None), text_signature = "($self, start=0, end=None)")]
    fn find_zero_pages<'py>(
        &self,
        py: Python<'py>,
        start: Address,
        end: Option<Address>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let range = span(start, end)?;
        let find = |access: &Access<'_>| Ok(access.readable());
        let leased = self.lease(py, ("find_zero_pages", Need::Read), range, find)?;
        convert::py_ranges(py, detached(py, None, move |interrupt| scan::zero_pages(&leased.sections, interrupt))?)
    }

    /// A range as people read bytes: sixteen a line, in hexadecimal and as text, equal lines as one `*`.
    ///
    /// A line says where there is nothing to read: a hole, a device region, a protection. Looking at memory that no one has written
    /// does not allocate it.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.write(0xff0, b"hello, guest")
    /// >>> print(memory.hexdump(0xff0, 0x20))
    /// 0000000000000ff0  68 65 6c 6c 6f 2c 20 67  75 65 73 74 00 00 00 00  |hello, guest....|
    /// [0x1000, 0x1010) has nothing to read
    fn hexdump(&self, py: Python<'_>, addr: Address, size: Size) -> PyResult<String> {
        let range = convert::range(addr, size)?;
        let find = |access: &Access<'_>| Ok(access.readable());
        let leased = self.lease(py, ("hexdump", Need::Read), range, find)?;
        detached(py, None, move |interrupt| dump(&leased.sections, range, interrupt))
    }

    /// The addresses at which `needle` is found, by ascending address: an iterator.
    ///
    /// `needle` is bytes-like or a `BytePattern`. Matches lie whole in `[start, end)`, begin at multiples of `align`, may overlap each
    /// other and the joints of regions that touch; holes, device regions and what may not be read are skipped. At most `limit` are
    /// given. Nothing is leased between two matches: the search goes on in the map as it is then. Looking at memory that no one has
    /// written does not allocate it. `progress(p)` is called at most 20 times a second. Raises `InvalidArgument` for an empty
    /// needle or an `align` of 0; while it is iterated `MemoryFault`, `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, BytePattern
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.writev([(0x100, b"\x7fELF\x02"), (0x2000, b"\x7fELF\x01")])
    /// >>> [hex(addr) for addr in memory.search(b"\x7fELF")], list(memory.search(BytePattern("7f 45 4c 46 01")))
    /// (['0x100', '0x2000'], [8192])
    #[pyo3(signature = (needle, start=Address(0), end=None, *, limit=None, align=Size(1), progress=None),
        text_signature = "($self, needle, start=0, end=None, *, limit=None, align=1, progress=None)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn search(
        &self,
        needle: &Bound<'_, PyAny>,
        start: Address,
        end: Option<Address>,
        limit: Option<U64>,
        align: Size,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<PySearch> {
        if align.0 == 0 {
            return Err(
                Invalid::number("align is 0: give 1 for any address, or what matches begin at multiples of").into()
            );
        }
        let (pattern, range) = (search::pattern(needle)?, span(start, end)?);
        let total = self.with_access(("search", Need::Read), range, |access| Ok(access.readable_size()))?;
        let limit = limit.map_or(u64::MAX, |limit| limit.0);
        Ok(PySearch::new(&self.space, self.incarnation, (pattern, range, align.0), limit, (progress, total)))
    }
}

/// From `start` to `end`, or to the end of the address space.
fn span(start: Address, end: Option<Address>) -> PyResult<Range> {
    match end {
        Some(end) if end.0 < start.0 => {
            let message = format!("end {} lies below start {}", hex(end.0), hex(start.0));
            Err(Invalid::at(message, Some(start.0), None).into())
        }
        end => Ok(Range::between(start.0, end.map_or(u64::MAX, |end| end.0))),
    }
}

fn dump(sections: &[Section], range: Range, interrupt: &dyn Interrupt) -> Result<String> {
    let mut dump = Hexdump::default();
    let mut reached = range.base();
    let gap = |dump: &mut Hexdump, from: u64, to: u64| {
        if from < to {
            dump.note(&format!("{} has nothing to read", Range::between(from, to)));
        }
    };
    scan::walk(sections, "hexdump", interrupt, |address, chunk| {
        gap(&mut dump, reached, address);
        reached = match chunk {
            Chunk::Data(bytes) => dump.bytes(address, bytes),
            Chunk::Hole(size) => dump.zeroes(address, size),
        };
        Ok(std::ops::ControlFlow::<()>::Continue(()))
    })?;
    gap(&mut dump, reached, range.end());
    Ok(dump.finish())
}
