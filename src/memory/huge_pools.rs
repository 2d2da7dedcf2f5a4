//! The page sizes of sources, and whether the kernel's pools have the huge pages that regions need.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::source_error::refused;
use crate::model::error::{Error, Result};
use crate::model::format;
use crate::model::region::{MAP_NORESERVE, RegionType, SharedRegion};
use crate::model::source::SourceType;
use crate::sys::errno::EINVAL;
use crate::sys::file;
use crate::sys::host::{Host, page_size as small_page_size};

/// Bytes a page of a region's source.
pub(super) fn page_size(region: &SharedRegion) -> Result<u64> {
    if !region.effective_source().is_some_and(SourceType::is_huge) {
        return Ok(small_page_size());
    }
    let host = Host::default();
    let sizes = host.huge_page_sizes();
    let default = || host.default_huge_page_size();
    let wanted = region.options.page_size.or_else(|| mount_page_size(region)).or_else(default);
    wanted.filter(|size| sizes.contains(size)).ok_or_else(|| {
        let asked = wanted.map_or_else(|| "any size".into(), format::size);
        let there: Vec<String> = sizes.iter().map(|size| format::size(*size)).collect();
        let message = format!("the host has no huge pages of {asked}; it has [{}]", there.join(", "));
        refused(region, &message, EINVAL)
    })
}

/// Bytes a page of the mount that a hugetlbfs path names; what is wrong with the path is told when it is opened.
fn mount_page_size(region: &SharedRegion) -> Option<u64> {
    if region.effective_source() != Some(SourceType::FileOnHugeTlbFs) {
        return None;
    }
    let directory = file::open_directory(file::directory_of(&region.source.path)).ok()?;
    file::hugetlbfs_page_size(&directory).ok().flatten()
}

/// Huge pages, and those of a DAX window, over which files are mapped, are shown whole. Small ones are mapped with what comes before the
/// region and behind it.
pub(super) fn check_alignment(region: &SharedRegion, page_size: u64) -> Result<()> {
    if page_size == small_page_size() && region.region_type != RegionType::DaxMemory {
        return Ok(());
    }
    check_multiple(region, "base", region.base(), page_size)?;
    check_multiple(region, "size", region.size(), page_size)?;
    check_multiple(region, "max_size", region.memory_size(), page_size)?;
    check_multiple(region, "file offset", region.source.file_offset, page_size)
}

fn check_multiple(region: &SharedRegion, what: &str, value: u64, page_size: u64) -> Result<()> {
    if value.is_multiple_of(page_size) {
        return Ok(());
    }
    Err(Error::Misaligned {
        message: format!(
            "cannot map {region}: its {what} {} is not a multiple of its page size {}",
            format::hex(value),
            format::hex(page_size)
        ),
        address: Some(region.base()),
        size: Some(region.size()),
        region: Some(Arc::clone(region)),
    })
}

/// Refuses, before anything is mapped, regions that together need more huge pages than there are.
pub fn check_pools<'a>(regions: impl Iterator<Item = &'a SharedRegion>) -> Result<()> {
    let mut pools = BTreeMap::<u64, Vec<&SharedRegion>>::new();
    for region in regions.filter(|region| takes_from_pool(region)) {
        let page_size = page_size(region)?;
        check_alignment(region, page_size)?;
        pools.entry(page_size).or_default().push(region);
    }
    pools.into_iter().try_for_each(|(page_size, regions)| check_pool(page_size, &regions))
}

/// Refuses regions that together need more pages of one size than there are, naming the first that finds the pool empty.
fn check_pool(page_size: u64, regions: &[&SharedRegion]) -> Result<()> {
    let pages = |region: &SharedRegion| region.memory_size().div_ceil(page_size);
    let mut left = Host::default().available_huge_pages(page_size);
    let is_short = |region: &&&SharedRegion| {
        // Counted down, so that the error names the first region for which the pool has nothing left.
        left = left.and_then(|left| left.checked_sub(pages(region)));
        left.is_none()
    };
    match regions.iter().find(is_short) {
        Some(first) => Err(pool_short(first, page_size, regions.iter().map(|region| pages(region)).sum())),
        None => Ok(()),
    }
}

fn takes_from_pool(region: &SharedRegion) -> bool {
    let uses_existing_file =
        region.effective_source() == Some(SourceType::FileOnHugeTlbFs) && region.source.path.exists();
    region.effective_source().is_some_and(SourceType::is_huge)
        && region.map_flags() & MAP_NORESERVE == 0
        && !uses_existing_file
}

pub(super) fn pool_short(region: &SharedRegion, page_size: u64, needed: u64) -> Error {
    let host = Host::default();
    let available = host.available_huge_pages(page_size).unwrap_or_default();
    // The pool may have grown since it was too small, but at least one page was missing then.
    let missing = needed.saturating_sub(available).max(1);
    let (size, pool) = (format::size(page_size), host.huge_page_pool(page_size));
    Error::HugePagesShort {
        message: format!(
            "cannot map {region}: {needed} huge pages of {size} are needed, {available} are free, {missing} are missing; \
             add {missing} to {} (as root)",
            pool.display()
        ),
        missing,
        page_size,
        region: Arc::clone(region),
    }
}
