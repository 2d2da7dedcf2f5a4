//! Telling the holes of a shared file from its data.

use std::fs::File;
use std::sync::OnceLock;

use super::source::Backing;
use crate::model::range::Range;
use crate::sys::{copy, file};

/// Whether bytes have pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// They have.
    Data,
    /// They have none: they read as zeroes, and a touch would allocate them.
    Hole,
    /// The kernel does not say.
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
    seeker: OnceLock<Option<File>>,
}

impl HoleFinder {
    /// The extent at the start of `range`, which counts from the start of the region.
    pub(super) fn extent_of(&self, backing: &Backing, range: Range) -> Extent {
        let unknown = Extent { kind: ExtentKind::Unknown, size: range.size() };
        // A file of huge pages is all data to lseek(2).
        let Some((file, start)) = backing.shown_file().filter(|_| !backing.is_huge) else { return unknown };
        let Some(seeker) = self.seeker.get_or_init(|| file::reopen(file).ok()) else { return unknown };
        // The region was mapped, so that its end in the file is a number too.
        let Some((position, end)) = start.checked_add(range.base()).zip(start.checked_add(range.end())) else {
            return unknown;
        };
        let extent = |kind, to: u64| Extent { kind, size: Range::between(position, to.min(end)).size() };
        match file::next_data(seeker, position) {
            Some(data) if data > position => extent(ExtentKind::Hole, data),
            Some(_) => extent(ExtentKind::Data, file::next_hole(seeker, position).unwrap_or(end)),
            // Behind the end of a file that was truncated lies no hole, but a fault.
            None => match copy::length(file) {
                Ok(length) if length > position => extent(ExtentKind::Hole, length),
                _ => unknown,
            },
        }
    }
}
