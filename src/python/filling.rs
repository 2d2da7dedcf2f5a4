//! Memory that is filled while it is used: how far it is, and a VMM's that is served.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;

use super::calls::python_call;
use super::convert::{Size, U64};
use super::file;
use super::image::PyImage;
use super::interrupt::detached;
use super::seconds::Timeout;
use super::space::PySpace;
use crate::image::lazy::{FillState, ImageSource};
use crate::image::patient::Patient;
use crate::image::uffd_server::{Mapping, Row, Server};
use crate::model::error::{Errno, Error, Result};
use crate::model::range::Range;
use crate::model::room::{self, Room};
use crate::model::wait::Deadline;
use crate::sys::userfault::Userfault;

fn stats_of<'py>(py: Python<'py>, state: &FillState) -> PyResult<Bound<'py, PyAny>> {
    let _guard = python_call();
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let error = state.error.as_ref().map(ToString::to_string);
    let times = (seconds(state.to_first_touch), seconds(state.to_all));
    let class = py.import("dbs_address_space.reports")?.getattr("RestoreStats")?;
    class.call1((times.0, times.1, state.served, state.filled, state.moved, error))
}

#[pymethods]
impl PySpace {
    /// How far the filling of a space is that was restored by `mode="lazy"`, a `RestoreStats`; `None` of any other space.
    #[getter]
    fn restore_stats<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(filler) = self.inner().filler().get() else { return Ok(None) };
        stats_of(py, &filler.state()?).map(Some)
    }

    /// Waits until all memory of a space is there that was restored by `mode="lazy"`; `False` after `timeout` seconds.
    ///
    /// Returns at once for any other space. From then on accesses are as fast as ever. Ctrl-C ends the wait. Raises the first error of
    /// the image, whose bytes can't be had.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> AddressSpaceBuilder(numa_regions=["4MiB"]).build().wait_restored()
    /// True
    #[pyo3(signature = (timeout=None))]
    fn wait_restored(&self, py: Python<'_>, timeout: Option<Timeout>) -> PyResult<bool> {
        let Some(filler) = self.inner().filler().get() else { return Ok(true) };
        let incarnation = self.inner().load().memory().map(|memory| memory.incarnation());
        detached(py, None, |interrupt| {
            let is_filled = filler.wait(Deadline::after(timeout.map(|timeout| timeout.0)), interrupt)?;
            if let Some(incarnation) = incarnation.filter(|_| is_filled) {
                self.inner().republish(incarnation, interrupt)?;
            }
            Ok(is_filled)
        })
    }
}

/// A host address, the size, the offset in the image's row of regions and the size of a page.
type PyMapping = (U64, Size, Size, Size);

#[pymethods]
impl PyImage {
    /// Fills the memory of a VMM until that ends; `row` has the size of each region and its place in the data.
    fn serve<'py>(
        &self,
        py: Python<'py>,
        userfault: &Bound<'py, PyAny>,
        row: Vec<(Size, Size)>,
        mappings: Vec<PyMapping>,
        rate: Option<Size>,
        timeout: Option<Timeout>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let userfault = Userfault::given(file::duplicate(userfault)?).map_err(|error| Error::Backing {
            message: format!("the VMM's userfaultfd can't be used: {error}"),
            errno: Errno::from(&error),
            region: None,
        })?;
        let row = Row { source: ImageSource(Arc::clone(self.inner())), pieces: pieces_of(&row)? };
        let path = self.inner().newest().path().to_path_buf();
        let source = Patient::new(Arc::new(row), path, timeout.map(|timeout| timeout.0));
        let mappings = room::collected(mappings.iter().map(mapping_of))?.into_iter().collect::<Result<Vec<_>>>()?;
        let server = Server::new(userfault, &source, &mappings, rate.map(|rate| rate.0))?;
        let state = detached(py, None, |interrupt| server.run(interrupt))?;
        match state.error {
            Some(error) => Err(error.into()),
            None => stats_of(py, &state),
        }
    }
}

/// Each region behind the one before.
fn pieces_of(row: &[(Size, Size)]) -> Result<Vec<(Range, u64)>> {
    let mut pieces: Vec<(Range, u64)> = room::unwritten(row.len())?;
    for (size, place) in row {
        let end = pieces.last().map_or(0, |(range, _)| range.end());
        pieces.add((Range::new(end, size.0)?, place.0))?;
    }
    Ok(pieces)
}

fn mapping_of((base, size, offset, page): &PyMapping) -> Result<Mapping> {
    Mapping::new(Range::new(base.0, size.0)?, offset.0, page.0)
}
