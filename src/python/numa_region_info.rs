//! `NumaRegionInfo`.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::argument::Argument;
use super::backing::{self, PyNumaPolicy};
use super::calls::python_call;
use super::convert::{self, Size, U32};
use super::enum_members;
use super::keywords;
use crate::model::format;
use crate::model::numa::{NumaRegionInfo, Zone};

/// Memory that a machine should have: how much, for which guest node, from which host node, and of which kind.
///
/// `size` is in bytes, or text such as `"2GiB"`; ints below 1 MiB are refused, for the original counts MiB. Without a guest node it
/// belongs to node 0; a guest node without memory has the size 0. `generic_initiators` are PCI devices of the node that access memory as
/// processors do, such as `"0000:01:00.0"`. `mem_type`, `mem_file_path`, `page_size`, `policy` and `prefault`
/// are for this memory alone, and the builder's where not given. `file` is the path of an ordinary file with these bytes, which is
/// opened by `build()`, or of a folder for a new file without a name; with `shared=False` what is written stays in memory. For
/// `hotplug_size` bytes more the plan reserves addresses, for the owner `"hotplug "` and the name. `name` is the region's; where a hole splits the memory, the next
/// ones are called `name-1` and so on. Raises `InvalidAddressRange`, and `InvalidArgument` for other values.
///
/// >>> from dbs_address_space import AddressSpaceBuilder, NumaRegionInfo
/// >>> NumaRegionInfo("2GiB", host_numa_node_id=0, guest_numa_node_id=1, vcpu_ids=[2, 3])
/// NumaRegionInfo('2 GiB', host_numa_node_id=0, guest_numa_node_id=1, vcpu_ids=(2, 3))
/// >>> fast = NumaRegionInfo("1GiB", mem_type="hugeshmem", page_size="1GiB", policy="bind", name="fast")
/// >>> [region.name for region in AddressSpaceBuilder(numa_regions=[fast, "1GiB"]).plan().regions]
/// ['fast', 'ram1']
#[pyclass(frozen, eq, hash, weakref, name = "NumaRegionInfo", module = "dbs_address_space")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PyNumaRegionInfo(pub(super) NumaRegionInfo);

impl PyNumaRegionInfo {
    /// Memory of which nothing but the size is asked.
    pub(super) fn of_size(size: Size) -> PyResult<NumaRegionInfo> {
        let info = NumaRegionInfo { size: size.0, ..NumaRegionInfo::default() };
        info.check()?;
        Ok(info)
    }

    /// The choices that were made, as keywords.
    fn keywords<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (zone, keywords) = (&self.0.zone, PyDict::new(py));
        if !self.0.generic_initiators.is_empty() {
            keywords.set_item("generic_initiators", self.generic_initiators(py)?)?;
        }
        if let Some(source) = zone.source_type {
            keywords.set_item("mem_type", enum_members::source_type(py, source.as_str())?)?;
        }
        if let Some(path) = &zone.path {
            keywords.set_item("mem_file_path", path.as_os_str())?;
        }
        if let Some(file) = &zone.file {
            keywords.set_item("file", file.as_os_str())?;
        }
        if let Some(shared) = zone.shared {
            keywords.set_item("shared", shared)?;
        }
        if let Some(size) = zone.hotplug_size {
            keywords.set_item("hotplug_size", size)?;
        }
        if let Some(size) = zone.page_size {
            keywords.set_item("page_size", size)?;
        }
        if let Some(policy) = &zone.policy {
            keywords.set_item("policy", PyNumaPolicy(policy.clone()))?;
        }
        if let Some(prefault) = zone.prefault {
            keywords.set_item("prefault", prefault)?;
        }
        if let Some(name) = &zone.name {
            keywords.set_item("name", &**name)?;
        }
        Ok(keywords)
    }
}

