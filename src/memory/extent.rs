//! Telling the holes of a shared file from its data.

use std::fs::File;

use super::protection::Pages;
use super::source::Backing;
use crate::model::int::{u64_of, usize_of};
use crate::model::range::Range;
use crate::sys::once::Once;
use crate::sys::{copy, file, smaps};

/// The bytes at whose pages one look goes. `SEEK_HOLE` would go on to the end of the data, which may be gigabytes behind the range.
pub(super) const LOOK: u64 = 256 << 10;
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
#[derive(Debug, Default)]
pub(super) struct HoleFinder {
    /// The file through a description whose position is ours alone: `lseek(2)` moves it. `None` when it can't be opened again.
    seeker: Once<Option<File>>,
}

impl HoleFinder {
    /// The extent at the start of `range`, which counts from the start of the region.
    ///
    /// `pages` are those of its first [`LOOK`] bytes; `None` for memory that is never touched, so that it need not be told from holes.
    pub(super) fn extent_of(&self, backing: &Backing, range: Range, pages: Option<Pages>) -> Extent {
        // A file of huge pages is all data to lseek(2).
        let shown = backing.shown_file().filter(|_| !backing.is_huge && range.size() > SMALL);
        let Some((file, start)) = shown else {
            return Extent { kind: ExtentKind::Unknown, size: range.size() };
        };
        // The region was mapped, so that its end in the file is a number too.
        let in_file = Range::between(start, u64::MAX).skip(range.base()).take(range.size());
        let run = pages.and_then(|pages| first_run(in_file.base(), pages, backing.page_size));
        match run.unwrap_or(Extent { kind: ExtentKind::Unknown, size: range.take(LOOK).size() }) {
            unknown @ Extent { kind: ExtentKind::Unknown, .. } => self.hole(file, in_file).unwrap_or(unknown),
            known => known,
        }
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

/// The extent at a position of the file that lies in the first of these pages.
fn first_run(position: u64, (host, size): Pages, page_size: u64) -> Option<Extent> {
    let (is_resident, bytes) = smaps::first_run(host, size, usize_of(page_size)).ok()?;
    let kind = if is_resident { ExtentKind::Data } else { ExtentKind::Unknown };
    Some(Extent { kind, size: u64_of(bytes).checked_sub(position.checked_rem(page_size)?)? })
}
