//! `AddressSpacePlan`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::builder::{PyBuilder, PyHotplug};
use super::calls::{self, python_call};
use super::convert;
use super::interrupt::{detached, of_many};
use super::keywords;
use super::layout::PyLayout;
use super::machine::PyMachine;
use super::numa::PyNumaNode;
use super::region_objects::RegionObject;
use super::space::PySpace;
use crate::memory::host;
use crate::model::format;
use crate::model::plan::SpacePlan;
use crate::model::plan_text;
use crate::sys::host::Host;

/// The place of everything in a machine's memory, before any of it is there. A value: it compares, hashes, pickles and travels as JSON.
///
/// Made by `AddressSpaceBuilder.plan()`; a pure function of the builder, so it is the same on every host.
///
/// >>> from dbs_address_space import AddressSpaceBuilder
/// >>> plan = AddressSpaceBuilder("dragonball", numa_regions=["4GiB"]).plan()
/// >>> print(plan.reasons[0])
/// guest node 0: as much of its 4 GiB as fits below the hole [0xc000_0000, 0x1_0000_0000)
#[pyclass(frozen, weakref, name = "AddressSpacePlan", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyPlan {
    plan: SpacePlan,
}

impl From<SpacePlan> for PyPlan {
    fn from(plan: SpacePlan) -> Self {
        Self { plan }
    }
}