#[pymethods]
impl PyNumaRegionInfo {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str, &'static str, &'static str) {
        ("size", "host_numa_node_id", "guest_numa_node_id", "vcpu_ids")
    }

    #[new]
    #[pyo3(signature = (size, host_numa_node_id=None, guest_numa_node_id=None, vcpu_ids=None, *, generic_initiators=None, mem_type=None, mem_file_path=None, file=None, shared=None, page_size=None,
        policy=None, prefault=None, hotplug_size=None, name=None, **others),
        text_signature = "(size, host_numa_node_id=None, guest_numa_node_id=None, vcpu_ids=(), *, generic_initiators=(), mem_type=None, mem_file_path=None, file=None, shared=None, page_size=None, policy=None, prefault=None, hotplug_size=None, name=None)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn new(
        size: Size,
        host_numa_node_id: Option<U32>,
        guest_numa_node_id: Option<U32>,
        vcpu_ids: Option<&Bound<'_, PyAny>>,
        generic_initiators: Option<&Bound<'_, PyAny>>,
        mem_type: Option<&Bound<'_, PyAny>>,
        mem_file_path: Option<&Bound<'_, PyAny>>,
        file: Option<&Bound<'_, PyAny>>,
        shared: Option<bool>,
        page_size: Option<Size>,
        policy: Option<&Bound<'_, PyAny>>,
        prefault: Option<bool>,
        hotplug_size: Option<Size>,
        name: Option<&Bound<'_, PyAny>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse::<Self>(others)?;
        let zone = Zone {
            source_type: mem_type.map(convert::source_type).transpose().argument("mem_type")?,
            path: mem_file_path.map(|path| convert::path(path, "mem_file_path")).transpose()?,
            file: file.map(|file| convert::path(file, "file")).transpose()?,
            shared,
            hotplug_size: hotplug_size.map(|size| size.0),
            page_size: page_size.map(|size| size.0),
            policy: policy.map(backing::policy).transpose().argument("policy")?,
            prefault,
            name: name.map(convert::text).transpose().argument("name")?.map(Into::into),
        };
        let info = NumaRegionInfo {
            size: size.0,
            host_numa_node_id: host_numa_node_id.map(|node| node.0),
            guest_numa_node_id: guest_numa_node_id.map(|node| node.0),
            vcpu_ids: super::numa::ids(vcpu_ids, "vcpu_ids")?,
            generic_initiators: super::numa::generic_initiators(generic_initiators)?,
            zone,
        };
        info.check()?;
        Ok(Self(info))
    }

    /// The number of bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.0.size
    }

    /// The host's NUMA node, or `None` for any.
    #[getter]
    fn host_numa_node_id(&self) -> Option<u32> {
        self.0.host_numa_node_id
    }

    /// The guest's NUMA node, or `None` for 0.
    #[getter]
    fn guest_numa_node_id(&self) -> Option<u32> {
        self.0.guest_numa_node_id
    }

    /// The vCPUs of the guest's node.
    #[getter]
    fn vcpu_ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.vcpu_ids)
    }

    /// The PCI devices of the guest's node that access memory as processors do, a tuple of texts such as `"0000:01:00.0"`.
    #[getter]
    fn generic_initiators<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        super::numa::texts(py, &self.0.generic_initiators)
    }

    /// The path of its ordinary file or of a folder, or `None`.
    #[getter]
    fn file(&self) -> Option<&std::ffi::OsStr> {
        self.0.zone.file.as_ref().map(|file| file.as_os_str())
    }

    /// Whether its file is written to, or `None` for the default, which is yes.
    #[getter]
    fn shared(&self) -> Option<bool> {
        self.0.zone.shared
    }

    /// The bytes that can be plugged into it later, or `None`.
    #[getter]
    fn hotplug_size(&self) -> Option<u64> {
        self.0.zone.hotplug_size
    }

    /// The size of its huge pages in bytes, or `None` for the builder's.
    #[getter]
    fn page_size(&self) -> Option<u64> {
        self.0.zone.page_size
    }

    /// The nodes of the host, a `NumaPolicy`, or `None` for the builder's.
    #[getter]
    fn policy(&self) -> Option<PyNumaPolicy> {
        self.0.zone.policy.clone().map(PyNumaPolicy)
    }

    /// Whether every page is there from the beginning, or `None` for the builder's choice.
    #[getter]
    fn prefault(&self) -> Option<bool> {
        self.0.zone.prefault
    }

    /// The name of its first region, or `None`.
    #[getter]
    fn name(&self) -> Option<&str> {
        self.0.zone.name.as_deref()
    }

    /// The `MemorySourceType`, or `None` for the builder's.
    #[getter]
    fn mem_type<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.zone.source_type.map(|source| enum_members::source_type(py, source.as_str())).transpose()
    }

    /// The path of its files on a hugetlbfs mount, or `None` for the builder's.
    #[getter]
    fn mem_file_path(&self) -> Option<&std::ffi::OsStr> {
        self.0.zone.path.as_ref().map(|path| path.as_os_str())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let _guard = python_call();
        let node = |node: Option<u32>| node.map_or_else(|| "None".into(), |node| node.to_string());
        let mut text = format!(
            "NumaRegionInfo('{}', host_numa_node_id={}, guest_numa_node_id={}, vcpu_ids={}",
            format::size(self.0.size),
            node(self.0.host_numa_node_id),
            node(self.0.guest_numa_node_id),
            self.vcpu_ids(py)?.repr()?
        );
        for (name, value) in self.keywords(py)? {
            // As its value: the name of a member would need an import.
            let value = value.getattr("value").unwrap_or(value);
            text.push_str(&format!(", {name}={}", value.repr()?));
        }
        Ok(text + ")")
    }

    #[allow(clippy::type_complexity, reason = "what pickle asks for")]
    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<((u64, Option<u32>, Option<u32>, Bound<'py, PyTuple>), Bound<'py, PyDict>)> {
        let arguments = (self.0.size, self.0.host_numa_node_id, self.0.guest_numa_node_id, self.vcpu_ids(py)?);
        Ok((arguments, self.keywords(py)?))
    }
}
