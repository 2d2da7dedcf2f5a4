//! Memory into a file of a dump, whose headers `dbs_address_space.formats` writes.

use std::path::PathBuf;

use pyo3::prelude::*;

use super::PyMemory;
use crate::memory::access::Verb;
use crate::memory::protection::Need;
use crate::memory::sparse::Target;
use crate::model::range::Range;
use crate::model::room;
use crate::python::convert::{self, Address, CInt, Size, U64};
use crate::python::dump;
use crate::python::threads::Threads;

const DUMP: Verb = Verb::new("dump", Need::Read).slow();

#[pymethods]
impl PyMemory {
    /// Writes ranges, each a base, a size and a position, by ascending position where nothing was written yet; zeroes become holes.
    fn _write_sparse(
        &self,
        py: Python<'_>,
        fd: CInt,
        path: PathBuf,
        places: Vec<(Address, Size, U64)>,
        threads: Option<Threads>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let (file, threads) = (dump::duplicate(fd)?, threads.map(|threads| threads.0));
        let ranges = places.iter().map(|(base, size, _)| convert::range(*base, *size)).collect::<PyResult<Vec<_>>>()?;
        let places = room::collected(places.iter().map(|(_, size, position)| Range::at(position.0, size.0)))?;
        self.run(py, [(DUMP, &ranges)], progress, |[sections], interrupt| {
            let target = Target { file: &file, path: &path };
            target.write(sections, &places, threads, interrupt)
        })
    }
}
