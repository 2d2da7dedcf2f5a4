//! Views, arrays and pins: guest memory under the user's own hands.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMemoryView, PyTuple};

use super::PyMemory;
use super::run::is_long_copy;
use crate::memory::access::{Shape, Verb};
use crate::memory::leased_sections::LeasedSections;
use crate::memory::protection::Need;
use crate::memory::region::MappedRegion;
use crate::memory::section::Section;
use crate::model::error::Error;
use crate::model::interrupt::{Interrupt, Uninterrupted};
use crate::model::range::Range;
use crate::model::region::PROT_WRITE;
use crate::python::array::ArrayLayout;
use crate::python::buffer::PyGuestView;
use crate::python::convert::{self, Address, Size};
use crate::python::interrupt::detached;
use crate::python::keywords;
use crate::python::pin::PyPin;

#[pymethods]
impl PyMemory {
    /// A `memoryview` of a range inside one region, writable where the region is; it vetoes the region's removal.
    ///
    /// `writable=False` makes it read-only, `writable=True` on read-only memory is `AccessDenied`. A range that crosses a joint of
    /// two regions is `NotContiguous`. Memory that may fault under a touch (`mapping(addr).guarded`) is `Unsupported` unless
    /// `unguarded=True`: a fault then kills the process. Raises as `read` does.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> with memory.view(0x10, 5) as view:
    /// ...     view[:] = b"hello"
    /// >>> memory.read(0x10, 5)
    /// b'hello'
    #[pyo3(signature = (addr, size, *, writable=None, unguarded=false))]
    fn view<'py>(
        &self,
        py: Python<'py>,
        addr: Address,
        size: Size,
        writable: Option<bool>,
        unguarded: bool,
    ) -> PyResult<Bound<'py, PyMemoryView>> {
        let verb = Verb::new("view", need_of(writable)).shaped(Shape::Single);
        let views = self.views(py, verb, convert::range(addr, size)?, writable, unguarded)?;
        views.into_iter().next().map_or_else(|| PyGuestView::empty(py), Ok)
    }

    /// A `memoryview` of each region's part of a range, in order: a tuple, for `os.preadv`, `socket.sendmsg` and other vectors.
    ///
    /// All of the range must be there, or nothing is held; else as `view`. The tuple is empty for size 0.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> low, high = AddressSpaceRegion("ram", 0, "4KiB"), AddressSpaceRegion("ram", 0x1000, "4KiB")
    /// >>> memory = AddressSpace.from_regions([low, high], AddressSpaceLayout(1 << 46, 0, 1 << 45)).map_memory()
    /// >>> memory.write(0xffe, b"both")
    /// >>> [bytes(part) for part in memory.slices(0xffe, 4)]
    /// [b'bo', b'th']
    #[pyo3(signature = (addr, size, *, writable=None, unguarded=false))]
    fn slices<'py>(
        &self,
        py: Python<'py>,
        addr: Address,
        size: Size,
        writable: Option<bool>,
        unguarded: bool,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let verb = Verb::new("slices", need_of(writable));
        PyTuple::new(py, self.views(py, verb, convert::range(addr, size)?, writable, unguarded)?)
    }

    /// A NumPy array over guest memory (the `numpy` extra), of any shape and dtype, structured ones included; strides are in bytes.
    ///
    /// The array is a view, not a copy: it vetoes the region's removal. `writable` and `unguarded` as for `view`, which also says
    /// what it raises; `ImportError` without NumPy. DLPack is NumPy's: `torch.from_dlpack(array)` shares the memory too.
    ///
    /// >>> import numpy as np
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> descriptor = np.dtype([("addr", "<u8"), ("len", "<u4"), ("flags", "<u2"), ("next", "<u2")])
    /// >>> table = space.map_memory().array(0, 16, descriptor)
    /// >>> table[3] = (0x8000, 512, 1, 4)
    /// >>> space.memory.unpack(3 * 16, "<QIHH")
    /// (32768, 512, 1, 4)
    #[pyo3(signature = (addr, shape, dtype, *, strides=None, writable=None, unguarded=false, **others),
        text_signature = "($self, addr, shape, dtype, *, strides=None, writable=None, unguarded=False)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn array<'py>(
        &self,
        py: Python<'py>,
        addr: Address,
        shape: &Bound<'py, PyAny>,
        dtype: &Bound<'py, PyAny>,
        strides: Option<&Bound<'py, PyAny>>,
        writable: Option<bool>,
        unguarded: bool,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        keywords::refuse_of::<Self>("array", others)?;
        let layout = ArrayLayout::new(py, shape, dtype, strides)?;
        layout.over(&self.view(py, addr, Size(layout.size()), writable, unguarded)?)
    }

    /// Holds a range inside one region, and says where it is on the host: for engines and system calls that need an address.
    ///
    /// A context manager with `.address` and `.size`; the pin vetoes the region's removal until its end. Memory that may fault
    /// (`mapping(addr).guarded`) is pinned too, for the kernel may be given it; touching it is the caller's risk. A pin of size 0 holds
    /// nothing, and its address is 0. Raises `UnmappedAddress`, `NotContiguous`, `NotMapped`.
    ///
    /// >>> import ctypes
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> with space.map_memory().pin(0x10, 4) as pin:
    /// ...     _ = ctypes.memmove(pin.address, b"ping", pin.size)
    /// >>> space.memory.read(0x10, 4)
    /// b'ping'
    fn pin(&self, py: Python<'_>, addr: Address, size: Size) -> PyResult<PyPin> {
        let range = convert::range(addr, size)?;
        if range.is_empty() {
            return self.short(|_, _| Ok(LeasedSections::default().into()));
        }
        let verb = Verb::new("pin", Need::Address).shaped(Shape::Single);
        self.lease(py, (verb, &[range])).map(PyPin::from)
    }
}

