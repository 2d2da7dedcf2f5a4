//! Giving memory back.

use pyo3::prelude::*;

use super::PyMemory;
use crate::memory::access::Verb;
use crate::memory::discard;
use crate::memory::protection::Need;
use crate::python::convert::{self, Address, Size};

const DISCARD: Verb = Verb::new("discard", Need::Write).slow();
/// By the package's own handles, of memory that others may no longer touch.
const GIVE_BACK: Verb = Verb::new("discard", Need::Nothing).slow();

#[pymethods]
impl PyMemory {
    /// Gives whole pages back to the host, the right way for each backing; afterwards they read as zero.
    ///
    /// A file, the user's too, gets a hole where the region lies in it, and zeroes where the region has part of a page. A region may end inside a
    /// page; any other part of a page is `Misaligned`. Raises `UnmappedAddress`, `RegionBusy` for huge pages that a view holds, `BackingError`,
    /// `Unsupported`. A range is discarded part by part; Ctrl-C ends it midway.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.fill(0, 8192, 1)
    /// >>> memory.discard(4096, 4096)
    /// >>> memory.read(4095, 2)
    /// b'\x01\x00'
    fn discard(&self, py: Python<'_>, addr: Address, size: Size) -> PyResult<()> {
        let range = convert::range(addr, size)?;
        self.run(py, [(DISCARD, &[range])], None, |[sections], interrupt| discard::discard(sections, interrupt))
    }

    /// Discards part of one region, whatever its protection, and nothing that has taken its place.
    fn _discard_part(&self, py: Python<'_>, region: &Bound<'_, PyAny>, offset: Size, size: Size) -> PyResult<()> {
        let (verb, range) = self.part_of(GIVE_BACK, region, offset, size)?;
        self.run(py, [(verb, &[range])], None, |[sections], interrupt| discard::discard(sections, interrupt))
    }
}
