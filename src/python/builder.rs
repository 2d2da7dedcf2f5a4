//! `AddressSpaceBuilder` and `Hotplug`.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::argument::{Argument, wanted};
use super::backing::PyBackingOptions;
use super::convert::{self, Size, U32};
use super::enum_members;
use super::keywords;
use super::machine::PyMachine;
use super::numa_region_info::PyNumaRegionInfo;
use crate::model::format;
use crate::model::invalid::Invalid;
use crate::model::machine::{Arch, Machine};
use crate::model::numa::NumaRegionInfo;
use crate::model::plan::{Hotplug, PlanRequest};
use crate::model::source::SourceType;

/// A window for memory that is plugged in later: `max_memory` in all, the memory at the start included, in up to `slots` DIMMs.
///
/// As QEMU's `-m ...,maxmem=,slots=`: the window lies behind all RAM and has 1 GiB more for each slot, to align it.
///
/// >>> from dbs_address_space import Hotplug
/// >>> Hotplug("16GiB", slots=4).slots
/// 4
#[pyclass(frozen, eq, hash, weakref, name = "Hotplug", module = "dbs_address_space")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PyHotplug(pub(super) Hotplug);

#[pymethods]
impl PyHotplug {
    #[new]
    #[pyo3(signature = (max_memory, slots=U32(8), **others), text_signature = "(max_memory, slots=8)")]
    fn new(max_memory: Size, slots: U32, others: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        keywords::refuse::<Self>(others)?;
        Ok(Self(Hotplug { max_memory: max_memory.0, slots: slots.0 }))
    }

    /// All bytes that the machine can have.
    #[getter]
    fn max_memory(&self) -> u64 {
        self.0.max_memory
    }

    /// The number of DIMMs that can be plugged in.
    #[getter]
    fn slots(&self) -> u32 {
        self.0.slots
    }

    fn __repr__(&self) -> String {
        format!("Hotplug('{}', slots={})", format::size(self.0.max_memory), self.0.slots)
    }

    fn __getnewargs__(&self) -> (u64, u32) {
        (self.0.max_memory, self.0.slots)
    }
}

/// Makes an address space for a machine: first a plan that can be looked at, then the memory.
///
/// `machine` is a name of `Machine.named` or a `Machine`; `arch` and `phys_bits` are for a name only, and its own where not given.
/// `numa_regions` are `NumaRegionInfo`s (or sizes) in the order of their addresses, with choices of their own. `mem_type` is one of the memory sources; for
/// `"hugetlbfs"` each region gets a file, `mem_file_path` with its number. With `mem_prealloc` every page is there from the
/// beginning. `firmware` adds the machine's firmware region, `dax_window` a window of that size above RAM, or at `(base, size)`, `hotplug` room for more memory
/// (`Hotplug`). With `amd_1tb_relocation`, QEMU's option for vCPUs of AMD, the HyperTransport range below 1 TiB is reserved where addresses
/// reach it, and RAM above 4 GiB begins at 1 TiB where it or the PCI devices behind it would reach that range. `backing` are the `BackingOptions` of all RAM.
///
/// Nothing is looked up on the host before `build()` or `plan().check_host()`. Raises `InvalidArgument` for a value that no plan can
/// have; everything else that is wrong is in the plan's `problems`.
///
/// >>> from dbs_address_space import AddressSpaceBuilder
/// >>> for region in AddressSpaceBuilder("dragonball", numa_regions=["4GiB"]).plan().regions:
/// ...     print(region)
/// AddressSpaceRegion('ram0' DEFAULT_MEMORY [0x0, 0xc000_0000) 3 GiB rw- shmem)
/// AddressSpaceRegion('ram1' DEFAULT_MEMORY [0x1_0000_0000, 0x1_4000_0000) 1 GiB rw- shmem)
#[pyclass(frozen, eq, hash, weakref, name = "AddressSpaceBuilder", module = "dbs_address_space")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PyBuilder(pub(super) PlanRequest);

fn machine(given: Option<&Bound<'_, PyAny>>, arch: Option<&str>, phys_bits: Option<U32>) -> PyResult<Machine> {
    if let Some(machine) = given.and_then(|given| given.cast::<PyMachine>().ok()) {
        if arch.is_some() || phys_bits.is_some() {
            let message = "arch= and phys_bits= are for a machine's name: a Machine has its own";
            return Err(Invalid::argument(message).into());
        }
        return Ok(machine.get().0.clone());
    }
    let text = |given| convert::text(given).map_err(|_| wanted("a Machine or the name of one", given));
    let name = given.map(text).transpose().argument("machine")?;
    let arch = arch.map(Arch::parse).transpose()?;
    Ok(Machine::named(name.as_deref().unwrap_or("dragonball"), arch, phys_bits.map(|bits| bits.0))?)
}

