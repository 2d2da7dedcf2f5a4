//! The memory of a DAX window, and which files are mapped into it where.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::mmap::OwnPages;
use crate::model::int::{u64_of, usize_of};
use crate::model::range::Range;
use crate::model::region::{MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_NONE};
use crate::sys::fork::Forked;
use crate::sys::lock::{Lock, LockGuard};
use crate::sys::span;

/// A part of a file in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DaxMapping {
    /// Its place, counted from the start of the window.
    pub range: Range,
    /// Its offset in the file.
    pub file_offset: u64,
    /// Its protection.
    pub prot_flags: i32,
    /// Device and inode of the file.
    pub file: (u64, u64),
}

impl DaxMapping {
    /// The part that lies in `range`.
    fn part(&self, range: Range) -> Option<Self> {
        let range = self.range.intersection(&range);
        let file_offset = self.file_offset.checked_add(self.range.offset_of(range.base())?)?;
        (!range.is_empty()).then_some(Self { range, file_offset, ..*self })
    }
}

/// The mappings of a window by their place; none overlaps another.
#[derive(Debug, Default)]
struct DaxTable(BTreeMap<u64, DaxMapping>);

impl DaxTable {
    /// The mappings that share a byte with a range.
    fn overlapping(&self, range: Range) -> impl DoubleEndedIterator<Item = &DaxMapping> {
        let begin_before = self.0.range(..range.end()).map(|(_, mapping)| mapping);
        begin_before.filter(move |mapping| mapping.range.overlaps(&range))
    }

    fn insert(&mut self, mapping: DaxMapping) {
        self.0.insert(mapping.range.base(), mapping);
    }

    /// Takes a range out; mappings that reach out of it keep what lies outside.
    fn cut(&mut self, range: Range) {
        let hit: Vec<DaxMapping> = self.overlapping(range).copied().collect();
        for mapping in hit {
            self.0.remove(&mapping.range.base());
            let outside = [Range::between(0, range.base()), Range::between(range.end(), u64::MAX)];
            outside.into_iter().filter_map(|outside| mapping.part(outside)).for_each(|part| self.insert(part));
        }
    }

    /// The mapping at a place.
    fn at(&self, place: u64) -> Option<&DaxMapping> {
        let before = self.0.range(..=place).next_back().map(|(_, mapping)| mapping);
        before.filter(|mapping| mapping.range.contains(place))
    }

    /// The first place in a range at which nothing is mapped that has all of the protection bits.
    fn first_denied(&self, range: Range, bits: i32) -> Option<u64> {
        let mut left = range;
        while !left.is_empty() {
            match self.at(left.base()).filter(|mapping| mapping.prot_flags & bits == bits) {
                Some(mapping) => left = Range::between(mapping.range.end(), left.end()),
                None => return Some(left.base()),
            }
        }
        None
    }
}

/// The reason why a file was not mapped.
#[derive(Debug)]
pub(super) enum DaxFailure {
    /// Something is mapped there already.
    Taken(DaxMapping),
    /// The kernel refused it.
    Kernel(io::Error),
}

impl From<Forked> for DaxFailure {
    fn from(forked: Forked) -> Self {
        Self::Kernel(forked.into())
    }
}

/// A window: addresses that are ours to map files into, and what is there.
#[derive(Debug)]
pub struct DaxWindow {
    pages: OwnPages,
    /// Held across the system calls of a change, which may take long: two threads that find a place free must not both map it.
    changing: Lock<()>,
    /// Held for a moment each, for accesses look into it with the interpreter's lock.
    table: Lock<DaxTable>,
}

// SAFETY: the window's addresses are only mapped over by one change at a time.
unsafe impl Send for DaxWindow {}
// SAFETY: as above.
unsafe impl Sync for DaxWindow {}

impl DaxWindow {
    /// A window in which nothing is mapped, to be kept beside its pages. What is mapped there comes and goes: `Touch::of` says that
    /// nobody touches it directly.
    pub(super) fn new(pages: OwnPages) -> Self {
        Self { pages, changing: Lock::default(), table: Lock::default() }
    }