impl PyMemory {
    /// The views of what a range has of each region.
    fn views<'py>(
        &self,
        py: Python<'py>,
        verb: Verb,
        range: Range,
        writable: Option<bool>,
        unguarded: bool,
    ) -> PyResult<Vec<Bound<'py, PyMemoryView>>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let leased = self.lease(py, (verb, &[range]))?;
        // Held until the views have leases of their own, so that they show the regions as the snapshot described them.
        let view = |section: Section<'_>| self.view_of(py, &section, writable, unguarded);
        leased.sections().map(view).collect()
    }

    fn view_of<'py>(
        &self,
        py: Python<'py>,
        section: &Section<'_>,
        writable: Option<bool>,
        unguarded: bool,
    ) -> PyResult<Bound<'py, PyMemoryView>> {
        // Asked under the lease: a thread that makes memory guarded looks for leases after that.
        let is_direct = |interrupt: &dyn Interrupt| section.is_direct(need_of(writable).bits(), interrupt);
        let is_unguarded = unguarded && section.region().storage().reader().is_none();
        let is_direct = match is_unguarded || section.region().guarded_because().is_none() {
            true => true,
            false if is_long_copy(section.size()) => detached(py, None, is_direct)?,
            false => is_direct(&Uninterrupted)?,
        };
        if !is_direct {
            return Err(guarded_view(section.region()).into());
        }
        let readonly = section.region().desc().prot_flags & PROT_WRITE == 0 || writable == Some(false);
        PyGuestView::memoryview(py, &self.space, section, readonly)
    }
}

const fn need_of(writable: Option<bool>) -> Need {
    match writable {
        Some(true) => Need::Write,
        Some(false) => Need::Read,
        None => Need::Show,
    }
}

fn guarded_view(region: &MappedRegion) -> Error {
    let (desc, why) = (region.desc(), region.why_guarded());
    Error::Unsupported {
        message: format!(
            "view of {desc}: a touch of this memory may fault and kill the process{why}; read() and write() are safe, unguarded=True takes the risk"
        ),
        feature: "view of guarded memory",
        how: "pass unguarded=True".into(),
        region: Some(Arc::clone(desc)),
    }
}
