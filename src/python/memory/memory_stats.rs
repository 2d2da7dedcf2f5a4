//! Reports of what the kernel really gave.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyTuple};

use super::PyMemory;
use crate::memory::access::Verb;
use crate::memory::memory_stats::{self, MemoryStats, NumaPlacement};
use crate::memory::protection::Need;
use crate::python::backing::PyNumaPolicy;
use crate::python::convert;
use crate::python::region_objects::RegionObject;

const EFFECTIVE: Verb = Verb::new("effective", Need::Nothing).slow();
const VERIFY_PLACEMENT: Verb = Verb::new("verify_placement", Need::Nothing).slow();

#[pymethods]
impl PyMemory {
    /// The memory really given to each region, or one: a tuple of `EffectiveBacking`, read back from the kernel.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"], mem_prealloc=True).build().memory
    /// >>> memory.effective()[0].resident
    /// 4194304
    #[pyo3(signature = (region=None))]
    fn effective<'py>(&self, py: Python<'py>, region: Option<&Bound<'_, PyAny>>) -> PyResult<Bound<'py, PyTuple>> {
        let (verb, range) = self.regions_of(EFFECTIVE, region)?;
        let states = self.run(py, [(verb, &[range])], None, |[sections], _| memory_stats::effective(sections));
        let states: Vec<_> = states?.into_iter().map(|state| py_effective(py, state)).collect::<PyResult<_>>()?;
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
        let (verb, range) = self.regions_of(VERIFY_PLACEMENT, region)?;
        let places = self.run(py, [(verb, &[range])], None, |[sections], _| memory_stats::placements(sections));
        let places: Vec<_> = places?.into_iter().map(|place| py_placement(py, place)).collect::<PyResult<_>>()?;
        PyTuple::new(py, places)
    }
}

fn counts<'py>(py: Python<'py>, nodes: &BTreeMap<u32, u64>) -> PyResult<Bound<'py, PyDict>> {
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
