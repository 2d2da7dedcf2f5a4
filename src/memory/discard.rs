//! Giving part of a region's memory back to the host, the right way for each backing. Afterwards it reads as zero.

use std::sync::Arc;

use super::region::MappedRegion;
use super::source::failed;
use crate::model::error::{Error, Result};
use crate::model::format::{hex, size as size_text};
use crate::model::int::usize_of;
use crate::model::range::Range;
use crate::model::region::{MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, RegionType};
use crate::sys::{file, memory, span};

/// Discards part of one region, which [`check`] found possible.
#[allow(unsafe_code, reason = "pages of our own mappings are dropped, which is what was asked for")]
pub fn discard(region: &Arc<MappedRegion>, range: Range) -> Result<()> {
    let (desc, mapping) = (&region.desc, &region.mapping);
    let offset = range.base().saturating_sub(desc.base());
    let (host, size) = (mapping.host(offset), usize_of(range.size()));
    let backing = mapping.backing();
    let result = match &backing.file {
        Some(file) if !backing.is_private() => {
            file::punch_hole(file, backing.offset.saturating_add(offset), range.size())
        }
        // The pages of a private file mapping would show the file again: anonymous ones take their place.
        Some(_) => {
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
            // SAFETY: part of our own mapping, whose contents the caller gives up.
            unsafe { span::replace(host, size, desc.prot_flags, flags, None) }
        }
        // SAFETY: as above.
        None if backing.is_private() => unsafe { memory::drop_pages(host, size) },
        // SAFETY: as above.
        None => unsafe { memory::remove_pages(host, size) },
    };
    result.map_err(|error| failed(desc, &format!("discarding {range} of it failed"), &error))?;
    if let Some(dirty) = mapping.dirty() {
        dirty.mark(offset, range.size());
    }
    Ok(())
}

/// Refuses a range that can't be discarded.
pub fn check(region: &Arc<MappedRegion>, range: Range) -> Result<()> {
    let (desc, page_size) = (&region.desc, region.mapping.backing().page_size);
    if desc.region_type == RegionType::DaxMemory {
        return Err(Error::Unsupported {
            message: format!("{desc} is a DAX window: its files are unmapped, not discarded"),
            feature: "discard of a DAX window",
            how: "DaxWindow.unmap()".into(),
            region: Some(Arc::clone(desc)),
        });
    }
    if !range.base().is_multiple_of(page_size) || !range.size().is_multiple_of(page_size) {
        return Err(Error::Misaligned {
            message: format!("cannot discard {range} of {desc}: its pages have {}", size_text(page_size)),
            address: Some(range.base()),
            size: Some(range.size()),
            region: Some(Arc::clone(desc)),
        });
    }
    if backing_is_private_file(region) && region.mapping.backing().lead() > 0 {
        return Err(Error::Unsupported {
            message: format!(
                "{desc} shows a private file from an offset inside a page: parts of it can't be discarded"
            ),
            feature: "discard",
            how: "give a file_offset of whole pages".into(),
            region: Some(Arc::clone(desc)),
        });
    }
    if region.mapping.backing().buffer.is_some() {
        return Err(Error::Unsupported {
            message: format!("{desc} is memory that someone else made: it is not ours to give back"),
            feature: "discard",
            how: "fill() it with zeroes".into(),
            region: Some(Arc::clone(desc)),
        });
    }
    // A hole in huge-page memory may not be filled again when the pool is empty: direct copies must not meet it.
    if region.mapping.backing().is_huge {
        region.mapping.guard();
        let held: Vec<_> = region.leases.held().into_iter().filter(|lease| lease.what != "prealloc").collect();
        let overlaps = |address: u64, size: u64| Range::between(address, address.saturating_add(size)).overlaps(&range);
        if held.iter().any(|lease| overlaps(lease.address, lease.size)) {
            return Err(Error::Busy {
                message: format!("cannot discard {range} of {desc}, which views of it hold at {}", hex(range.base())),
                region: Arc::clone(desc),
                leases: held,
            });
        }
    }
    Ok(())
}

fn backing_is_private_file(region: &MappedRegion) -> bool {
    region.mapping.backing().file.is_some() && region.mapping.backing().is_private()
}
