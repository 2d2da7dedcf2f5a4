//! The arguments of a region: those that several constructors share, and the way back from a region to its arguments.

use std::os::fd::AsRawFd;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::backing::PyBackingOptions;
use super::calls::python_call;
use super::convert::{self, Size, U32};
use crate::model::backing::BackingOptions;
use crate::model::range::Range;
use crate::model::region::{MAP_POPULATE, Region, RegionType};
use crate::model::source::{Source, SourceType};

/// RAM from one of the original's sources.
pub(super) fn ram(
    range: Range,
    numa_node_id: Option<U32>,
    mem_type: &Bound<'_, PyAny>,
    mem_file_path: &Bound<'_, PyAny>,
    mem_prealloc: bool,
    page_size: Option<Size>,
) -> PyResult<Region> {
    let source = Source {
        source_type: Some(convert::source_type(mem_type)?),
        path: convert::path(mem_file_path, "mem_file_path")?,
        ..Source::default()
    };
    let mut region = Region::new(RegionType::DefaultMemory, range, source)?;
    region.host_numa_node_id = numa_node_id.map(|node| node.0);
    region.options.page_size = page_size.map(|size| size.0);
    region.perm_flags |= if mem_prealloc { MAP_POPULATE } else { 0 };
    Ok(region)
}

/// The constructor's keywords for an equal region, apart from its range, its type and an adopted file or buffer; `None` stands for
/// flags and hints that are the default.
pub(super) fn keywords<'py>(py: Python<'py>, region: &Region) -> PyResult<Bound<'py, PyDict>> {
    let default = Region::new(region.region_type, region.range, region.source.clone())?;
    let keywords = PyDict::new(py);
    keywords.set_item("name", region.name.as_deref())?;
    keywords.set_item("host_numa_node_id", region.host_numa_node_id)?;
    keywords.set_item("mem_type", region.source.source_type.map(SourceType::as_str))?;
    keywords.set_item("mem_file_path", region.source.path.as_os_str())?;
    keywords.set_item("file_offset", region.source.file_offset)?;
    keywords.set_item("perm_flags", other_than(default.perm_flags, region.perm_flags))?;
    keywords.set_item("prot_flags", other_than(default.prot_flags, region.prot_flags))?;
    keywords.set_item("is_hotplug", region.is_hotplug)?;
    keywords.set_item("is_anonpage", other_than(default.is_anonpage, region.is_anonpage))?;
    keywords.set_item("backing", PyBackingOptions(region.options.clone()))?;
    Ok(keywords)
}

/// The arguments of `replace`: those that made the region, with `changes` over them.
pub(super) fn changed<'py>(
    py: Python<'py>,
    region: &Region,
    changes: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyDict>> {
    let mut kept = region.clone();
    // Population is not among the flags that follow a new type or source.
    kept.perm_flags &= !MAP_POPULATE;
    forget_options(&mut kept.options, changes)?;
    let arguments = keywords(py, &kept)?;
    arguments.set_item("region_type", region.region_type.value())?;
    arguments.set_item("base", region.base())?;
    arguments.set_item("size", region.size())?;
    // Only here: a descriptor's number means this file for as long as the region is there.
    arguments.set_item("file", region.source.file.as_ref().map(|user_file| user_file.file.as_raw_fd()))?;
    arguments.update(changes.as_mapping())?;
    Ok(arguments)
}

/// The word on a buffer among the arguments, which the class would refuse without one; it is no longer among them.
pub(super) fn take_trusted(arguments: &Bound<'_, PyDict>) -> PyResult<Option<bool>> {
    let _guard = python_call();
    let Some(backing) = arguments.get_item("backing")? else { return Ok(None) };
    let Ok(backing) = backing.cast::<PyBackingOptions>() else { return Ok(None) };
    let trusted = backing.get().0.trusted;
    let others = BackingOptions { trusted: None, ..backing.get().0.clone() };
    arguments.set_item("backing", PyBackingOptions(others))?;
    Ok(trusted)
}

/// An option that a change sets by the region's argument for it does not contradict that argument.
fn forget_options(options: &mut BackingOptions, changes: &Bound<'_, PyDict>) -> PyResult<()> {
    if changes.contains("page_size")? {
        options.page_size = None;
    }
    if changes.contains("is_hugepage")? {
        options.transparent_hugepage = None;
    }
    if changes.contains("is_mergeable")? {
        options.ksm = None;
    }
    Ok(())
}

fn other_than<T: PartialEq>(default: T, value: T) -> Option<T> {
    (value != default).then_some(value)
}