/// The base, if it is given, and the size of a DAX window.
fn dax_window(given: Option<&Bound<'_, PyAny>>) -> PyResult<(Option<u64>, Option<u64>)> {
    match given {
        None => Ok((None, None)),
        Some(pair) if pair.is_instance_of::<PyTuple>() => {
            let (base, size) = convert::pair(pair).argument("dax_window")?;
            Ok((Some(base.0), Some(size.0)))
        }
        Some(size) => Ok((None, Some(size.extract::<Size>().argument("dax_window")?.0))),
    }
}

fn numa_regions(given: &Bound<'_, PyAny>) -> PyResult<Vec<NumaRegionInfo>> {
    let info = |item: Bound<'_, PyAny>| match item.cast::<PyNumaRegionInfo>() {
        Ok(info) => Ok(info.get().0.clone()),
        Err(_) => PyNumaRegionInfo::of_size(item.extract()?),
    };
    convert::items(given, "sizes and NumaRegionInfo", info).argument("numa_regions")
}

#[pymethods]
impl PyBuilder {
    #[new]
    #[pyo3(signature = (machine=None, *, arch=None, numa_regions=None, mem_type=None, mem_file_path=None, mem_prealloc=false, phys_bits=None, firmware=false,
        dax_window=None, hotplug=None, amd_1tb_relocation=false, backing=None, **others),
        text_signature = "(machine='dragonball', *, arch=None, numa_regions, mem_type='shmem', mem_file_path='', mem_prealloc=False, phys_bits=None, firmware=False, dax_window=None, hotplug=None, amd_1tb_relocation=False, backing=None)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn new(
        machine: Option<&Bound<'_, PyAny>>,
        arch: Option<&str>,
        numa_regions: Option<&Bound<'_, PyAny>>,
        mem_type: Option<&Bound<'_, PyAny>>,
        mem_file_path: Option<&Bound<'_, PyAny>>,
        mem_prealloc: bool,
        phys_bits: Option<U32>,
        firmware: bool,
        dax_window: Option<&Bound<'_, PyAny>>,
        hotplug: Option<&Bound<'_, PyHotplug>>,
        amd_1tb_relocation: bool,
        backing: Option<&Bound<'_, PyBackingOptions>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse::<Self>(others)?;
        let missing = "AddressSpaceBuilder() needs numa_regions, such as [\"4GiB\"]";
        let numa_regions = numa_regions.ok_or_else(|| PyTypeError::new_err(missing))?;
        let (dax_base, dax_window) = self::dax_window(dax_window)?;
        Ok(Self(PlanRequest {
            machine: self::machine(machine, arch, phys_bits)?,
            numa_regions: self::numa_regions(numa_regions)?,
            source_type: mem_type.map(convert::source_type).transpose()?.unwrap_or(SourceType::MemFdShared),
            path: mem_file_path.map(|path| convert::path(path, "mem_file_path")).transpose()?.unwrap_or_default(),
            prealloc: mem_prealloc,
            firmware,
            dax_window,
            dax_base,
            hotplug: hotplug.map(|hotplug| hotplug.get().0),
            amd_1tb_relocation,
            options: backing.map(|options| options.get().0.clone()).unwrap_or_default(),
        }))
    }

    fn __repr__(&self) -> String {
        let sizes: Vec<String> =
            self.0.numa_regions.iter().map(|info| format!("'{}'", format::size(info.size))).collect();
        format!("AddressSpaceBuilder('{}', numa_regions=[{}])", self.0.machine.name, sizes.join(", "))
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<((PyMachine,), Bound<'py, PyDict>)> {
        let request = &self.0;
        let keywords = PyDict::new(py);
        let infos: Vec<PyNumaRegionInfo> = request.numa_regions.iter().cloned().map(PyNumaRegionInfo).collect();
        keywords.set_item("numa_regions", PyTuple::new(py, infos)?)?;
        keywords.set_item("mem_type", enum_members::source_type(py, request.source_type.as_str())?)?;
        keywords.set_item("mem_file_path", request.path.as_os_str())?;
        keywords.set_item("mem_prealloc", request.prealloc)?;
        keywords.set_item("firmware", request.firmware)?;
        match request.dax_base {
            Some(base) => keywords.set_item("dax_window", (base, request.dax_window))?,
            None => keywords.set_item("dax_window", request.dax_window)?,
        }
        keywords.set_item("hotplug", request.hotplug.map(PyHotplug))?;
        keywords.set_item("amd_1tb_relocation", request.amd_1tb_relocation)?;
        keywords.set_item("backing", PyBackingOptions(request.options.clone()))?;
        Ok(((PyMachine(request.machine.clone()),), keywords))
    }
}
