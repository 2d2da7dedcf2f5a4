//! Copying inside the guest.

use pyo3::prelude::*;

use super::PyMemory;
use crate::memory::access::Verb;
use crate::memory::copy;
use crate::memory::protection::Need;
use crate::python::convert::{self, Address, Size};

const COPY_FROM: Verb = Verb::new("copy", Need::Read);
const COPY_TO: Verb = Verb::new("copy", Need::Write);

#[pymethods]
impl PyMemory {
    /// Copies `size` bytes inside the guest, as if through a buffer in between: the two ranges may overlap.
    ///
    /// `progress(p)` is called during copies from 4 MiB on. Raises as `read` and `write` do, and then nothing was copied; only a
    /// `MemoryFault` or an exception from `progress` stops it midway.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.write(0, b"abcdef")
    /// >>> memory.copy(2, 0, 4)
    /// >>> memory.read(0, 6)
    /// b'ababcd'
    #[pyo3(signature = (dst, src, size, *, progress=None))]
    fn copy(
        &self,
        py: Python<'_>,
        dst: Address,
        src: Address,
        size: Size,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let (from, to) = (convert::range(src, size)?, convert::range(dst, size)?);
        let sides = [(COPY_FROM, &[from][..]), (COPY_TO, &[to][..])];
        self.run(py, sides, progress, |[from, to], interrupt| copy::copy(from, to, interrupt))
    }
}
