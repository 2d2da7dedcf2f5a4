//! `NumaNodeInfo`, `NumaNode`, `NumaIdTable`.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::argument::{Argument, wanted};
use super::calls::python_call;
use super::convert::{self, Address, Size, U32};
use super::keywords;
use crate::model::format::hex;
use crate::model::numa::{NumaIdTable, NumaNode};
use crate::model::pci_address::PciAddress;
use crate::model::range::Range;

/// A range of guest physical memory that belongs to a NUMA node.
///
/// Raises `InvalidAddressRange`.
///
/// >>> from dbs_address_space import NumaNodeInfo
/// >>> NumaNodeInfo(0, "1GiB").size
/// 1073741824
#[pyclass(frozen, eq, hash, weakref, name = "NumaNodeInfo", module = "dbs_address_space")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PyNumaNodeInfo(Range);

#[pymethods]
impl PyNumaNodeInfo {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str) {
        ("base", "size")
    }

    #[new]
    #[pyo3(signature = (base, size, **others), text_signature = "(base, size)")]
    fn new(base: Address, size: Size, others: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        keywords::refuse::<Self>(others)?;
        convert::range(base, size).map(Self)
    }

    /// The first address.
    #[getter]
    fn base(&self) -> u64 {
        self.0.base()
    }

    /// The number of bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn __repr__(&self) -> String {
        format!("NumaNodeInfo(base={}, size={})", hex(self.0.base()), hex(self.0.size()))
    }

    fn __getnewargs__(&self) -> (u64, u64) {
        (self.0.base(), self.0.size())
    }
}

/// A guest's NUMA node: its memory, its vCPUs and its generic initiators, in the order given. A value: `add_*` give a new one.
///
/// `generic_initiators` are PCI devices that access memory as processors do, texts such as `"0000:01:00.0"`. Raises
/// `InvalidArgument` for other texts.
///
/// >>> from dbs_address_space import NumaNode, NumaNodeInfo
/// >>> NumaNode().add_info(NumaNodeInfo(0, "1GiB")).add_vcpu_ids([0, 1]).vcpu_ids
/// (0, 1)
#[pyclass(frozen, eq, hash, weakref, name = "NumaNode", module = "dbs_address_space")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PyNumaNode(NumaNode);

impl PyNumaNode {
    pub(super) const fn node(&self) -> &NumaNode {
        &self.0
    }
}

impl From<NumaNode> for PyNumaNode {
    fn from(node: NumaNode) -> Self {
        Self(node)
    }
}

/// Ids of a parameter; none for `None`.
pub(super) fn ids(values: Option<&Bound<'_, PyAny>>, name: &str) -> PyResult<Vec<u32>> {
    convert::items_or_none(values, "ints", |value| Ok(value.extract::<U32>()?.0)).argument(name)
}

/// The PCI devices of the parameter `generic_initiators`; none for `None`.
pub(super) fn generic_initiators(given: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<PciAddress>> {
    let address = |text: Bound<'_, PyAny>| Ok(PciAddress::parse(&convert::text(&text)?)?);
    convert::items_or_none(given, "texts", address).argument("generic_initiators")
}

/// The addresses of PCI devices, as texts.
pub(super) fn texts<'py>(py: Python<'py>, devices: &[PciAddress]) -> PyResult<Bound<'py, PyTuple>> {
    convert::py_tuple(py, devices.iter().map(PciAddress::to_string))
}

