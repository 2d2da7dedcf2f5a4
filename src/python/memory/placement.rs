//! What the kernel gave, and what it should: population, placement, giving memory back.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyTuple};

use super::PyMemory;
use crate::memory::lease::Lease;
use crate::memory::memory_stats::{self, MemoryStats, NumaPlacement};
use crate::memory::prealloc::{self, Background, Target};
use crate::memory::region::MappedRegion;
use crate::memory::{discard, mapped_regions::Need};
use crate::model::error::{Error, Result};
use crate::model::int::usize_of;
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::python::backing::PyNumaPolicy;
use crate::python::base::target;
use crate::python::buffer::wait_settled;
use crate::python::convert::{self, Address, Size, U32};
use crate::python::dax::PyDaxWindow;
use crate::python::interrupt::detached;
use crate::python::prealloc::{PyPreallocHandle, report};
use crate::python::region_objects::RegionObject;

/// What a lease is called while memory is populated.
const PREALLOC: &str = "prealloc";

impl PyMemory {
    /// All mapped regions, or the one that is meant.
    fn mapped(&self, region: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<Arc<MappedRegion>>> {
        let wanted = region.map(target).transpose()?;
        self.with_memory(|map, memory| match wanted {
            None => Ok(memory.regions().to_vec()),
            Some(wanted) => {
                let region = wanted.find(map)?;
                memory.find(region.base()).map(|region| vec![Arc::clone(region)]).ok_or_else(|| Error::Unmapped {
                    message: format!("{region} is a device: it has no memory"),
                    address: Some(region.base()),
                    size: Some(region.size()),
                    region: Some(Arc::clone(region)),
                })
            }
        })
    }

    fn leases(&self, py: Python<'_>, regions: &[Arc<MappedRegion>]) -> PyResult<Vec<Lease>> {
        let mut leases = Vec::with_capacity(regions.len());
        for region in regions {
            let (base, size) = (region.desc.base(), region.desc.size());
            loop {
                match region.lease(PREALLOC, base, size, false) {
                    Ok(lease) => break leases.push(lease),
                    Err(crate::memory::lease::Refused::Closing) => wait_settled(py, &self.space, &region.leases, base)?,
                    Err(crate::memory::lease::Refused::Closed) => {
                        return Err(Error::NotMapped { message: format!("{} was removed", region.desc) }.into());
                    }
                }
            }
        }
        Ok(leases)
    }
}

#[pymethods]
impl PyMemory {
    /// Sees to it that every page of all regions, or of one (exact base, name or region), is there, and returns a `PreallocReport`.
    ///
    /// Works in `threads` threads, by default as many as there are CPUs, up to 16 and one for each 64 MiB, near the NUMA nodes of
    /// the region. What is there stays as it is. `progress(p)` has bytes done and total and bytes a second; raising, and Ctrl-C, ends it
    /// within a moment. With `background` it returns a `PreallocHandle` at once; the memory stays until that has ended, even
    /// when the space is gone. Regions are leased meanwhile, so that removing one is `RegionBusy`.
    ///
    /// Raises `HugePagesShort` with the pages that are missing, `BackingError`. What was populated then stays, for it may be in use.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.prealloc().size
    /// 4194304
    #[pyo3(signature = (region=None, *, threads=None, progress=None, background=false))]
    fn prealloc<'py>(
        &self,
        py: Python<'py>,
        region: Option<&Bound<'_, PyAny>>,
        threads: Option<U32>,
        progress: Option<Py<PyAny>>,
        background: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let threads = threads.map(|threads| usize_of(threads.0.into()));
        if threads.is_some_and(|threads| !(1..=1024).contains(&threads)) {
            return Err(Invalid::argument("threads must lie between 1 and 1024").into());
        }
        if background && progress.is_some() {
            let message = "progress= goes with the foreground: in the background, ask the handle's progress";
            return Err(Invalid::argument(message).into());
        }
        let regions = self.mapped(region)?;
        let leases = self.leases(py, &regions)?;
        let targets: Vec<Target> =
            regions.iter().filter_map(|region| Target::of(&region.desc, &region.mapping)).collect();
        drop(regions);
        if background {
            let job = Background::start(targets, threads, leases)?;
            return Ok(Bound::new(py, PyPreallocHandle(job))?.into_any());
        }
        let total = targets.iter().fold(0u64, |sum, target| sum.saturating_add(target.size()));
        let done = detached(py, progress, move |interrupt| {
            let result = prealloc::populate(&targets, threads, &mut |done| interrupt.progress("populate", done, total));
            drop(leases);
            result
        })?;
        report(py, &done)
    }

