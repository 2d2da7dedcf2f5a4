//! Telling the holes of a shared file from its data.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use super::present::PresentPages;
use super::protection::Pages;
use super::source::Backing;
use crate::model::error::Result;
use crate::model::int::{u64_of, usize_of};
use crate::model::range::Range;
use crate::sys::once::Once;
use crate::sys::{copy, file, fork, smaps};

/// The bytes at whose pages one look goes. `SEEK_HOLE` would go on to the end of the data, which may be gigabytes behind the range.
const BLOCK: u64 = 256 << 10;
/// So few bytes are read by descriptor in less time than the kernel takes to say whether they have pages.
const SMALL: u64 = 64 << 10;

/// Whether bytes have pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// They have, and the pages are in memory.
    Data,
    /// They have none: they read as zeroes, and a touch would allocate them.
    Hole,
    /// They may have some, in memory or in swap: nobody asked, or the kernel does not say.
    Unknown,
}

/// Bytes that are alike in this, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Whether they have pages.
    pub(super) kind: ExtentKind,
    /// The number of bytes.
    pub(super) size: u64,
}

/// Looks for the holes of a file.
#[derive(Debug)]
pub(super) struct HoleFinder {
    /// The file through a description whose position is ours alone: `lseek(2)` moves it. `None` when it can't be opened again.
    seeker: Once<Option<File>>,
    /// The blocks that were found to have all of their pages.
    full: PresentPages,
    /// Those that were asked about.
    asked: PresentPages,
    /// How often pages were given back.
    discards: AtomicU64,
    /// The bytes before the region in its first page: blocks are of whole pages.
    lead: u64,
    /// A process that was forked since then may have given pages back unseen.
    forks: u32,
}

impl HoleFinder {
    /// For a region of `size` bytes.
    pub(super) fn new(backing: &Backing, size: u64) -> Result<Self> {
        let lead = backing.lead();
        let blocks = if backing.has_holes() { usize_of(lead.saturating_add(size).div_ceil(BLOCK)) } else { 0 };
        let (full, asked) = (PresentPages::new(blocks)?, PresentPages::new(blocks)?);
        Ok(Self { seeker: Once::new(), full, asked, discards: AtomicU64::new(0), lead, forks: fork::count() })
    }

    /// A range of the region, counted from the start of its pages.
    const fn in_pages(&self, range: Range) -> Range {
        Range::between(range.base().saturating_add(self.lead), range.end().saturating_add(self.lead))
    }

    /// The extent at the start of `range`, which counts from the start of the region.
    ///
    /// `pages_of` are the pages of a block; `None` for memory that is never touched, so that it need not be told from holes. What was
    /// found is kept for the next time where nobody else can take pages away: `is_ours`.
    pub(super) fn extent_of(
        &self,
        backing: &Backing,
        range: Range,
        pages_of: Option<&dyn Fn(Range) -> Pages>,
        is_ours: bool,
    ) -> Extent {
        let unknown = |size| Extent { kind: ExtentKind::Unknown, size };
        let Some((file, _)) = backing.shown_file().filter(|_| backing.has_holes()) else {
            return unknown(range.size());
        };
        let range = self.in_pages(range);
        let (block, is_small) = (Block::of(range.base()), range.size() <= SMALL);
        let is_kept = is_ours && pages_of.is_some() && self.forks == fork::count();
        if is_kept && self.full.has(block.bit()) {
            return Extent { kind: ExtentKind::Data, size: block.rest(range).size() };
        }
        if is_small && (!is_kept || self.asked.has(block.bit())) {
            return unknown(range.size());
        }
        let look = |pages_of: &dyn Fn(Range) -> Pages| self.look(&block, range, backing.page_size, pages_of, is_kept);
        match pages_of.and_then(look).unwrap_or_else(|| unknown(block.rest(range).size())) {
            unknown if unknown.kind == ExtentKind::Unknown && !is_small => {
                // The region was mapped, so that its end in the file is a number too.
                let in_file = Range::between(backing.page_offset(), u64::MAX).skip(range.base()).take(range.size());
                self.hole(file, in_file).unwrap_or(unknown)
            }
            known => known,
        }
    }

    /// Asks the kernel for the pages of a block, and gives those from the start of `range` on that are alike.
    fn look(
        &self,
        block: &Block,
        range: Range,
        page_size: u64,
        pages_of: &dyn Fn(Range) -> Pages,
        is_kept: bool,
    ) -> Option<Extent> {
        let discards = self.discards.load(Ordering::Acquire);
        let (host, size) = pages_of(block.in_region(self.lead));
        let first = range.base().abs_diff(block.0.base()).checked_div(page_size)?;
        let run = smaps::run_of(host, size, usize_of(page_size), usize_of(first)).ok()?;
        if is_kept {
            self.asked.mark(block.bit());
            if run.is_all && run.is_resident {
                self.full.mark(block.bit());
                // Pages that were given back since the kernel was asked.
                if self.discards.load(Ordering::Acquire) != discards {
                    self.full.clear(block.bit());
                }
            }
        }
        let kind = if run.is_resident { ExtentKind::Data } else { ExtentKind::Unknown };
        let alike = u64_of(run.size).checked_sub(range.base().checked_rem(page_size)?)?;
        Some(Extent { kind, size: block.rest(range).take(alike).size() })
    }

    /// Pages of a range were given back.
    pub(super) fn forget(&self, range: Range) {
        // First: who marks a block that is cleared here before that finds the number changed.
        self.discards.fetch_add(1, Ordering::AcqRel);
        let range = self.in_pages(range);
        let blocks = Block::of(range.base()).bit().start..Block::of(range.end()).bit().end;
        self.full.clear(blocks.clone());
        self.asked.clear(blocks);
    }

    /// The hole at the start of a range of the file.
    fn hole(&self, file: &File, range: Range) -> Option<Extent> {
        let seeker = self.seeker.get_or_init(|| file::reopen(file).ok()).as_ref()?;
        let end = match file::next_data(seeker, range.base()) {
            Some(data) => data,
            // Behind the end of a file that was truncated lies no hole, but a fault.
            None => copy::length(file).ok()?,
        };
        let hole = Range::between(range.base(), end.min(range.end()));
        (!hole.is_empty()).then_some(Extent { kind: ExtentKind::Hole, size: hole.size() })
    }
}

/// The bytes, counted from the start of a region's pages, that one look goes at.
struct Block(Range);

impl Block {
    /// The part of it that lies in the region.
    const fn in_region(&self, lead: u64) -> Range {
        Range::between(self.0.base().saturating_sub(lead), self.0.end().saturating_sub(lead))
    }

    fn of(offset: u64) -> Self {
        Self(Range::between(offset & !(BLOCK - 1), u64::MAX).take(BLOCK))
    }

    /// Its place among the blocks.
    fn bit(&self) -> std::ops::Range<usize> {
        let index = usize_of(self.0.base() / BLOCK);
        index..index.saturating_add(1)
    }

    /// The part of a range, which begins in it, that lies in it.
    fn rest(&self, range: Range) -> Range {
        range.intersection(&self.0)
    }
}
