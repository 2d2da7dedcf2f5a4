//! Memory into a file of a dump, whose headers `dbs_address_space.formats` writes.

use std::path::PathBuf;

use pyo3::prelude::*;

use super::PyMemory;
use crate::memory::access::Verb;
use crate::memory::protection::Need;
use crate::memory::section::Section;
use crate::memory::sparse::Target;
use crate::model::error::Result;
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
        let mut ranges = room::unwritten(places.len())?;
        for (base, size, _) in &places {
            ranges.push(convert::range(*base, *size)?);
        }
        let positions = room::collected(places.iter().map(|place| place.2.0))?;
        self.run(py, [(DUMP, &ranges)], progress, |[sections], interrupt| {
            let target = Target { file: &file, path: &path };
            target.write(&placed(sections, &ranges, &positions)?, threads, interrupt)
        })
    }
}

/// The sections of ranges, which lie one behind the other in the buffer, at the positions of the ranges.
fn placed<'a>(sections: &[Section<'a>], ranges: &[Range], positions: &[u64]) -> Result<Vec<Section<'a>>> {
    let mut end = 0u64;
    let mut all = room::unwritten(sections.len())?;
    let mut left = sections.iter().peekable();
    for (range, position) in ranges.iter().zip(positions) {
        let begin = end;
        end = end.saturating_add(range.size());
        while let Some(section) = left.next_if(|section| section.buffer().base() < end) {
            all.push(section.placed(position.saturating_add(section.buffer().base().abs_diff(begin))));
        }
    }
    Ok(all)
}