    /// What the kernel really gave each region, or one: a tuple of `EffectiveBacking`, read back from the kernel.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"], mem_prealloc=True).build().memory
    /// >>> memory.effective()[0].resident
    /// 4194304
    #[pyo3(signature = (region=None))]
    fn effective<'py>(&self, py: Python<'py>, region: Option<&Bound<'_, PyAny>>) -> PyResult<Bound<'py, PyTuple>> {
        let regions = self.mapped(region)?;
        let states = detached(py, None, move |_| memory_stats::effective(&regions))?;
        let states: Vec<_> = states.into_iter().map(|state| py_effective(py, state)).collect::<PyResult<_>>()?;
        PyTuple::new(py, states)
    }

    /// Where the pages of each region, or of one, are, against the NUMA policy that was asked for: a tuple of `NumaPlacement`.
    ///
    /// Up to 1,024 pages of each region, evenly spread, are looked at (`move_pages(2)`); none is moved or touched.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder, NumaRegionInfo
    /// >>> memory = AddressSpaceBuilder(numa_regions=[NumaRegionInfo("4MiB", 0)], mem_prealloc=True).build().memory
    /// >>> memory.verify_placement()[0].misplaced
    /// 0
    #[pyo3(signature = (region=None))]
    fn verify_placement<'py>(
        &self,
        py: Python<'py>,
        region: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let regions = self.mapped(region)?;
        let places = detached(py, None, move |_| memory_stats::placements(&regions))?;
        let places: Vec<_> = places.into_iter().map(|place| py_placement(py, place)).collect::<PyResult<_>>()?;
        PyTuple::new(py, places)
    }

    /// Gives whole pages back to the host, the right way for each backing; afterwards they read as zero.
    ///
    /// A file, the user's too, gets a hole where the region lies in it. Raises `Misaligned` for what is not whole pages,
    /// `UnmappedAddress`, `RegionBusy` for huge pages that a view holds, `BackingError`, `Unsupported`. A range over several regions is
    /// discarded one by one.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.fill(0, 8192, 1)
    /// >>> memory.discard(4096, 4096)
    /// >>> memory.read(4095, 2)
    /// b'\x01\x00'
    fn discard(&self, py: Python<'_>, addr: Address, size: Size) -> PyResult<()> {
        let range = convert::range(addr, size)?;
        let sections: Vec<(Arc<MappedRegion>, Range)> =
            self.with_access(("discard", Need::Write), range, |access| {
                let part = |section: crate::memory::section::Section| {
                    let base = section.address();
                    (
                        section.region,
                        Range::between(base, base.saturating_add(u64::try_from(section.size).unwrap_or(u64::MAX))),
                    )
                };
                Ok(access.sections()?.into_iter().map(part).collect())
            })?;
        detached(py, None, move |_| discard_all(&sections))
    }

    /// The `DaxWindow` of a DAX region, given by exact base, name or region.
    ///
    /// Raises `UnmappedAddress`, `InvalidArgument` for a region that is not one.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"], dax_window="2MiB").build().memory
    /// >>> memory.dax_window("dax0").mappings
    /// ()
    fn dax_window(&self, region: &Bound<'_, PyAny>) -> PyResult<PyDaxWindow> {
        let region = self.mapped(Some(region))?.pop();
        let region = region.ok_or_else(|| Error::NotMapped { message: "the region is not mapped".into() })?;
        Ok(PyDaxWindow::of(self.space.clone(), region)?)
    }
}

/// All are checked before the first is discarded.
fn discard_all(sections: &[(Arc<MappedRegion>, Range)]) -> Result<()> {
    sections.iter().try_for_each(|(region, range)| discard::check(region, *range))?;
    sections.iter().try_for_each(|(region, range)| discard::discard(region, *range))
}

fn counts<'py>(py: Python<'py>, nodes: &std::collections::BTreeMap<u32, u64>) -> PyResult<Bound<'py, PyDict>> {
    let counts = PyDict::new(py);
    nodes.iter().try_for_each(|(node, pages)| counts.set_item(node, pages))?;
    Ok(counts)
}

fn py_effective(py: Python<'_>, state: MemoryStats) -> PyResult<Bound<'_, PyAny>> {
    let (region, sums) = (RegionObject(state.region), state.sums);
    let (flags, policy) = (PyFrozenSet::new(py, &sums.flags)?, state.policy.map(PyNumaPolicy));
    let nodes = counts(py, &state.nodes)?;
    convert::py_effective(py, (region, sums.page_size, sums.resident, sums.huge, sums.locked, flags, policy, nodes))
}

fn py_placement(py: Python<'_>, place: NumaPlacement) -> PyResult<Bound<'_, PyAny>> {
    let (region, policy) = (RegionObject(place.region), place.policy.map(PyNumaPolicy));
    convert::py_placement(py, (region, policy, place.sampled, counts(py, &place.nodes)?, place.misplaced))
}
