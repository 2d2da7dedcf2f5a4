//! Images: saving memory, and filling new memory.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::{EVERYWHERE, PyMemory};
use crate::image::lazy::Filler;
use crate::image::plan::{Area, Plan};
use crate::image::restore::{self, Piece};
use crate::image::save::{Job, Watch};
use crate::image::writer::Description;
use crate::memory::access::{Shape, Verb};
use crate::memory::protection::Need;
use crate::memory::section::Section;
use crate::model::ids::Lineage;
use crate::model::range::Range;
use crate::model::room;
use crate::python::base::PyBase;
use crate::python::calls::{self, python_call};
use crate::python::convert::{self, Address, Size};
use crate::python::dirty::PyDirtyPages;
use crate::python::image::PyImage;
use crate::python::interrupt::detached;
use crate::python::seconds::Timeout;
use crate::python::space::PySpace;
use crate::python::threads::Threads;

/// The place and the size of an area, the identity of its bytes, and their address.
type PyArea = (Size, Size, [u8; 16], Option<Address>);
/// The address of a region, its place in the data, and the identity of its bytes.
pub(super) type PyPlace = (Address, Size, Option<[u8; 16]>);

const SAVE: Verb = Verb::new("save", Need::Nothing).shaped(Shape::Mapped).slow();
pub(super) const RESTORE: Verb = Verb::new("restore", Need::Nothing).shaped(Shape::Mapped).slow();

#[pymethods]
impl PyMemory {
    /// Writes an image, whose JSON `describe(base, areas, regions)` gives once it is known where everything lies.
    #[pyo3(signature = (path, describe, blobs, *, parent, known, dirty, sync, check, threads, progress))]
    #[allow(clippy::too_many_arguments, reason = "those of `save`")]
    fn _save(
        &self,
        py: Python<'_>,
        path: PathBuf,
        describe: &Bound<'_, PyAny>,
        blobs: &[u8],
        parent: Option<PyRef<'_, PyImage>>,
        known: Vec<PyArea>,
        dirty: Option<PyRef<'_, PyDirtyPages>>,
        sync: bool,
        check: bool,
        threads: Option<Threads>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let _guard = python_call();
        self.space.check_process()?;
        let image = parent.as_ref().map(|image| image.inner().as_ref());
        let known = known.into_iter().map(area_of).collect::<PyResult<Vec<_>>>()?;
        let parent_size = image.map_or(0, |image| image.newest().header().data.size());
        let dirty = dirty.map(|pages| pages.inner().ranges()).transpose()?;
        let (map, leased) = detached(py, None, |interrupt| {
            self.space.lease_with_map(self.incarnation, (SAVE, &[EVERYWHERE]), interrupt)
        })?;
        let plan = Plan::of(leased.sections(), &known, parent_size)?;
        let generation = map.generation().0;
        let (areas, regions) = (py_areas(py, &plan)?, convert::py_tuple(py, plan.regions())?);
        let json = describe.call1((Py::new(py, PyBase::from(map))?, areas, regions))?;
        let description = Description {
            json: room::collected(json.cast::<PyBytes>()?.as_bytes().iter().copied())?,
            blobs: room::collected(blobs.iter().copied())?,
            data_size: plan.data_size(parent_size),
            generation,
            is_watched: false,
        };
        let (dirty, threads) = (dirty.as_deref(), threads.map(|threads| threads.0));
        let job = Job { plan: &plan, path: &path, parent: image, dirty, description, is_synced: sync, threads };
        detached(py, progress, |interrupt| {
            let watch = if check { Watch::begin(&self.space, self.incarnation, interrupt)? } else { None };
            job.run(watch.as_ref(), interrupt).map(drop)
        })?;
        drop(plan);
        calls::detach(py, || drop(leased));
        Ok(())
    }

    /// Makes new memory that of an image: each region from its place there. Without an image, what it shows is that already.
    fn _fill(
        &self,
        py: Python<'_>,
        image: Option<&PyImage>,
        places: Vec<PyPlace>,
        threads: Option<Threads>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let (places, threads) = (sorted(places)?, threads.map(|threads| threads.0));
        let image = image.map(PyImage::inner);
        self.run(py, [(RESTORE, &[EVERYWHERE])], progress, |[sections], interrupt| {
            let pieces = sections.iter().filter_map(|section| piece_of(section, &places));
            let pieces = room::collected(pieces)?;
            pieces.iter().for_each(Piece::descend);
            image.map_or(Ok(()), |image| restore::fill(image, &pieces, threads, interrupt))
        })
    }
}

#[pymethods]
impl PySpace {
    /// Begins to fill its memory, which nobody has seen, from an image.
    fn _restore_lazily(
        &self,
        py: Python<'_>,
        image: &PyImage,
        places: Vec<PyPlace>,
        rate: Option<Size>,
        timeout: Option<Timeout>,
    ) -> PyResult<()> {
        let places = sorted(places)?;
        let incarnation = self.inner().load().memory().map(|memory| memory.incarnation());
        let Some(incarnation) = incarnation else { return Ok(()) };
        let (rate, timeout) = (rate.map(|rate| rate.0), timeout.map(|timeout| timeout.0));
        let filler = detached(py, None, |interrupt| {
            let (_, leased) = self.inner().lease_with_map(incarnation, (RESTORE, &[EVERYWHERE]), interrupt)?;
            let sections = room::collected(leased.sections())?;
            let pieces = room::collected(sections.iter().filter_map(|section| piece_of(section, &places)))?;
            pieces.iter().for_each(Piece::descend);
            let filler = Filler::start(image.inner(), &pieces, rate, timeout)?;
            // What may be touched directly was noted when the memory was published.
            self.inner().republish(incarnation, interrupt)?;
            Ok(filler)
        })?;
        self.inner().filler().get_or_init(|| filler);
        Ok(())
    }
}

/// The places, by ascending address.
pub(super) fn sorted(places: Vec<PyPlace>) -> PyResult<Vec<(u64, u64, Option<Lineage>)>> {
    let places = places.into_iter().map(|(base, at, lineage)| (base.0, at.0, lineage.map(Lineage)));
    let mut places = room::collected(places)?;
    places.sort_unstable_by_key(|place| place.0);
    Ok(places)
}

pub(super) fn piece_of<'a>(section: &Section<'a>, places: &[(u64, u64, Option<Lineage>)]) -> Option<Piece<'a>> {
    let index = places.binary_search_by_key(&section.address(), |place| place.0).ok()?;
    places.get(index).map(|(_, at, lineage)| Piece { section: *section, at: *at, lineage: *lineage })
}

fn area_of((offset, size, lineage, address): PyArea) -> PyResult<Area> {
    let address = address.map(|address| address.0);
    Ok(Area { place: Range::new(offset.0, size.0)?, lineage: Lineage(lineage), address })
}

pub(super) fn py_areas<'py>(py: Python<'py>, plan: &Plan<'_>) -> PyResult<Bound<'py, PyTuple>> {
    let areas = plan.areas().iter().map(|area| (area.place.base(), area.place.size(), area.lineage.0));
    convert::py_tuple(py, areas)
}