#[pymethods]
impl PyPlan {
    /// RAM by ascending base, then firmware and DAX window: a tuple of named `AddressSpaceRegion`s.
    #[getter]
    fn regions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        convert::py_tuple(py, self.plan.regions.iter().cloned().map(RegionObject))
    }

    /// For each region, why it is where it is and as large as it is.
    #[getter]
    fn reasons<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        convert::py_tuple(py, &self.plan.reasons)
    }

    /// The machine's layout for this much memory.
    #[getter]
    fn layout(&self) -> PyLayout {
        PyLayout(self.plan.layout.clone())
    }

    /// The guest's NUMA nodes: a dict of `NumaNode` by guest node id.
    #[getter]
    fn numa_nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let nodes = PyDict::new(py);
        for (id, node) in &self.plan.numa_nodes {
            nodes.set_item(id, PyNumaNode::from(node.clone()))?;
        }
        Ok(nodes)
    }

    /// The addresses for memory that is plugged in later, an `AddressRange`, or `None`.
    #[getter]
    fn hotplug_window<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.plan.hotplug_window.map(|range| convert::py_range(py, (range.base(), range.size()))).transpose()
    }

    /// The `Hotplug` that was asked for, or `None`.
    #[getter]
    fn hotplug(&self) -> Option<PyHotplug> {
        self.plan.request.hotplug.map(PyHotplug)
    }

    /// All problems, one text for each; a plan with problems can be looked at, not built.
    #[getter]
    fn problems<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        convert::py_tuple(py, &self.plan.problems)
    }

    /// The memory that it takes from a host, a `PlanCost`.
    #[getter]
    fn cost<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let cost = &self.plan.cost;
        let (pages, nodes) = (PyDict::new(py), PyDict::new(py));
        cost.pages.iter().try_for_each(|(size, count)| pages.set_item(size, count))?;
        cost.nodes.iter().try_for_each(|(node, size)| nodes.set_item(node, size))?;
        convert::py_plan_cost(py, (cost.size, cost.preallocated, pages, nodes))
    }

    /// The machine.
    #[getter]
    fn machine(&self) -> PyMachine {
        PyMachine(self.plan.request.machine.clone())
    }

    /// The builder that the plan is of.
    #[getter]
    fn builder(&self) -> PyBuilder {
        PyBuilder(self.plan.request.clone())
    }

    /// The reasons why this host, as it is now, can't build the plan or run it: a tuple of texts, empty when it can. Takes nothing.
    ///
    /// Looks at the nodes that the plan names, at memory and huge pages, of each node that it binds to too, at overcommitment, limits of
    /// the process and its cgroups, the host's architecture and physical addresses, KVM's slots, and the files of zones: whether they are
    /// there, long enough, on a file system with room, and of the page size. `sysfs` and `procfs` may name
    /// copies of another host's; `docs/machines.md` lists the files. What a file does not tell does not count.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> AddressSpaceBuilder(numa_regions=["64MiB"]).plan().check_host()
    /// ()
    #[pyo3(signature = (*, sysfs=None, procfs=None, **others), text_signature = "($self, *, sysfs='/sys', procfs='/proc')")]
    fn check_host<'py>(
        &self,
        py: Python<'py>,
        sysfs: Option<PathBuf>,
        procfs: Option<PathBuf>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        keywords::refuse_of::<Self>("check_host", others)?;
        let this = Host::default();
        let host = Host { sysfs: sysfs.unwrap_or(this.sysfs), procfs: procfs.unwrap_or(this.procfs) };
        PyTuple::new(py, calls::detach(py, || host::problems(&self.plan, &host)))
    }

    /// The mapped `AddressSpace`, or nothing: whatever fails, all that was taken is given back.
    ///
    /// Addresses of the hotplug window are reserved for the owner `"hotplug"`. `progress(p)` as in `map_memory()`. Raises
    /// `InvalidPlan` when there are problems, and else as `map_memory()` does.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> AddressSpaceBuilder(numa_regions=["64MiB"]).plan().build()
    /// AddressSpace(1 regions, 64 MiB RAM, mapped, generation 0)
    #[pyo3(signature = (*, progress=None))]
    pub(super) fn build(&self, py: Python<'_>, progress: Option<Py<PyAny>>) -> PyResult<Py<PySpace>> {
        let space = detached(py, progress, |interrupt| crate::space::build::build(&self.plan, interrupt))?;
        Py::new(py, PySpace::of(py, space)?)
    }

    /// The plan as JSON text, all of it keyed: the builder's arguments, and for readers everything that `print` shows. Numbers are bytes.
    ///
    /// Its keys are `format`, `version`, `builder`, `layout`, `numa_nodes`, `regions`, `hotplug_window`, `cost` and `problems`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder, AddressSpacePlan
    /// >>> plan = AddressSpaceBuilder(numa_regions=["4GiB"]).plan()
    /// >>> AddressSpacePlan.from_json(plan.to_json()) == plan
    /// True
    fn to_json<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let _guard = python_call();
        slf.py().import("dbs_address_space.formats.plan")?.call_method1("to_json", (slf,))
    }

    /// Whatever differs in another plan: a dict of `(here, there)` by the path in the JSON of both, empty for equal plans.
    ///
    /// Regions are known by their names, and `None` stands for what a plan does not have.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> small, large = (AddressSpaceBuilder(numa_regions=[size]).plan() for size in ("1GiB", "2GiB"))
    /// >>> small.diff(large)["regions.ram0.size"]
    /// (1073741824, 2147483648)
    fn diff<'py>(slf: &Bound<'py, Self>, other: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let _guard = python_call();
        slf.py().import("dbs_address_space.formats.plan")?.call_method1("diff", (slf, other))
    }

    /// The plan of a JSON text that `to_json()` made.
    ///
    /// Raises `InvalidPlan` for any other text, and when this version would place the regions elsewhere.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder, AddressSpacePlan
    /// >>> text = AddressSpaceBuilder(numa_regions=["1GiB"]).plan().to_json()
    /// >>> AddressSpacePlan.from_json(text).regions[0].size
    /// 1073741824
    #[staticmethod]
    fn from_json<'py>(text: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let _guard = python_call();
        text.py().import("dbs_address_space.formats.plan")?.call_method1("from_json", (text,))
    }

    fn __eq__(&self, other: &Bound<'_, Self>) -> bool {
        self.plan.request == other.get().plan.request
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.plan.request.hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        let (plan, problems) = (&self.plan, self.plan.problems.len());
        let (name, regions, ram) = (&plan.request.machine.name, plan.regions.len(), format::size(plan.cost.size));
        format!("AddressSpacePlan('{name}', {regions} regions, {ram}, {problems} problems)")
    }

    fn __str__(&self, py: Python<'_>) -> PyResult<String> {
        of_many(py, self.plan.regions.len(), |interrupt| plan_text::text(&self.plan, interrupt))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (PyBuilder,))> {
        let _guard = python_call();
        Ok((py.get_type::<PyBuilder>().getattr("plan")?, (self.builder(),)))
    }
}

#[pymethods]
impl PyBuilder {
    /// The plan: the place of each region, the reasons, the cost and all problems. Pure, and the same everywhere.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> AddressSpaceBuilder("q35", numa_regions=["5GiB"]).plan().problems
    /// ()
    fn plan(&self, py: Python<'_>) -> PyResult<PyPlan> {
        let request = self.0.clone();
        let count = request.numa_regions.iter().fold(0, |sum: usize, info| {
            sum.saturating_add(info.vcpu_ids.len().max(info.generic_initiators.len()).max(1))
        });
        of_many(py, count, |interrupt| SpacePlan::of(request, interrupt)).map(PyPlan::from)
    }

    /// The mapped `AddressSpace` of the plan: `plan().build()`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> AddressSpaceBuilder(numa_regions=["64MiB"]).build().memory.read(0, 4)
    /// b'\x00\x00\x00\x00'
    #[pyo3(signature = (*, progress=None))]
    fn build(&self, py: Python<'_>, progress: Option<Py<PyAny>>) -> PyResult<Py<PySpace>> {
        self.plan(py)?.build(py, progress)
    }
}