    fn table(&self) -> Result<LockGuard<'_, DaxTable>, Forked> {
        self.table.lock()
    }

    /// The mappings by ascending place.
    pub fn mappings(&self) -> Result<Vec<DaxMapping>, Forked> {
        Ok(self.table()?.0.values().copied().collect())
    }

    /// The first place in a range at which nothing is mapped that has all of the protection bits.
    pub(super) fn first_denied(&self, range: Range, bits: i32) -> Result<Option<u64>, Forked> {
        Ok(self.table()?.first_denied(range, bits))
    }

    /// The protection of the file that is mapped at a place.
    pub(super) fn prot_flags(&self, place: u64) -> Result<Option<i32>, Forked> {
        Ok(self.table()?.at(place).map(|mapping| mapping.prot_flags))
    }

    /// Maps a file where nothing is mapped.
    pub(super) fn map_file(&self, file: &File, mapping: DaxMapping) -> Result<(), DaxFailure> {
        let _changing = self.changing.lock()?;
        let taken = self.table()?.overlapping(mapping.range).next_back().copied();
        if let Some(other) = taken {
            return Err(DaxFailure::Taken(other));
        }
        let source = Some((file.as_raw_fd(), mapping.file_offset));
        if let Err(error) = self.map_over(mapping.range, mapping.prot_flags, MAP_SHARED, source) {
            // Some refusals come after the kernel has unmapped what was there.
            let _ = self.clear(mapping.range);
            return Err(DaxFailure::Kernel(error));
        }
        self.table()?.insert(mapping);
        Ok(())
    }

    /// Takes a range out, which may cut mappings and cover holes.
    pub(super) fn unmap(&self, range: Range) -> io::Result<()> {
        let _changing = self.changing.lock()?;
        // The memory first: the table must not forget what may still be mapped.
        self.clear(range)?;
        self.table()?.cut(range);
        Ok(())
    }

    /// Back to inaccessible memory, of which a window is made.
    fn clear(&self, range: Range) -> io::Result<()> {
        self.map_over(range, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, None)
    }

    fn map_over(&self, range: Range, prot_flags: i32, flags: i32, file: Option<(i32, u64)>) -> io::Result<()> {
        let (window, size) = self.pages.pages();
        if range.end() > u64_of(size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let host = window.wrapping_add(usize_of(range.base()));
        // SAFETY: inside the window, whose addresses are ours and are touched by nobody, as `new` says.
        unsafe { span::replace(host, usize_of(range.size()), prot_flags, flags, file) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: i32 = 1;
    const WRITE: i32 = 2;

    fn mapping(base: u64, end: u64, prot_flags: i32) -> DaxMapping {
        let file_offset = 100u64.checked_add(base).unwrap();
        DaxMapping { range: Range::between(base, end), file_offset, prot_flags, file: (0, 0) }
    }

    fn table(mappings: &[DaxMapping]) -> DaxTable {
        let mut table = DaxTable::default();
        mappings.iter().for_each(|mapping| table.insert(*mapping));
        table
    }

    #[test]
    fn a_cut_leaves_what_lies_outside_at_its_place_in_the_file() {
        for (base, end) in (0..12).flat_map(|base| (base..12).map(move |end| (base, end))) {
            let whole = [mapping(1, 4, READ), mapping(4, 5, READ), mapping(7, 11, READ)];
            let mut cut = table(&whole);
            cut.cut(Range::between(base, end));
            for place in 0..12 {
                let expected =
                    whole.iter().any(|mapping| mapping.range.contains(place)) && !(base..end).contains(&place);
                let found = cut.0.values().find(|mapping| mapping.range.contains(place));
                let in_file = found.map(|found| found.file_offset + found.range.offset_of(place).unwrap());
                assert_eq!(in_file, expected.then_some(100 + place), "{place} after [{base}, {end})");
            }
            assert!(cut.0.values().all(|mapping| !mapping.range.is_empty()));
        }
    }

    #[test]
    fn the_first_place_that_is_denied() {
        let table = table(&[mapping(0, 2, READ | WRITE), mapping(2, 4, READ), mapping(5, 8, READ)]);
        for (base, end, bits, expected) in [
            (0, 4, READ, None),
            (0, 4, WRITE, Some(2)),
            (1, 6, READ, Some(4)),
            (4, 5, READ, Some(4)),
            (5, 8, READ, None),
            (7, 9, READ, Some(8)),
            (9, 9, READ, None),
        ] {
            assert_eq!(table.first_denied(Range::between(base, end), bits), expected, "[{base}, {end}) {bits}");
        }
    }

    #[test]
    fn what_is_mapped_in_a_range() {
        let table = table(&[mapping(0, 2, READ), mapping(4, 6, READ)]);
        let bases = |base, end| {
            table.overlapping(Range::between(base, end)).map(|mapping| mapping.range.base()).collect::<Vec<_>>()
        };
        assert_eq!(bases(1, 5), [0, 4]);
        assert!(bases(2, 4).is_empty());
        assert!(bases(5, 5).is_empty());
    }
}
