//! Giving memory back to the host, the right way for each backing. Afterwards it reads as zero.

use std::io;
use std::sync::Arc;

use super::advice;
use super::held_lease::is_users;
use super::protection::Pages;
use super::section::Section;
use super::source_error::failed;
use crate::model::error::{Error, Result};
use crate::model::format::{hex, size as size_text};
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::range::Range;
use crate::model::region::{MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE};
use crate::sys::{file, memory, span};

/// Discards the sections. All are checked before the first is discarded.
pub fn discard(sections: &[Section<'_>], interrupt: &dyn Interrupt) -> Result<()> {
    sections.iter().try_for_each(check)?;
    for section in sections {
        let storage = section.region().storage();
        // Whole pages each time, however large, behind what a region may have of its first one.
        let first = section.take(storage.rest_of_page(section.part().base()));
        let others = section.skip(first.size()).chunks(STEP.max(storage.page_size()));
        for part in std::iter::once(first).filter(|first| !first.is_empty()).chain(others) {
            discard_part(&part)?;
            interrupt.check()?;
        }
    }
    Ok(())
}

fn discard_part(part: &Section<'_>) -> Result<()> {
    // Or what is discarded would come back.
    part.region().storage().ensure(part.part())?;
    let discarded = discard_checked(part);
    // Behind it, or a scan in between would note the pages again; also after a failure, before which some may have gone.
    part.region().storage().holes().forget(part.part());
    // As a mark is behind a write; page tables do not show it.
    let noted = part.region().storage().note_change(part.part());
    let what = || format!("discarding {} of it failed", part.range());
    discarded.map_err(|error| failed(part.region().desc(), &what(), &error))?;
    noted?;
    if shows_private_file(part) { renew(part) } else { Ok(()) }
}

fn shows_private_file(section: &Section<'_>) -> bool {
    let backing = section.region().storage().backing();
    backing.file.is_some() && backing.is_private()
}

/// Asks for the region's options for pages that took the place of others; locked ones come back when they are touched.
fn renew(section: &Section<'_>) -> Result<()> {
    let ((host, size), desc) = (pages_of(section), section.region().desc());
    advice::apply((host, size), false, None, desc)?;
    let locked = if desc.options.mlock == Some(true) { memory::lock_on_fault(host, size) } else { Ok(()) };
    locked.map_err(|error| failed(desc, "locking what took the place of discarded pages failed", &error))?;
    let watched = section.region().storage().renew_watch();
    watched.map_err(|error| failed(desc, "watching what took the place of discarded pages failed", &error))
}

/// The pages of what was checked: of a page that is the region's in part, all is the region's memory.
fn pages_of(section: &Section<'_>) -> Pages {
    section.region().storage().pages_of(section.part())
}

/// Whether it consists of whole pages of the memory, apart from its ends, or of the guest, where holes of a file may begin anywhere.
fn is_whole(section: &Section<'_>) -> bool {
    let (range, storage) = (section.range(), section.region().storage());
    let is_edge = |address: u64| address.is_multiple_of(storage.page_size());
    let has_file = storage.backing().file.is_some() && !storage.backing().is_private();
    storage.is_whole(section.part()) || has_file && is_edge(range.base()) && is_edge(range.end())
}

fn discard_checked(section: &Section<'_>) -> io::Result<()> {
    let (backing, (host, size)) = (section.region().storage().backing(), pages_of(section));
    match &backing.file {
        Some(file) if !backing.is_private() => {
            let part = section.part();
            let position = backing.offset.checked_add(part.base()).ok_or(io::ErrorKind::InvalidInput)?;
            file::punch_hole(file, position, part.size())
        }
        // The pages of a private file mapping would show the file again: anonymous ones take their place.
        Some(_) => {
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
            // SAFETY: whole pages of our own mapping, as checked, whose contents the caller gives up.
            unsafe { span::replace(host, size, section.region().desc().prot_flags, flags, None) }
        }
        // SAFETY: as above.
        None if backing.is_private() => unsafe { memory::drop_pages(host, size) },
        // SAFETY: as above.
        None => unsafe { memory::remove_pages(host, size) },
    }
}

/// Refuses what can't be discarded.
fn check(section: &Section<'_>) -> Result<()> {
    let (region, range) = (section.region(), section.range());
    let (desc, backing) = (region.desc(), region.storage().backing());
    if backing.is_window {
        return Err(Error::Unsupported {
            message: format!("{desc} is a DAX window: its files are unmapped, not discarded"),
            feature: "discard of a DAX window",
            how: "DaxWindow.unmap()".into(),
            region: Some(Arc::clone(desc)),
        });
    }
    if !is_whole(section) {
        return Err(Error::Misaligned {
            message: format!("cannot discard {range} of {desc}: its pages have {}", size_text(backing.page_size)),
            address: Some(range.base()),
            size: Some(range.size()),
            region: Some(Arc::clone(desc)),
        });
    }
    let refused = |message: String, how: &str| {
        let region = Some(Arc::clone(desc));
        Err(Error::Unsupported { message, feature: "discard", how: how.into(), region })
    };
    if backing.buffer.is_some() {
        let message = format!("{desc} is memory that someone else made: it is not ours to give back");
        return refused(message, "fill() it with zeroes");
    }
    if backing.shadow.is_some() {
        let message =
            format!("{desc} has copies of a checkpoint's pages, which would show again: fill() it with zeroes");
        return refused(message, "fill() it with zeroes");
    }
    if backing.file.is_some() && backing.is_private() && backing.lead() > 0 {
        let message =
            format!("{desc} shows a private file from an offset inside a page: parts of it can't be discarded");
        return refused(message, "give a file_offset of whole pages");
    }
    if backing.is_huge { check_huge(section) } else { Ok(()) }
}

/// A hole in huge-page memory may not be filled again when the pool is empty: from here on direct copies don't meet it, but views do.
fn check_huge(section: &Section<'_>) -> Result<()> {
    let (region, range) = (section.region(), section.range());
    // Closed before the leases are looked at: a view takes its lease before it asks whether the memory is guarded.
    region.storage().gate().close();
    let mut held = region.leases().held()?;
    held.retain(is_users);
    if held.iter().any(|lease| Range::new(lease.address, lease.size).is_ok_and(|held| held.overlaps(&range))) {
        return Err(Error::Busy {
            message: format!(
                "cannot discard {range} of {}, which views of it hold at {}",
                region.desc(),
                hex(range.base())
            ),
            region: Arc::clone(region.desc()),
            leases: held,
        });
    }
    Ok(())
}
