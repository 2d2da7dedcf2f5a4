//! The functions of `dbs_address_space.tables`.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use super::argument::{Argument, wanted};
use super::convert::{self, Byte, U32};
use super::keywords;
use super::layout::window;
use super::numa::PyNumaNode;
use super::queries::base_of;
use crate::model::firmware_tables;
use crate::model::machine::Arch;
use crate::model::numa::NumaNode;
use crate::model::region_map::RegionMap;

fn map_of(space: &Bound<'_, PyAny>) -> PyResult<Arc<RegionMap>> {
    Ok(Arc::clone(&base_of(space, "space")?.get().map))
}

fn nodes_of(given: Option<&Bound<'_, PyDict>>) -> PyResult<BTreeMap<u32, NumaNode>> {
    let node = |(id, node): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let node = node.cast::<PyNumaNode>().map_err(|_| wanted("a NumaNode", &node))?;
        Ok((id.extract::<U32>()?.0, node.get().node().clone()))
    };
    given.into_iter().flatten().map(node).collect::<PyResult<_>>().argument("numa_nodes")
}

fn distances_of(given: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<u8>>> {
    let distance = |distance: Bound<'_, PyAny>| Ok(distance.extract::<Byte>()?.0);
    convert::items(given, "rows of ints", |row| convert::items(&row, "ints", distance)).argument("distances")
}

/// The E820 map of an `AddressSpace` or `AddressSpaceBase`: entries of 20 bytes (base, size, type: 1 RAM, 2 reserved), ascending.
///
/// Firmware is reserved, and so are addresses at which RAM is seen a second time; devices, DAX windows and memory that was plugged in are left
/// out. `bios_hole` cuts 0x9fc00 to 1 MiB out of RAM
/// and reserves it, for a kernel that is booted without firmware.
///
/// >>> from dbs_address_space import AddressSpaceBuilder
/// >>> from dbs_address_space.tables import e820
/// >>> e820(AddressSpaceBuilder(numa_regions=["64MiB"]).build()).hex(" ", 4)
/// '00000000 00000000 00000004 00000000 01000000'
#[pyfunction]
#[pyo3(signature = (space, *, bios_hole=false, **others),
    text_signature = "(space, *, bios_hole=False)")]
pub fn e820<'py>(
    space: &Bound<'py, PyAny>,
    bios_hole: bool,
    others: Option<&Bound<'_, PyDict>>,
) -> PyResult<Bound<'py, PyBytes>> {
    keywords::refuse_of_function("e820", others)?;
    Ok(PyBytes::new(space.py(), &firmware_tables::e820(&*map_of(space)?, bios_hole)))
}

/// The RAM of a space that was there from the start: where its bytes are seen first, and where they are seen again.
#[pyfunction]
pub fn _ram_once<'py>(space: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyTuple>)> {
    let (first, again) = map_of(space)?.ram_once(|region| !region.is_hotplug);
    Ok((convert::py_ranges(space.py(), first)?, convert::py_ranges(space.py(), again)?))
}

/// The ACPI SRAT of guest NUMA nodes, a dict of `NumaNode` by id such as `AddressSpacePlan.numa_nodes`.
///
/// `hotplug_window`, as `(base, size)`, is hot-pluggable memory of the last node. vCPU ids are APIC ids, or ACPI processor ids on
/// aarch64. The PCI addresses of generic initiators are those that the guest's firmware gives
/// them. Raises `InvalidArgument`.
///
/// >>> from dbs_address_space import AddressSpaceBuilder
/// >>> from dbs_address_space.tables import srat
/// >>> srat(AddressSpaceBuilder(numa_regions=["64MiB"]).plan().numa_nodes)[:4]
/// b'SRAT'
#[pyfunction]
#[pyo3(signature = (numa_nodes, *, hotplug_window=None, arch="x86_64", **others),
    text_signature = "(numa_nodes, *, hotplug_window=None, arch='x86_64')")]
pub fn srat<'py>(
    numa_nodes: &Bound<'py, PyDict>,
    hotplug_window: Option<&Bound<'_, PyAny>>,
    arch: &str,
    others: Option<&Bound<'_, PyDict>>,
) -> PyResult<Bound<'py, PyBytes>> {
    keywords::refuse_of_function("srat", others)?;
    let window = window(hotplug_window, "hotplug_window")?;
    let table = firmware_tables::srat(&nodes_of(Some(numa_nodes))?, window, Arch::parse(arch)?);
    Ok(PyBytes::new(numa_nodes.py(), &table))
}

/// The ACPI SLIT of a square of distances: 10 of a node to itself, 11 to 254 to others, 255 for out of reach.
///
/// Raises `InvalidAddressRange` for anything else.
///
/// >>> from dbs_address_space.tables import slit
/// >>> slit([[10, 20], [20, 10]])[-4:]
/// b'\n\x14\x14\n'
#[pyfunction]
pub fn slit<'py>(distances: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(distances.py(), &firmware_tables::slit(&distances_of(distances)?)?))
}

/// A flattened device tree with the memory nodes of an `AddressSpace` or `AddressSpaceBase`, to be merged into a machine's.
///
/// With `numa_nodes` each has its `numa-node-id`, with `distances`, as for `slit()`, there is a `distance-map`. Reserved ranges are in
/// `reserved-memory`, persistent ones in `pmem` nodes. Raises `InvalidArgument`.
///
/// >>> from dbs_address_space import AddressSpaceBuilder
/// >>> from dbs_address_space.tables import device_tree
/// >>> b"memory@40000000" in device_tree(AddressSpaceBuilder("virt", numa_regions=["64MiB"]).build())
/// True
#[pyfunction]
#[pyo3(signature = (space, *, numa_nodes=None, distances=None, **others), text_signature = "(space, *, numa_nodes=None, distances=())")]
pub fn device_tree<'py>(
    space: &Bound<'py, PyAny>,
    numa_nodes: Option<&Bound<'py, PyDict>>,
    distances: Option<&Bound<'py, PyAny>>,
    others: Option<&Bound<'_, PyDict>>,
) -> PyResult<Bound<'py, PyBytes>> {
    keywords::refuse_of_function("device_tree", others)?;
    let distances = distances.map(distances_of).transpose()?.unwrap_or_default();
    let tree = firmware_tables::device_tree(&*map_of(space)?, &nodes_of(numa_nodes)?, &distances)?;
    Ok(PyBytes::new(space.py(), &tree))
}
