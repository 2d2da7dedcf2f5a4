//! The original's constructors of regions.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::convert::{self, Address, Name, Protection, Size, U32};
use super::keywords;
use super::region::PyRegion;
use super::region_args;
use crate::model::region::RegionType;

#[pymethods]
impl PyRegion {
    /// RAM, readable and writable, from one of the original's sources; the eight positional values of its README are accepted.
    ///
    /// `mem_prealloc` faults every page in when the region is mapped. `mem_file_path` is for `"hugetlbfs"`, and else empty.
    /// Raises as the class does.
    ///
    /// >>> from dbs_address_space import AddressSpaceRegion
    /// >>> AddressSpaceRegion.create_default_memory_region(0x100000, 0x100000, None, "shmem", "", False, False, False)
    /// AddressSpaceRegion(DEFAULT_MEMORY [0x10_0000, 0x20_0000) 1 MiB rw- shmem)
    #[staticmethod]
    #[pyo3(signature = (base, size, numa_node_id, mem_type, mem_file_path, mem_prealloc=false, is_hotplug=false, is_mergeable=false, *, name=None, page_size=None, **others),
        text_signature = "(base, size, numa_node_id, mem_type, mem_file_path, mem_prealloc=False, is_hotplug=False, is_mergeable=False, *, name=None, page_size=None)")]
    #[allow(clippy::too_many_arguments, reason = "the original's arguments")]
    fn create_default_memory_region(
        base: Address,
        size: Size,
        numa_node_id: Option<U32>,
        mem_type: &Bound<'_, PyAny>,
        mem_file_path: &Bound<'_, PyAny>,
        mem_prealloc: bool,
        is_hotplug: bool,
        is_mergeable: bool,
        name: Option<Name>,
        page_size: Option<Size>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse_of::<Self>("create_default_memory_region", others)?;
        let range = convert::range(base, size)?;
        let mut region = region_args::ram(range, numa_node_id, mem_type, mem_file_path, mem_prealloc, page_size)?;
        region.is_hotplug = is_hotplug;
        region.options.ksm = is_mergeable.then_some(true);
        Self::named(region, name)
    }

    /// RAM from one of the original's sources, with a protection (`Prot`, an int or text such as `"r--"`; a `bool` is refused).
    ///
    /// Raises as the class does.
    ///
    /// >>> from dbs_address_space import AddressSpaceRegion
    /// >>> AddressSpaceRegion.create_memory_region(0, "1MiB", 0, "mmap", "", False, "r--").prot_flags
    /// <Prot.READ: 1>
    #[staticmethod]
    #[pyo3(signature = (base, size, numa_node_id, mem_type, mem_file_path, mem_prealloc, prot_flags, is_hotplug=false, *, name=None, page_size=None, **others),
        text_signature = "(base, size, numa_node_id, mem_type, mem_file_path, mem_prealloc, prot_flags, is_hotplug=False, *, name=None, page_size=None)")]
    #[allow(clippy::too_many_arguments, reason = "the original's arguments")]
    fn create_memory_region(
        base: Address,
        size: Size,
        numa_node_id: Option<U32>,
        mem_type: &Bound<'_, PyAny>,
        mem_file_path: &Bound<'_, PyAny>,
        mem_prealloc: bool,
        prot_flags: Protection,
        is_hotplug: bool,
        name: Option<Name>,
        page_size: Option<Size>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse_of::<Self>("create_memory_region", others)?;
        let range = convert::range(base, size)?;
        let mut region = region_args::ram(range, numa_node_id, mem_type, mem_file_path, mem_prealloc, page_size)?;
        region.prot_flags = prot_flags.0;
        region.is_hotplug = is_hotplug;
        Self::named(region, name)
    }

    /// Registers of a device: no memory is behind them, so a read or write is `UnmappedAddress`.
    ///
    /// Raises `InvalidAddressRange`.
    ///
    /// >>> from dbs_address_space import AddressSpaceRegion
    /// >>> AddressSpaceRegion.create_device_region(0xd000_0000, "4KiB", name="uart")
    /// AddressSpaceRegion('uart' DEVICE_MEMORY [0xd000_0000, 0xd000_1000) 4 KiB)
    #[staticmethod]
    #[pyo3(signature = (base, size, *, name=None, **others),
        text_signature = "(base, size, *, name=None)")]
    fn create_device_region(
        base: Address,
        size: Size,
        name: Option<Name>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse_of::<Self>("create_device_region", others)?;
        Self::named(Self::of_type(RegionType::DeviceMemory, base, size)?, name)
    }

    /// Firmware: anonymous private memory with a protection; `GuestMemory.write(..., force=True)` loads a read-only one.
    ///
    /// Raises `InvalidAddressRange`.
    ///
    /// >>> from dbs_address_space import AddressSpaceRegion
    /// >>> AddressSpaceRegion.create_firmware_region(0xfff0_0000, "1MiB", "r-x", name="bios")
    /// AddressSpaceRegion('bios' FIRMWARE_MEMORY [0xfff0_0000, 0x1_0000_0000) 1 MiB r-x mmap)
    #[staticmethod]
    #[pyo3(signature = (base, size, prot_flags=Protection(3), *, name=None, **others), text_signature = "(base, size, prot_flags=3, *, name=None)")]
    fn create_firmware_region(
        base: Address,
        size: Size,
        prot_flags: Protection,
        name: Option<Name>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse_of::<Self>("create_firmware_region", others)?;
        let mut region = Self::of_type(RegionType::FirmwareMemory, base, size)?;
        region.prot_flags = prot_flags.0;
        Self::named(region, name)
    }

    /// A window for files to be mapped into: its host addresses are reserved, and no access is allowed.
    ///
    /// Raises `InvalidAddressRange`.
    ///
    /// >>> from dbs_address_space import AddressSpaceRegion
    /// >>> AddressSpaceRegion.create_dax_region(1 << 45, "2GiB", name="fs0")
    /// AddressSpaceRegion('fs0' DAX_MEMORY [0x2000_0000_0000, 0x2000_8000_0000) 2 GiB --- reserved)
    #[staticmethod]
    #[pyo3(signature = (base, size, *, name=None, **others),
        text_signature = "(base, size, *, name=None)")]
    fn create_dax_region(
        base: Address,
        size: Size,
        name: Option<Name>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse_of::<Self>("create_dax_region", others)?;
        Self::named(Self::of_type(RegionType::DaxMemory, base, size)?, name)
    }
}
