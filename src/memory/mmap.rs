//! Maps a region's memory: anywhere in the process, or aligned and between guard pages.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, MmapRegion};

use super::protection::Pages;
use super::source::Backing;
use crate::model::int::{u64_of, usize_of};
use crate::model::region::{MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, SharedRegion};
use crate::sys::errno::{self, ENOMEM};
use crate::sys::host;
use crate::sys::span::Span;

/// Transparent huge pages of nearly all machines: anonymous memory that is to have them begins at a multiple.
const HUGE_PAGE: u64 = 2 << 20;

/// A mapping, and the addresses around it where it has some of its own; they are unmapped together.
#[derive(Debug)]
pub(super) struct MappedPages {
    /// The memory.
    pub(super) mmap: MmapRegion<()>,
    /// The memory again, unless somebody else mapped it.
    pub(super) own: Option<OwnPages>,
    _span: Option<Span>,
}

/// Pages that this process mapped for a region, and that may be mapped over while it is there. Only [`map`] makes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnPages(Pages);

impl OwnPages {
    pub(super) const fn pages(self) -> Pages {
        self.0
    }
}

impl MappedPages {
    fn own(mmap: MmapRegion<()>, span: Option<Span>) -> Self {
        let size = mmap.size().checked_next_multiple_of(usize_of(host::page_size())).unwrap_or(usize::MAX);
        let own = Some(OwnPages((mmap.as_ptr(), size)));
        Self { mmap, own, _span: span }
    }
}

/// Maps a region's backing.
pub(super) fn map(region: &SharedRegion, backing: &Backing) -> io::Result<MappedPages> {
    let guard = if region.options.guard_pages == Some(true) { host::page_size().max(backing.page_size) } else { 0 };
    let align = region.options.alignment.or_else(|| huge_page_alignment(region, backing)).unwrap_or(0);
    let length = region.memory_size().checked_add(backing.lead()).ok_or_else(too_large)?;
    let mut builder = MmapRegionBuilder::new_with_bitmap(usize_of(length), ())
        .with_mmap_prot(region.prot_flags)
        .with_mmap_flags(backing.flags)
        .with_hugetlbfs(backing.is_huge);
    if let Some(file) = &backing.file {
        builder = builder.with_file_offset(FileOffset::from_arc(Arc::clone(file), backing.page_offset()));
    }
    if backing.reader.is_some() {
        // Addresses alone, which nobody gives a protection: a touch is a fault, never a zero.
        builder = builder.with_mmap_prot(PROT_NONE).with_mmap_flags(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
        return Ok(MappedPages { mmap: builder.build().map_err(io_error)?, own: None, _span: None });
    }
    if let Some(buffer) = &backing.buffer {
        let page = std::ptr::with_exposed_provenance_mut::<u8>(buffer.host).wrapping_sub(usize_of(backing.lead()));
        // SAFETY: the buffer is there for as long as `backing` keeps it, and only its own bytes are touched.
        builder = unsafe { builder.with_raw_mmap_pointer(page) };
        return Ok(MappedPages { mmap: builder.build().map_err(io_error)?, own: None, _span: None });
    }
    if guard == 0 && align <= backing.page_size {
        return Ok(MappedPages::own(builder.build().map_err(io_error)?, None));
    }
    let (span, host) = in_span(region, backing, length, (guard, align.max(backing.page_size)))?;
    // SAFETY: the region's size was just mapped at this address, and the span that is kept beside it is dropped after it.
    let mmap = unsafe { builder.with_raw_mmap_pointer(host) }.build().map_err(io_error)?;
    Ok(MappedPages::own(mmap, Some(span)))
}

/// Maps a file of which the pages that are written become this process's own.
pub(super) fn map_copies(backing: &Backing, size: u64) -> io::Result<MappedPages> {
    let builder = MmapRegionBuilder::new_with_bitmap(usize_of(size), ())
        .with_mmap_prot(PROT_READ | PROT_WRITE)
        .with_mmap_flags(backing.flags)
        .with_hugetlbfs(false);
    let file = backing.file.iter().map(|file| FileOffset::from_arc(Arc::clone(file), 0)).next();
    let builder = file.into_iter().fold(builder, MmapRegionBuilder::with_file_offset);
    Ok(MappedPages::own(builder.build().map_err(io_error)?, None))
}

fn huge_page_alignment(region: &SharedRegion, backing: &Backing) -> Option<u64> {
    let wants = region.is_hugepage() && !backing.is_huge && backing.file.is_none() && region.memory_size() >= HUGE_PAGE;
    wants.then_some(HUGE_PAGE)
}

/// Sets enough addresses aside for any alignment, and maps the backing into their middle.
fn in_span(
    region: &SharedRegion,
    backing: &Backing,
    length: u64,
    (guard, align): (u64, u64),
) -> io::Result<(Span, *mut u8)> {
    // Wherever the kernel puts the span, an aligned place between two guards is in it.
    let around = guard.checked_mul(2).and_then(|guards| guards.checked_add(align)).ok_or_else(too_large)?;
    let size = length.checked_add(around).ok_or_else(too_large)?;
    let span = Span::reserve(usize_of(size))?;
    let start = u64_of(span.start().addr());
    let first = start.checked_add(guard).and_then(|first| first.checked_next_multiple_of(align));
    let offset = first.and_then(|first| first.checked_sub(start)).ok_or_else(too_large)?;
    let fd = backing.file.as_ref().map_or(-1, |file| file.as_raw_fd());
    let (offset, length, flags) = (usize_of(offset), usize_of(length), backing.flags);
    // SAFETY: nothing was mapped into the span before.
    let host = unsafe { span.map(offset, length, region.prot_flags, flags, fd, backing.page_offset())? };
    Ok((span, host))
}

fn too_large() -> io::Error {
    errno::refusal(ENOMEM, "a process has not as many addresses")
}

fn io_error(error: MmapRegionError) -> io::Error {
    match error {
        MmapRegionError::Mmap(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidInput, other.to_string()),
    }
}
