//! Looking at many bytes: comparing, hashing, dumping, finding.

use crate::model::quote::quoted;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use super::PyMemory;
use super::search::span;
use crate::memory::access::{Shape, Verb};
use crate::memory::hash::{self, Digest};
use crate::memory::protection::Need;
use crate::memory::scan::{self, Chunk};
use crate::memory::section::Section;
use crate::memory::{compare, zero_pages};
use crate::model::error::{Error, Result};
use crate::model::hexdump::Hexdump;
use crate::model::interrupt::Interrupt;
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::python::buffer;
use crate::python::calls::{self, python_call};
use crate::python::convert::{self, Address, Size};
use crate::python::keywords;
use crate::python::threads::Threads;

/// A verb that looks at all bytes of a range, for longer than a copy would take.
const fn scanning(name: &'static str) -> Verb {
    Verb::new(name, Need::Read).long_from(256 << 10)
}

const COMPARE: Verb = scanning("compare");
const HASH: Verb = scanning("hash");
const FIND_ZERO_PAGES: Verb = scanning("find_zero_pages").shaped(Shape::Allowed);
const HEXDUMP: Verb = scanning("hexdump").shaped(Shape::Allowed);

/// A `hashlib` object, fed without the interpreter's lock held in between.
struct PyDigest {
    update: Py<PyAny>,
    raised: Option<PyErr>,
}

impl Digest for PyDigest {
    fn update(&mut self, bytes: &[u8]) -> Result<()> {
        let updated = calls::attach(|py| self.update.call1(py, (buffer::copied(py, bytes)?,)).map(drop));
        updated.ok_or(Error::Interrupted)?.map_err(|raised| {
            // Kept here, for an error of the work has no room for an exception.
            self.raised = Some(raised);
            Error::Interrupted
        })
    }
}

impl PyMemory {
    fn feed(
        &self,
        py: Python<'_>,
        (verb, range): (Verb, Range),
        progress: Option<Py<PyAny>>,
        digest: &mut (dyn Digest + Send),
    ) -> PyResult<()> {
        self.run(py, [(verb, &[range])], progress, |[sections], interrupt| hash::hash(sections, digest, interrupt))
    }
}

#[pymethods]
impl PyMemory {
    /// The first address at which the guest's bytes differ from `data`, or `None`.
    ///
    /// Long ranges are looked at by `threads` threads, by default as many as help. Looking at memory that no one has written does not
    /// allocate it. Raises as `read` does.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.map_memory().compare(0x10, bytes(3) + b"x")
    /// 19
    #[pyo3(signature = (addr, data, *, threads=None, **others), text_signature = "($self, addr, data, *, threads=None)")]
    fn compare(
        &self,
        py: Python<'_>,
        addr: Address,
        data: &Bound<'_, PyAny>,
        threads: Option<Threads>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Option<u64>> {
        keywords::refuse_of::<Self>("compare", others)?;
        let threads = threads.map(|threads| threads.0);
        buffer::with_input(data, "data", |data| {
            let range = convert::range(addr, Size::of(data.size()))?;
            self.run(py, [(COMPARE, &[range])], None, |[sections], interrupt| {
                compare::first_difference(sections, data, threads, interrupt)
            })
        })
    }

    /// A digest of a range: BLAKE3, or any algorithm of `hashlib`.
    ///
    /// BLAKE3 of long ranges is worked out by `threads` threads, by default as many as help. Looking at memory that no one has written
    /// does not allocate it. `progress(p)` is called at most 20 times a second. Raises as `read` does, `InvalidArgument` for an
    /// unknown algorithm.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.map_memory().hash(0, "4KiB", algorithm="sha256").hex()[:16]
    /// 'ad7facb2586fc6e9'
    #[pyo3(signature = (addr, size, *, algorithm="blake3", threads=None, progress=None, **others),
        text_signature = "($self, addr, size, *, algorithm='blake3', threads=None, progress=None)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn hash<'py>(
        &self,
        py: Python<'py>,
        addr: Address,
        size: Size,
        algorithm: &str,
        threads: Option<Threads>,
        progress: Option<Py<PyAny>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        keywords::refuse_of::<Self>("hash", others)?;
        let _guard = python_call();
        let range = convert::range(addr, size)?;
        if algorithm == "blake3" {
            let threads = threads.map(|threads| threads.0);
            let hash = self.run(py, [(HASH, &[range])], progress, |[sections], interrupt| {
                hash::blake3(sections, threads, interrupt)
            });
            return buffer::copied(py, hash?.as_bytes());
        }
        if threads.is_some_and(|threads| threads.0 > 1) {
            let message = "threads= is for BLAKE3: other digests take one byte after the other";
            return Err(Invalid::argument(message).into());
        }
        let object = py.import("hashlib")?.call_method1("new", (algorithm,)).map_err(|error| {
            // `hashlib` repeats the name, however long.
            let why: String = error.value(py).to_string().chars().take(200).collect();
            match error.is_instance_of::<PyValueError>(py) {
                true => Invalid::argument(format!("algorithm={}: {why}", quoted(algorithm))).into(),
                false => error,
            }
        })?;
        // SHAKE and its like: how long the digest should be is not said.
        if object.getattr("digest_size")?.eq(0)? {
            return Err(Invalid::argument(format!("digests of {algorithm} have no length of their own")).into());
        }
        let mut digest = PyDigest { update: object.getattr("update")?.unbind(), raised: None };
        let fed = self.feed(py, (HASH.slow(), range), progress, &mut digest);
        match digest.raised {
            Some(raised) => return Err(raised),
            None => fed?,
        }
        Ok(object.call_method0("digest")?.cast_into()?)
    }

