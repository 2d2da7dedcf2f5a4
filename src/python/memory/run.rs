//! The two ways of a verb: short, on one snapshot and with the interpreter's lock; or long, under leases and without it.

use pyo3::prelude::*;

use super::PyMemory;
use crate::memory::access::{self, LONG_COPY, Side};
use crate::memory::leased_sections::LeasedSections;
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::section::Section;
use crate::model::error::Result;
use crate::model::interrupt::{Interrupt, Uninterrupted};
use crate::model::range::Range;
use crate::model::region_map::RegionMap;
use crate::model::room::Room;
use crate::python::callback;
use crate::python::interrupt::detached;

/// Whether a copy of so many bytes is long.
#[inline]
pub(super) const fn is_long_copy(size: u64) -> bool {
    size >= LONG_COPY
}

/// Whether work is long: by its size or its verb, or because it may wait for a disk or for a handler of faults.
fn is_long<const N: usize>(sides: &[Side<'_>; N], plans: &[Vec<Section<'_>>; N]) -> bool {
    sides.iter().zip(plans).any(|((verb, ranges), plan)| {
        // The sum is a number: the plan was made for a buffer of that size.
        let size: u64 = ranges.iter().map(Range::size).sum();
        !plan.is_empty() && (size >= verb.long_from || plan.iter().any(Section::may_block))
    })
}

impl PyMemory {
    /// Does short work on one snapshot: it neither waits nor runs Python code.
    #[inline]
    pub(in crate::python) fn short<T>(
        &self,
        work: impl FnOnce(&RegionMap, &MappedRegions) -> Result<T>,
    ) -> PyResult<T> {
        let result = {
            let snapshot = self.space.load();
            snapshot.memory_of(self.incarnation).and_then(|memory| work(&snapshot.map, memory))
        };
        // The snapshot is let go before an error becomes an exception: that runs Python code.
        Ok(result.inspect_err(|error| self.space.count_fault(error))?)
    }

    /// Makes one direct copy of so many bytes, unless it is long; `None` sends it to [`run`](Self::run).
    #[inline]
    pub(super) fn direct<T>(&self, size: u64, copy: impl FnOnce(&MappedRegions) -> Option<T>) -> PyResult<Option<T>> {
        if is_long_copy(size) { Ok(None) } else { self.short(|_, memory| Ok(copy(memory))) }
    }

    /// Does work on the sections that the verbs take of their ranges; nothing is done before all of it is found possible.
    ///
    /// Short work is done at once, on the snapshot that it was planned on. Long work takes leases and lets the snapshot and the
    /// interpreter's lock go; while a change is deciding about a region, it waits, and plans again on the snapshot of then.
    pub(in crate::python) fn run<T: Send, const N: usize>(
        &self,
        py: Python<'_>,
        sides: [Side<'_>; N],
        progress: Option<Py<PyAny>>,
        work: impl FnOnce([&[Section<'_>]; N], &dyn Interrupt) -> Result<T> + Send,
    ) -> PyResult<T> {
        callback::check_progress(py, progress.as_ref())?;
        let snapshot = self.space.load();
        let plans = snapshot.memory_of(self.incarnation).and_then(|memory| access::plan(&snapshot.map, memory, sides));
        let leased = match plans {
            Ok(plans) if progress.is_some() || is_long(&sides, &plans) => LeasedSections::lease_all(sides, &plans),
            Ok(plans) => {
                let result = work(plans.each_ref().map(Vec::as_slice), &Uninterrupted);
                drop(plans);
                // The snapshot is let go before an error becomes an exception.
                drop(snapshot);
                return Ok(result.inspect_err(|error| self.space.count_fault(error))?);
            }
            Err(error) => Err(error),
        };
        // Before the wait for a change, which waits for all who have this snapshot.
        drop(snapshot);
        let leased = leased?;
        detached(py, progress, move |interrupt| {
            let leased = self.space.lease(self.incarnation, sides, leased, interrupt)?;
            let mut all = [const { Vec::new() }; N];
            for (sections, side) in all.iter_mut().zip(&leased) {
                sections.add_all(side.sections())?;
            }
            work(all.each_ref().map(Vec::as_slice), interrupt).inspect_err(|error| self.space.count_fault(error))
        })
    }

    /// Leases for what outlives the call.
    pub(super) fn lease(&self, py: Python<'_>, side: Side<'_>) -> PyResult<LeasedSections> {
        let [leased] = match self.space.try_lease(self.incarnation, [side])? {
            Ok(leased) => leased,
            unsettled => {
                detached(py, None, |interrupt| self.space.lease(self.incarnation, [side], unsettled, interrupt))?
            }
        };
        Ok(leased)
    }
}
