//! `AddressSpaceLayout` and `usable_end()`.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::argument::{Argument, type_name};
use super::convert::{self, Address, Size};
use super::keywords;
use super::region::PyRegion;
use crate::model::error::{Errno, Error};
use crate::model::format::hex;
use crate::model::layout::Layout;
use crate::model::range::Range;
use crate::model::reserved::{ReservedKind, ReservedRange};
use crate::sys::errno::EIO;
use crate::sys::host::Host;

/// The last byte of the host's memory as a number: MemTotal of /proc/meminfo in bytes, less one, read at each call.
///
/// The original's `USABLE_END`. Raises `BackingError` where /proc can't be read.
///
/// >>> from dbs_address_space import usable_end
/// >>> usable_end() > 0
/// True
#[pyfunction]
pub fn usable_end() -> PyResult<u64> {
    let total = Host::default().total_memory().and_then(|bytes| bytes.checked_sub(1));
    let message = "the host's memory size (MemTotal) can't be read from /proc/meminfo".into();
    Ok(total.ok_or(Error::Backing { message, errno: Errno::Refused(EIO), region: None })?)
}

/// The bounds of each type of region: RAM in `[mem_start, mem_end)` outside the MMIO windows, devices and DAX windows in
/// `[mem_end, phys_end)` or in an MMIO window, firmware anywhere below `phys_end`.
///
/// All ends are exclusive, `mem_start <= mem_end <= phys_end`; windows are `(base, size)`, disjoint, below `phys_end`. `reserved` ranges,
/// `(base, size)` or `(base, size, kind)`, are kept for ever: nothing is placed there, and the guest is told of them. Their kind is
/// `"reserved"`, `"acpi"`, `"nvs"`, `"persistent"` or `"soft-reserved"`, the types 2, 3, 4, 7 and 0xefffffff of E820. RAM may be inserted
/// wholly into one of the other four kinds, a DAX window into a persistent one, a device into one that lies in an MMIO window, firmware
/// into any. Raises `InvalidAddressRange`, and `InvalidArgument` for another kind.
///
/// >>> from dbs_address_space import AddressSpaceLayout
/// >>> AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(0xc000_0000, "1GiB")])
/// AddressSpaceLayout(phys_end=0x4000_0000_0000, mem_start=0x0, mem_end=0x2000_0000_0000, mmio_windows=((0xc000_0000, 0x4000_0000),))
#[pyclass(frozen, eq, hash, weakref, name = "AddressSpaceLayout", module = "dbs_address_space")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PyLayout(pub(super) Layout);

/// A pair of a base and a size.
fn window_of(object: &Bound<'_, PyAny>) -> PyResult<Range> {
    let (base, size) = convert::pair(object)?;
    convert::range(base, size)
}

/// Such a pair, or `None`, of a parameter.
pub(super) fn window(given: Option<&Bound<'_, PyAny>>, name: &str) -> PyResult<Option<Range>> {
    given.map(window_of).transpose().argument(name)
}

/// Such pairs of a parameter; none for `None`.
pub(super) fn windows(given: Option<&Bound<'_, PyAny>>, name: &str) -> PyResult<Vec<Range>> {
    convert::items_or_none(given, "pairs (base, size)", |item| window_of(&item)).argument(name)
}