    /// The guest pages of 4 KiB, whole in one region, that hold nothing but zeroes: a tuple of `AddressRange`, touching ones joined.
    ///
    /// Holes, device regions and what may not be read are skipped; looking at memory that no one has written does not allocate it.
    /// `end=None` stands for the end of the address space. Long ranges are looked at by `threads` threads, by default as many as help.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "16KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.write_u8(0x1000, 1)
    /// >>> [str(pages) for pages in memory.find_zero_pages()]
    /// ['[0x0, 0x1000)', '[0x2000, 0x4000)']
    #[pyo3(signature = (start=Address(0), end=None, *, threads=None, **others),
        text_signature = "($self, start=0, end=None, *, threads=None)")]
    fn find_zero_pages<'py>(
        &self,
        py: Python<'py>,
        start: Address,
        end: Option<Address>,
        threads: Option<Threads>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        keywords::refuse_of::<Self>("find_zero_pages", others)?;
        let (range, threads) = (span(start, end)?, threads.map(|threads| threads.0));
        let found = self.run(py, [(FIND_ZERO_PAGES, &[range])], None, |[sections], interrupt| {
            zero_pages::zero_pages(sections, threads, interrupt)
        });
        convert::py_ranges(py, found?)
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
    fn hexdump<'py>(&self, py: Python<'py>, addr: Address, size: Size) -> PyResult<Bound<'py, PyString>> {
        let range = convert::range(addr, size)?;
        let text =
            self.run(py, [(HEXDUMP, &[range])], None, |[sections], interrupt| dump(sections, range, interrupt))?;
        PyString::from_bytes(py, text.as_bytes())
    }
}

fn dump(sections: &[Section<'_>], range: Range, interrupt: &dyn Interrupt) -> Result<String> {
    let mut dump = Hexdump::default();
    let mut reached = range.base();
    let gap = |dump: &mut Hexdump, from: u64, to: u64| {
        if from < to {
            dump.note(&format!("{} has nothing to read", Range::between(from, to)));
        }
    };
    scan::walk(sections, "hexdump", interrupt, |part, chunk| {
        gap(&mut dump, reached, part.address());
        reached = match chunk {
            Chunk::Data(bytes) => dump.bytes(part.address(), bytes),
            Chunk::Hole => dump.zeroes(part.address(), part.size()),
        };
        dump.check()?;
        Ok(std::ops::ControlFlow::<()>::Continue(()))
    })?;
    gap(&mut dump, reached, range.end());
    dump.finish()
}