#[pymethods]
impl PyNumaNode {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str) {
        ("region_infos", "vcpu_ids")
    }

    #[new]
    #[pyo3(signature = (region_infos=None, vcpu_ids=None, *, hotplug_infos=None, generic_initiators=None, **others),
        text_signature = "(region_infos=(), vcpu_ids=(), *, hotplug_infos=(), generic_initiators=())")]
    fn new(
        region_infos: Option<&Bound<'_, PyAny>>,
        vcpu_ids: Option<&Bound<'_, PyAny>>,
        hotplug_infos: Option<&Bound<'_, PyAny>>,
        generic_initiators: Option<&Bound<'_, PyAny>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse::<Self>(others)?;
        let info = |item: Bound<'_, PyAny>| {
            let info = item.cast::<PyNumaNodeInfo>().map_err(|_| wanted("a NumaNodeInfo", &item))?;
            Ok(info.get().0)
        };
        let region_infos = convert::items_or_none(region_infos, "NumaNodeInfo", info).argument("region_infos")?;
        let hotplug_infos = convert::items_or_none(hotplug_infos, "NumaNodeInfo", info).argument("hotplug_infos")?;
        let (vcpu_ids, generic_initiators) =
            (ids(vcpu_ids, "vcpu_ids")?, self::generic_initiators(generic_initiators)?);
        Ok(Self(NumaNode { region_infos, vcpu_ids, hotplug_infos, generic_initiators }))
    }

    /// The memory ranges, a tuple of `NumaNodeInfo`.
    #[getter]
    fn region_infos<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.region_infos.iter().map(|range| PyNumaNodeInfo(*range)))
    }

    /// The vCPU ids.
    #[getter]
    fn vcpu_ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.vcpu_ids)
    }

    /// The addresses for memory that is plugged into it later, a tuple of `NumaNodeInfo`.
    #[getter]
    fn hotplug_infos<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.hotplug_infos.iter().map(|range| PyNumaNodeInfo(*range)))
    }

    /// The PCI devices that access memory as processors do, a tuple of texts such as `"0000:01:00.0"`.
    #[getter]
    fn generic_initiators<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.generic_initiators)
    }

    /// A node with one memory range more.
    ///
    /// >>> from dbs_address_space import NumaNode, NumaNodeInfo
    /// >>> NumaNode().add_info(NumaNodeInfo(0, "1GiB")).region_infos
    /// (NumaNodeInfo(base=0x0, size=0x4000_0000),)
    fn add_info(&self, info: &Bound<'_, PyNumaNodeInfo>) -> Self {
        let mut node = self.0.clone();
        node.region_infos.push(info.get().0);
        Self(node)
    }

    /// A node with more vCPUs.
    ///
    /// >>> from dbs_address_space import NumaNode
    /// >>> NumaNode(vcpu_ids=[0]).add_vcpu_ids([1, 2]).vcpu_ids
    /// (0, 1, 2)
    fn add_vcpu_ids(&self, vcpu_ids: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut node = self.0.clone();
        node.vcpu_ids.extend(ids(Some(vcpu_ids), "vcpu_ids")?);
        Ok(Self(node))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let _guard = python_call();
        let (infos, vcpus) = (self.region_infos(py)?.repr()?, self.vcpu_ids(py)?.repr()?);
        let hotplug = match self.0.hotplug_infos.is_empty() {
            true => String::new(),
            false => format!(", hotplug_infos={}", self.hotplug_infos(py)?.repr()?),
        };
        let devices = match self.0.generic_initiators.is_empty() {
            true => String::new(),
            false => format!(", generic_initiators={}", self.generic_initiators(py)?.repr()?),
        };
        Ok(format!("NumaNode(region_infos={infos}, vcpu_ids={vcpus}{hotplug}{devices})"))
    }

    #[allow(clippy::type_complexity, reason = "what pickle asks for")]
    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<((Bound<'py, PyTuple>, Bound<'py, PyTuple>), Bound<'py, PyDict>)> {
        let keywords = PyDict::new(py);
        keywords.set_item("hotplug_infos", self.hotplug_infos(py)?)?;
        keywords.set_item("generic_initiators", self.generic_initiators(py)?)?;
        Ok(((self.region_infos(py)?, self.vcpu_ids(py)?), keywords))
    }
}

/// NUMA node ids of memory devices and of vCPUs, in their order.
///
/// >>> from dbs_address_space import NumaIdTable
/// >>> NumaIdTable(memory=[0, 1]).memory
/// (0, 1)
#[pyclass(frozen, eq, hash, weakref, name = "NumaIdTable", module = "dbs_address_space")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PyNumaIdTable(NumaIdTable);

#[pymethods]
impl PyNumaIdTable {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str) {
        ("memory", "cpu")
    }

    #[new]
    #[pyo3(signature = (memory=None, cpu=None, **others), text_signature = "(memory=(), cpu=())")]
    fn new(
        memory: Option<&Bound<'_, PyAny>>,
        cpu: Option<&Bound<'_, PyAny>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse::<Self>(others)?;
        Ok(Self(NumaIdTable { memory: ids(memory, "memory")?, cpu: ids(cpu, "cpu")? }))
    }

    /// The node ids of the memory devices.
    #[getter]
    fn memory<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.memory)
    }

    /// The node ids of the vCPUs.
    #[getter]
    fn cpu<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.cpu)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let _guard = python_call();
        Ok(format!("NumaIdTable(memory={}, cpu={})", self.memory(py)?.repr()?, self.cpu(py)?.repr()?))
    }

    fn __getnewargs__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyTuple>)> {
        Ok((self.memory(py)?, self.cpu(py)?))
    }
}
