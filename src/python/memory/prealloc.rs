//! Population of regions, at once or in the background.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::PyMemory;
use crate::memory::access::Verb;
use crate::memory::prealloc::{self, PreallocJob};
use crate::memory::protection::Need;
use crate::model::invalid::Invalid;
use crate::python::keywords;
use crate::python::prealloc::{PyPreallocHandle, report};
use crate::python::threads::Threads;

const PREALLOC: Verb = Verb::new("prealloc", Need::Nothing).slow();

#[pymethods]
impl PyMemory {
    /// Sees to it that every page of all regions, or of one (exact base, name or region), is there, and returns a `PreallocReport`.
    ///
    /// Works in `threads` threads, by default as many as there are CPUs, up to 16 and one for each 16 MiB, near the NUMA nodes of
    /// the region. Present pages stay unchanged. `progress(p)` has bytes done and total and bytes a second; raising, and Ctrl-C, ends it
    /// within a moment. With `background` it returns a `PreallocHandle` at once; the memory stays until that has ended, even
    /// when the space is gone. Regions are leased meanwhile, so that removing one is `RegionBusy`.
    ///
    /// Raises `HugePagesShort` with the pages that are missing, `BackingError`. Populated pages stay, for they may be in use.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.prealloc().size
    /// 4194304
    #[pyo3(signature = (region=None, *, threads=None, progress=None, background=false, **others),
        text_signature = "($self, region=None, *, threads=None, progress=None, background=False)")]
    fn prealloc<'py>(
        &self,
        py: Python<'py>,
        region: Option<&Bound<'_, PyAny>>,
        threads: Option<Threads>,
        progress: Option<Py<PyAny>>,
        background: bool,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        keywords::refuse_of::<Self>("prealloc", others)?;
        let threads = threads.map(|threads| threads.0);
        if background && progress.is_some() {
            let message = "progress= goes with the foreground: in the background, ask the handle's progress";
            return Err(Invalid::argument(message).into());
        }
        let (verb, range) = self.regions_of(PREALLOC, region)?;
        if background {
            let job = PreallocJob::start(self.lease(py, (verb, &[range]))?, threads)?;
            return Ok(Bound::new(py, PyPreallocHandle(job))?.into_any());
        }
        let done = self.run(py, [(verb, &[range])], progress, |[sections], interrupt| {
            let total = prealloc::size_of_all(sections.iter().copied());
            prealloc::populate(sections, threads, &mut |done| interrupt.progress("populate", done, total))
        });
        report(py, &done?)
    }
}
