//! Finding bytes in guest memory, a window at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::buffer::Output;
use super::extent::ExtentKind;
use super::scan::CHUNK;
use super::section::Section;
use crate::model::error::Result;
use crate::model::int::{u64_of, usize_of};
use crate::model::pattern::Pattern;
use crate::model::range::Range;
use crate::model::room::Room;

/// Smaller holes are read like data.
const HOLE: u64 = 64 << 10;

/// The state of a search, which holds nothing between two windows, so that the map may change under it.
#[derive(Debug)]
pub struct Search {
    pattern: Arc<Pattern>,
    align: u64,
    /// The addresses that are left to search.
    left: Range,
    /// Up to here the memory is known to have pages, as long as the map does not change.
    data_end: u64,
    found: VecDeque<u64>,
    buffer: Vec<u8>,
}

impl Search {
    /// A search for matches that lie in a range and begin at multiples of `align`.
    pub fn new(pattern: Arc<Pattern>, range: Range, align: u64) -> Self {
        Self { pattern, align, left: range, data_end: 0, found: VecDeque::new(), buffer: Vec::new() }
    }

    /// The next match of the window that was looked at.
    pub fn pop(&mut self) -> Option<u64> {
        self.found.pop_front()
    }

    /// The map has changed: matches that were not taken yet are looked for again.
    pub fn rewind(&mut self) {
        self.data_end = 0;
        if let Some(first) = self.found.front() {
            self.left = Range::between(*first, self.left.end());
            self.found.clear();
        }
    }

    /// The addresses that are left to search.
    pub const fn left(&self) -> Range {
        self.left
    }

    /// The number of bytes that a window has at the most.
    pub fn window(&self) -> u64 {
        self.step().saturating_add(self.overlap())
    }

    /// The distance between two windows: so long that the bytes of a long needle are not looked at many times.
    fn step(&self) -> u64 {
        u64_of(CHUNK.max(self.pattern.size()))
    }

    /// A match may reach that far into the next window.
    fn overlap(&self) -> u64 {
        u64_of(self.pattern.size()).saturating_sub(1)
    }

    /// Looks at sections that touch each other, and returns how many bytes are behind it; without a section the search is over.
    ///
    /// Sections that do not fill the window end at a hole, a device region or the end.
    pub fn look(&mut self, sections: &[Section<'_>]) -> Result<u64> {
        let Some(first) = sections.first() else {
            self.left = Range::between(self.left.end(), self.left.end());
            return Ok(0);
        };
        let window = Range::between(first.address(), self.left.end());
        self.left = window.skip(self.pass(first, sections, window)?);
        Ok(window.size().abs_diff(self.left.size()))
    }

    /// Looks at what there is of a window; returns how far behind its start the next one begins.
    fn pass(&mut self, first: &Section<'_>, sections: &[Section<'_>], window: Range) -> Result<u64> {
        if window.base() >= self.data_end {
            // Also beyond the window: a hole is passed at once, however long.
            let extent = first.extent_up_to(window.end());
            match extent.kind {
                // A match may begin in the hole and end behind it.
                ExtentKind::Hole if self.may_skip(extent.size) => return Ok(extent.size.abs_diff(self.overlap())),
                ExtentKind::Data => self.data_end = window.take(extent.size).end(),
                ExtentKind::Hole | ExtentKind::Unknown => {}
            }
        }
        let size = sections.iter().map(Section::size).sum();
        if size >= u64_of(self.pattern.size()) {
            self.fill(sections, window.take(size))?;
            self.collect(window);
        }
        Ok(if size >= self.window() { self.step() } else { size })
    }

    /// Whether a hole can be passed without a look; small ones are read like data.
    fn may_skip(&self, hole: u64) -> bool {
        hole >= HOLE.max(u64_of(self.pattern.size())) && !self.pattern.matches_zeroes()
    }

    /// Copies the sections into the buffer: directly when all of them are known to have pages.
    fn fill(&mut self, sections: &[Section<'_>], all: Range) -> Result<()> {
        self.buffer.fit(usize_of(all.size()))?;
        let output = Output::from(self.buffer.as_mut_slice());
        // The buffer of the sections begins at the position, which may lie in a hole of the map before the first.
        let begin = sections.first().map_or(0, |first| first.buffer().base());
        match sections {
            [only] if all.end() <= self.data_end => only.behind(begin).read(&output),
            several => several.iter().try_for_each(|section| section.behind(begin).scan(&output)),
        }
    }

    /// The matches in the buffer, which begins with the window.
    fn collect(&mut self, window: Range) {
        let step = usize_of(self.step());
        let mut from = Some(0);
        while let Some(start) =
            from.and_then(|from| self.pattern.find(&self.buffer, from)).filter(|start| *start < step)
        {
            let address = window.skip(u64_of(start)).base();
            if address.is_multiple_of(self.align) {
                self.found.push_back(address);
            }
            from = self.next_start(address, start);
        }
    }

    /// The next place in the buffer where a match may begin.
    fn next_start(&self, address: u64, start: usize) -> Option<usize> {
        let next = address.checked_add(1)?.checked_next_multiple_of(self.align)?;
        start.checked_add(usize_of(next.abs_diff(address)))
    }
}