/// Reserved ranges, each with its kind, or without one for `"reserved"`.
pub(super) fn reserved(given: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<ReservedRange>> {
    let reserved = |item: Bound<'_, PyAny>| match item.cast::<PyTuple>().map(|tuple| tuple.len()) {
        Ok(2) => Ok(ReservedRange { range: window_of(&item)?, kind: ReservedKind::Reserved }),
        Ok(3) => {
            let (base, size, kind): (Address, Size, Bound<'_, PyAny>) = item.extract()?;
            Ok(ReservedRange { range: convert::range(base, size)?, kind: ReservedKind::parse(&convert::text(&kind)?)? })
        }
        Ok(length) => Err(PyTypeError::new_err(format!("{RESERVED}, not a tuple of {length}"))),
        Err(_) => Err(PyTypeError::new_err(format!("{RESERVED}, not {}", type_name(&item)))),
    };
    convert::items_or_none(given, "reserved ranges", reserved).argument("reserved")
}

const RESERVED: &str = "a reserved range must be a tuple: (base, size) or (base, size, kind)";

/// Triples as `reserved` takes them.
pub(super) fn reserved_of(layout: &Layout) -> Vec<(u64, u64, &'static str)> {
    let triple = |reserved: &ReservedRange| (reserved.range.base(), reserved.range.size(), reserved.kind.name());
    layout.reserved().iter().map(triple).collect()
}

/// Tuples as a keyword of a `repr`; nothing where there are none.
fn keyword(name: &str, tuples: &[String]) -> String {
    match tuples {
        [] => String::new(),
        [one] => format!(", {name}=({one},)"),
        more => format!(", {name}=({})", more.join(", ")),
    }
}

#[pymethods]
impl PyLayout {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str, &'static str) {
        ("phys_end", "mem_start", "mem_end")
    }

    #[new]
    #[pyo3(signature = (phys_end, mem_start, mem_end, *, mmio_windows=None, reserved=None, **others),
        text_signature = "(phys_end, mem_start, mem_end, *, mmio_windows=(), reserved=())")]
    fn new(
        phys_end: Address,
        mem_start: Address,
        mem_end: Address,
        mmio_windows: Option<&Bound<'_, PyAny>>,
        reserved: Option<&Bound<'_, PyAny>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse::<Self>(others)?;
        let layout = Layout::new(phys_end.0, mem_start.0, mem_end.0, windows(mmio_windows, "mmio_windows")?)?;
        Ok(Self(layout.with_reserved(self::reserved(reserved)?)?))
    }

    /// The exclusive end of the guest physical address space.
    #[getter]
    fn phys_end(&self) -> u64 {
        self.0.phys_end()
    }

    /// Where RAM may begin.
    #[getter]
    fn mem_start(&self) -> u64 {
        self.0.mem_start()
    }

    /// The exclusive end of RAM, where devices may begin.
    #[getter]
    fn mem_end(&self) -> u64 {
        self.0.mem_end()
    }

    /// Where devices may lie below `mem_end` and RAM may not: a sorted tuple of `AddressRange`.
    #[getter]
    fn mmio_windows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        convert::py_ranges(py, self.0.mmio_windows().to_vec())
    }

    /// The ranges that are kept for ever: a sorted tuple of `(base, size, kind)`.
    #[getter]
    pub(super) fn reserved<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, reserved_of(&self.0))
    }

    /// The host's memory size less one, as `usable_end()`; no part of equality or pickles.
    #[getter]
    fn usable_end(&self) -> PyResult<u64> {
        usable_end()
    }

    /// Whether the layout allows the region.
    ///
    /// >>> from dbs_address_space import AddressSpaceLayout, AddressSpaceRegion
    /// >>> AddressSpaceLayout(0x4000, 0, 0x2000).is_region_valid(AddressSpaceRegion("ram", 0x1000, 0x2000))
    /// False
    fn is_region_valid(&self, region: &Bound<'_, PyRegion>) -> bool {
        self.0.check_region(&region.get().0).is_ok()
    }

    /// Raises `LayoutViolation` with the reason when the layout does not allow the region.
    ///
    /// >>> from dbs_address_space import AddressSpaceLayout, AddressSpaceRegion
    /// >>> AddressSpaceLayout(0x4000, 0, 0x2000).check_region(AddressSpaceRegion("ram", 0, 0x2000))
    fn check_region(&self, region: &Bound<'_, PyRegion>) -> PyResult<()> {
        Ok(self.0.check_region(&region.get().0)?)
    }

    fn __repr__(&self) -> String {
        let windows: Vec<String> =
            self.0.mmio_windows().iter().map(|w| format!("({}, {})", hex(w.base()), hex(w.size()))).collect();
        let reserved: Vec<String> = reserved_of(&self.0)
            .into_iter()
            .map(|(base, size, kind)| format!("({}, {}, '{kind}')", hex(base), hex(size)))
            .collect();
        let (windows, reserved) = (keyword("mmio_windows", &windows), keyword("reserved", &reserved));
        let (phys, start, end) = (hex(self.phys_end()), hex(self.mem_start()), hex(self.mem_end()));
        format!("AddressSpaceLayout(phys_end={phys}, mem_start={start}, mem_end={end}{windows}{reserved})")
    }

    fn __copy__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __deepcopy__(slf: Py<Self>, _memo: &Bound<'_, PyAny>) -> Py<Self> {
        slf
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<((u64, u64, u64), Bound<'py, pyo3::types::PyDict>)> {
        let keywords = pyo3::types::PyDict::new(py);
        let windows: Vec<(u64, u64)> =
            self.0.mmio_windows().iter().map(|window| (window.base(), window.size())).collect();
        keywords.set_item("mmio_windows", windows)?;
        keywords.set_item("reserved", self.reserved(py)?)?;
        Ok(((self.phys_end(), self.mem_start(), self.mem_end()), keywords))
    }
}
