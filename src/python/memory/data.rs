//! Which guest physical addresses have data, and which are in memory.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::{EVERYWHERE, PyMemory};
use crate::memory::access::{Shape, Verb};
use crate::memory::protection::Need;
use crate::memory::section::Section;
use crate::model::error::Result;
use crate::model::range::{Range, joined};
use crate::model::room::Gathered;
use crate::python::convert;

#[pymethods]
impl PyMemory {
    /// The ranges that have data, ascending: of files what they have, of other memory what this process has pages of, in memory or in swap.
    ///
    /// All others read as zeroes, and nothing is allocated to find out. Raises `Unsupported` for anonymous memory before Linux 6.7.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.write_u8(0x3000, 1)
    /// >>> [str(data) for data in memory.data_ranges()]
    /// ['[0x3000, 0x4000)']
    fn data_ranges<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.ranges_of(py, "data_ranges", |section, found| section.region().data_ranges(found))
    }

    /// The ranges that are in memory now, rather than in swap, in a file or nowhere (`mincore(2)`, `PAGEMAP_SCAN`), ascending.
    ///
    /// Raises `Unsupported` for anonymous memory before Linux 6.7.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.fill(0x3000, "8KiB", 1)
    /// >>> [str(range) for range in memory.resident()]
    /// ['[0x3000, 0x5000)']
    fn resident<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.ranges_of(py, "resident", |section, found| section.region().resident_ranges(found))
    }
}

impl PyMemory {
    /// The ranges that `look` finds in each region.
    fn ranges_of<'py>(
        &self,
        py: Python<'py>,
        verb: &'static str,
        look: impl Fn(&Section<'_>, &mut dyn FnMut(Range)) -> Result<()> + Send + Sync,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let verb = Verb::new(verb, Need::Nothing).shaped(Shape::Mapped);
        let ranges = self.run(py, [(verb, &[EVERYWHERE])], None, |[sections], interrupt| {
            let mut ranges = Gathered::default();
            for section in sections {
                interrupt.check()?;
                look(section, &mut |range| ranges.add(range))?;
            }
            ranges.finish().map(joined)
        })?;
        convert::py_ranges(py, ranges)
    }
}
