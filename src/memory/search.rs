//! Finding bytes in guest memory, a window at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::buffer::Output;
use super::mapping::Extent;
use super::scan::CHUNK;
use super::section::Section;
use crate::model::error::Result;
use crate::model::int::u64_of;
use crate::model::int::usize_of;
use crate::model::pattern::Pattern;
use crate::model::range::Range;

/// Smaller holes are read like data.
const HOLE: u64 = 64 << 10;

/// Where a search is: it holds nothing between two windows, so the map may change under it.
#[derive(Debug)]
pub struct Search {
    pattern: Arc<Pattern>,
    align: u64,
    position: u64,
    end: u64,
    /// Up to here the memory is known to have pages, as long as the map does not change.
    data_end: u64,
    found: VecDeque<u64>,
    buffer: Vec<u8>,
}

impl Search {
    /// A search for matches that lie in `[start, end)` and begin at multiples of `align`.
    #[must_use]
    pub fn new(pattern: Arc<Pattern>, start: u64, end: u64, align: u64) -> Self {
        Self { pattern, align, position: start, end, data_end: 0, found: VecDeque::new(), buffer: Vec::new() }
    }

    /// The next match of the window that was looked at.
    pub fn pop(&mut self) -> Option<u64> {
        self.found.pop_front()
    }

    /// The map has changed: matches that were not taken yet are looked for again.
    pub fn rewind(&mut self) {
        self.data_end = 0;
        if let Some(first) = self.found.front() {
            self.position = *first;
            self.found.clear();
        }
    }

    /// What is left to search, and how many bytes of it a window has at the most.
    #[must_use]
    pub fn window(&self) -> (Range, usize) {
        (Range::between(self.position, self.end), self.step().saturating_add(self.overlap()))
    }

    /// How far a window is behind the one before: far enough that a long needle doesn't make bytes be looked at many times.
    fn step(&self) -> usize {
        CHUNK.max(self.pattern.size())
    }

    /// A match may reach that far into the next window.
    fn overlap(&self) -> usize {
        self.pattern.size().saturating_sub(1)
    }

    /// Looks at sections that touch each other, and returns how many bytes are behind it; without a section the search is over.
    ///
    /// Pieces that do not fill the window end at a hole, a device region or the end.
    pub fn look(&mut self, sections: &[Section]) -> Result<u64> {
        let Some(first) = sections.first() else {
            self.position = self.end;
            return Ok(0);
        };
        let before = first.address();
        self.pass(first, sections)?;
        Ok(self.position.saturating_sub(before))
    }

    fn pass(&mut self, first: &Section, sections: &[Section]) -> Result<()> {
        let start = first.address();
        if start >= self.data_end {
            // Far beyond the window: it holds for the windows to come too.
            match first.region.mapping.extent_at(first.offset) {
                Extent::Hole(size) if self.may_skip(size) => {
                    self.position = start.saturating_add(size.saturating_sub(u64_of(self.overlap())));
                    return Ok(());
                }
                Extent::Hole(_) => {}
                Extent::Data(size) => self.data_end = start.saturating_add(size),
            }
        }
        let size = sections.iter().fold(0usize, |sum, section| sum.saturating_add(section.size));
        if size >= self.pattern.size() {
            self.fill(first, sections, size)?;
            self.collect(start);
        }
        let is_full = size >= self.step().saturating_add(self.overlap());
        self.position = start.saturating_add(u64_of(if is_full { self.step() } else { size }));
        Ok(())
    }

    /// Whether a hole can be passed without a look; small ones are read like data.
    fn may_skip(&self, hole: u64) -> bool {
        hole >= HOLE.max(u64_of(self.pattern.size())) && !self.pattern.matches_zeroes()
    }

    /// Copies the sections, which are `size` bytes, into the buffer: directly when all of them are known to have pages.
    fn fill(&mut self, first: &Section, sections: &[Section], size: usize) -> Result<()> {
        self.buffer.resize(size, 0);
        let output = Output::from(self.buffer.as_mut_slice());
        if sections.len() == 1 && first.address().saturating_add(u64_of(size)) <= self.data_end {
            return first.at(0).read_data(&output);
        }
        // `at` counts from the position, which may lie in a hole of the map before the first section.
        sections.iter().try_for_each(|section| section.at(section.at.saturating_sub(first.at)).scan(&output))
    }

    /// The matches in the buffer, which begins at `address`.
    fn collect(&mut self, address: u64) {
        let mut from = 0;
        while let Some(start) = self.pattern.find(&self.buffer, from).filter(|start| *start < self.step()) {
            let at = address.saturating_add(u64_of(start));
            if at.is_multiple_of(self.align) {
                self.found.push_back(at);
            }
            from = self.next_start(at, start);
        }
    }

    /// The next place in the buffer where a match may begin.
    fn next_start(&self, address: u64, start: usize) -> usize {
        let next = address.saturating_add(1).checked_next_multiple_of(self.align);
        let skip = next.map_or(usize::MAX, |next| usize_of(next.saturating_sub(address)));
        start.saturating_add(skip)
    }
}
