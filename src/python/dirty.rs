//! `DirtyPages`.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyIterator, PyTuple};

use super::argument::Argument;
use super::array::numpy;
use super::buffer;
use super::calls::python_call;
use super::convert::{self, Address, Size};
use super::interrupt::detached;
use super::keywords;
use super::layout::windows;
use crate::model::dirty::DirtyPages;
use crate::model::format::hex;
use crate::model::int::usize_of;
use crate::model::tracking;

/// Pages that were written, as an immutable value that can be compared, hashed and pickled.
///
/// Iterates the `AddressRange`s of touching pages, ascending; `len` counts those. `|`, `&` and `-` combine two of one page size
/// (`InvalidAddressRange` otherwise). Made by dirty logs, and from ranges of whole pages (`Misaligned` otherwise), in any order.
///
/// >>> from dbs_address_space import DirtyPages
/// >>> pages = DirtyPages([(0x1000, 0x2000), (0x8000, 0x1000)])
/// >>> [str(range) for range in pages], pages.count, pages.size
/// (['[0x1000, 0x3000)', '[0x8000, 0x9000)'], 3, 12288)
#[pyclass(frozen, eq, hash, weakref, name = "DirtyPages", module = "dbs_address_space")]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct PyDirtyPages(DirtyPages);

impl From<DirtyPages> for PyDirtyPages {
    fn from(pages: DirtyPages) -> Self {
        Self(pages)
    }
}

impl PyDirtyPages {
    pub(super) const fn inner(&self) -> &DirtyPages {
        &self.0
    }
}

#[pymethods]
impl PyDirtyPages {
    #[new]
    #[pyo3(signature = (ranges=None, *, page_size=Size(4096), sources=None, is_exact=false, **others), text_signature = "(ranges=(), *, page_size=4096, sources=(), is_exact=False)")]
    fn new(
        ranges: Option<&Bound<'_, PyAny>>,
        page_size: Size,
        sources: Option<&Bound<'_, PyAny>>,
        is_exact: bool,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse::<Self>(others)?;
        let ranges = windows(ranges, "ranges")?;
        let sources = convert::items_or_none(sources, "names", |item| convert::text(&item)).argument("sources")?;
        Ok(Self(DirtyPages::new(page_size.0, sources)?.with_ranges(ranges)?.with_exactness(is_exact)))
    }

    /// The number of pages.
    #[getter]
    fn count(&self) -> u64 {
        self.0.count()
    }

    /// The number of bytes.
    #[getter]
    fn size(&self) -> u64 {
        // The pages of a whole address space have 2^64 bytes, one more than a u64 holds.
        self.0.count().saturating_mul(self.0.page_size())
    }

    /// Bytes a page.
    #[getter]
    fn page_size(&self) -> u64 {
        self.0.page_size()
    }

    /// The observers of the writes, a sorted tuple: `"kvm"`.
    #[getter]
    fn sources<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.sources())
    }

    /// Writers whom none of the sources sees, such as `"vhost-user back-ends"`.
    ///
    /// >>> from dbs_address_space import DirtyPages
    /// >>> sorted(DirtyPages(sources=("kvm",)).blind_to)[-2:]
    /// ['raw pointers', 'vhost-user back-ends']
    #[getter]
    fn blind_to<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        PyFrozenSet::new(py, tracking::blind_to(self.0.sources()))
    }

    /// Whether the pages are those that were written by whom the sources see, none less and none more.
    #[getter]
    fn is_exact(&self) -> bool {
        self.0.is_exact()
    }

    /// The same in larger pages, a power of two; `InvalidAddressRange` for smaller ones, which can't be told apart.
    ///
    /// >>> from dbs_address_space import DirtyPages
    /// >>> [str(pages) for pages in DirtyPages([(0x3000, 0x1000)]).resized("2MiB")]
    /// ['[0x0, 0x20_0000)']
    fn resized(&self, page_size: Size) -> PyResult<Self> {
        Ok(Self(self.0.resized(page_size.0)?))
    }

    /// A NumPy array with a bool for each page that `[base, base + size)` touches; needs NumPy.
    ///
    /// Raises `MemoryError` when there is no room for so many.
    ///
    /// >>> from dbs_address_space import DirtyPages
    /// >>> DirtyPages([(0x1000, 0x2000)]).bitmap(0, 0x4000).tolist()
    /// [False, True, True, False]
    fn bitmap<'py>(&self, py: Python<'py>, base: Address, size: Size) -> PyResult<Bound<'py, PyAny>> {
        let _guard = python_call();
        let range = convert::range(base, size)?;
        // NumPy's zeroes take no memory until they are written, and a size that can't be had is its `MemoryError`.
        let bools = numpy(py, "bitmap")?.call_method1("zeros", (self.0.pages_in(range), "?"))?;
        buffer::with_output(&bools, "buffer", |output| {
            detached(py, None, |interrupt| {
                let mut runs = self.0.positions_in(range)?.into_iter();
                runs.try_for_each(|run| output.slice(usize_of(run.base()), usize_of(run.size()))?.fill(1, interrupt))
            })
        })?;
        Ok(bools)
    }

    /// The same with the clean pages between two ranges that are at most `gap` bytes apart: fewer, longer ranges.
    ///
    /// >>> from dbs_address_space import DirtyPages
    /// >>> len(DirtyPages([(0, 0x1000), (0x2000, 0x1000), (0x9000, 0x1000)]).coalesce("4KiB"))
    /// 2
    fn coalesce(&self, gap: Size) -> PyResult<Self> {
        Ok(Self(self.0.coalesce(gap.0)?))
    }

    fn __contains__(&self, addr: Address) -> bool {
        self.0.contains(addr.0)
    }

    fn __len__(&self) -> PyResult<usize> {
        Ok(self.0.ranges()?.len())
    }

    fn __bool__(&self) -> bool {
        !self.0.is_empty()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyIterator::from_object(convert::py_ranges(py, self.0.ranges()?)?.as_any())
    }

    fn __or__(&self, other: PyRef<'_, Self>) -> PyResult<Self> {
        Ok(Self(self.0.union(&other.0)?))
    }

    fn __and__(&self, other: PyRef<'_, Self>) -> PyResult<Self> {
        Ok(Self(self.0.intersection(&other.0)?))
    }

    fn __sub__(&self, other: PyRef<'_, Self>) -> PyResult<Self> {
        Ok(Self(self.0.difference(&other.0)?))
    }

    fn __repr__(&self) -> PyResult<String> {
        let (count, ranges) = (self.0.count(), self.0.ranges()?.len());
        let sources = self.0.sources().join("+");
        let from = if sources.is_empty() { String::new() } else { format!(" from {sources}") };
        Ok(format!("DirtyPages({count} pages of {} bytes in {ranges} ranges{from})", hex(self.0.page_size())))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyTuple>,))> {
        let _guard = python_call();
        let (py, this) = (slf.py(), &slf.get().0);
        let options = PyDict::new(py);
        options.set_item("page_size", this.page_size())?;
        options.set_item("sources", this.sources())?;
        if this.is_exact() {
            options.set_item("is_exact", true)?;
        }
        // `__reduce__` passes positions only, and these are keywords.
        let rebuild = py.import("functools")?.call_method("partial", (slf.get_type(),), Some(&options))?;
        Ok((rebuild, (convert::py_ranges(py, this.ranges()?)?,)))
    }
}
