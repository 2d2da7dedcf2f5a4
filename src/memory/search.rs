//! Finding bytes in guest memory, a window at a time.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::access;
use super::buffer::Output;
use super::extent::ExtentKind;
use super::scan::CHUNK;
use super::section::Section;
use super::team::{share_out, threads_for};
use crate::model::error::Result;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::pattern::{Look, Pattern};
use crate::model::range::Range;
use crate::model::room;

/// Smaller holes are read like data.
const HOLE: u64 = 64 << 10;
/// When so many bytes have no match, threads look ahead.
const BARREN: u64 = 8 << 20;
/// The bytes that each of them looks at before the search goes on behind them.
const REACH: u64 = 64 << 20;

/// The state of a search, which holds nothing between two windows, so that the map may change under it.
#[derive(Debug)]
pub struct Search {
    pattern: Arc<Pattern>,
    align: u64,
    /// The addresses that are left to look at.
    left: Range,
    /// Up to here the memory is known to have pages, as long as the map does not change.
    data_end: u64,
    /// The addresses of the window in which matches may still begin.
    starts: Range,
    /// The bytes from the first of these on, and those behind that a match may reach into; copied from the memory.
    buffer: Vec<u8>,
    /// Where in the buffer the first of these is.
    from: usize,
    /// The bytes that were looked at since the last match.
    barren: u64,
}

impl Search {
    /// A search for matches that lie in a range and begin at multiples of `align`.
    pub fn new(pattern: Arc<Pattern>, range: Range, align: u64) -> Self {
        let starts = range.take(0);
        Self { pattern, align, left: range, data_end: 0, starts, buffer: Vec::new(), from: 0, barren: 0 }
    }

    /// The next match of the window that was looked at. The caller is asked whether to go on each time that it was worked for.
    pub fn next(&mut self, interrupt: &dyn Interrupt) -> Result<Option<u64>> {
        while self.has_window() {
            if let Some(found) = self.next_within(STEP) {
                return Ok(Some(found));
            }
            interrupt.check()?;
        }
        Ok(None)
    }

    /// Whether matches may still begin in the window that was looked at.
    pub const fn has_window(&self) -> bool {
        !self.starts.is_empty()
    }

    /// The next match of the window, if little is to be done for it: about `work` bytes are looked at.
    pub fn next_within(&mut self, work: u64) -> Option<u64> {
        let (mut passed, mut found) = (self.starts.size(), None);
        match self.pattern.find(&self.buffer, self.from, usize_of(work)) {
            Look::Found(start) => {
                let address = self.starts.skip(u64_of(start.abs_diff(self.from))).base();
                found = Some(address).filter(|address| address.is_multiple_of(self.align));
                // The next place where a match may begin.
                let next = address.checked_add(1).and_then(|next| next.checked_next_multiple_of(self.align));
                passed = next.unwrap_or(u64::MAX).abs_diff(self.starts.base());
                found = found.filter(|_| start < self.from.saturating_add(usize_of(self.starts.size())));
            }
            Look::Paused(next) => passed = u64_of(next.abs_diff(self.from)),
            Look::Nowhere => {}
        }
        self.from = self.from.saturating_add(usize_of(passed));
        self.starts = self.starts.skip(passed);
        self.barren = if found.is_some() { 0 } else { self.barren.saturating_add(passed) };
        found
    }

    /// The map has changed: matches that were not found yet are looked for in it.
    pub fn rewind(&mut self) {
        self.data_end = 0;
        if !self.starts.is_empty() {
            self.left = Range::between(self.starts.base(), self.left.end());
            self.starts = self.starts.take(0);
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

    /// The bytes in which threads may look for the next match, if they are worth their while.
    pub fn reach(&self, threads: Option<usize>) -> Option<u64> {
        let threads = u64_of(threads_for(self.left.size(), threads));
        (threads > 1 && self.barren >= BARREN).then(|| threads.saturating_mul(REACH))
    }

    /// Has threads look for the next match in sections that touch each other, and goes on where it is, or behind them. Returns how
    /// many bytes are behind it; none when the sections are too few for that. One window alone comes next, which passes a hole at
    /// once, however long.
    pub fn look_ahead(
        &mut self,
        sections: &[Section<'_>],
        threads: Option<usize>,
        interrupt: &dyn Interrupt,
    ) -> Result<u64> {
        self.barren = BARREN.saturating_sub(1);
        let size: u64 = sections.iter().map(Section::size).sum();
        let Some(first) = sections.first().filter(|_| size > STEP.saturating_add(self.window())) else { return Ok(0) };
        if sections.iter().any(Section::may_block) {
            return Ok(0);
        }
        let all = Range::between(first.address(), first.address().saturating_add(size));
        let step = |index: usize, interrupt: &dyn Interrupt| {
            let starts = all.skip(u64_of(index).saturating_mul(STEP));
            let found = self.first_in(starts.take(STEP.saturating_add(self.overlap())), sections, interrupt)?;
            Ok(if found.is_some() { ControlFlow::Break(found) } else { ControlFlow::Continue(None) })
        };
        let (steps, threads) = (usize_of(size.div_ceil(STEP)), threads_for(size, threads));
        let given = share_out(steps, threads, step, &mut || interrupt.check())?;
        let next = given.into_iter().flatten().next().unwrap_or_else(|| all.skip(size.abs_diff(self.overlap())).base());
        let before = self.left;
        self.left = Range::between(next, before.end());
        Ok(before.size().abs_diff(self.left.size()))
    }

    /// The first match in a range of the sections.
    fn first_in(&self, range: Range, sections: &[Section<'_>], interrupt: &dyn Interrupt) -> Result<Option<u64>> {
        let mut search = Self::new(Arc::clone(&self.pattern), range, self.align);
        loop {
            if let Some(found) = search.next(interrupt)? {
                return Ok(Some(found));
            }
            if search.left.is_empty() {
                return Ok(None);
            }
            let window = search.left.take(search.window());
            let parts = sections.iter().map(|section| section.within(window)).filter(|part| !part.is_empty());
            search.look(&room::collected(parts)?, interrupt)?;
            interrupt.check()?;
        }
    }

    /// Looks at sections that touch each other, and returns how many bytes are behind it; without a section the search is over.
    ///
    /// Sections that do not fill the window end at a hole, a device region or the end.
    pub fn look(&mut self, sections: &[Section<'_>], interrupt: &dyn Interrupt) -> Result<u64> {
        let Some(first) = sections.first() else {
            self.left = Range::between(self.left.end(), self.left.end());
            return Ok(0);
        };
        let window = Range::between(first.address(), self.left.end());
        self.left = window.skip(self.pass(first, sections, window, interrupt)?);
        Ok(window.size().abs_diff(self.left.size()))
    }

    /// Looks at what there is of a window; returns how far behind its start the next one begins.
    fn pass(
        &mut self,
        first: &Section<'_>,
        sections: &[Section<'_>],
        window: Range,
        interrupt: &dyn Interrupt,
    ) -> Result<u64> {
        if window.base() >= self.data_end {
            // Also beyond the window: a hole is passed at once, however long.
            let extent = first.extent_up_to(window.end());
            match extent.kind {
                // A match may begin in the hole and end behind it.
                ExtentKind::Hole if self.may_skip(extent.size) => {
                    self.barren = 0;
                    return Ok(extent.size.abs_diff(self.overlap()));
                }
                ExtentKind::Data => self.data_end = window.take(extent.size).end(),
                ExtentKind::Hole | ExtentKind::Unknown => {}
            }
        }
        let size = sections.iter().map(Section::size).sum();
        if size >= u64_of(self.pattern.size()) {
            self.fill(sections, window.take(size), interrupt)?;
            (self.starts, self.from) = (window.take(size).take(self.step()), 0);
        }
        Ok(if size >= self.window() { self.step() } else { size })
    }

    /// Whether a hole can be passed without a look; small ones are read like data.
    fn may_skip(&self, hole: u64) -> bool {
        hole >= HOLE.max(u64_of(self.pattern.size())) && !self.pattern.matches_zeroes()
    }

    /// Copies the sections into the buffer: directly when all of them are known to have pages.
    fn fill(&mut self, sections: &[Section<'_>], all: Range, interrupt: &dyn Interrupt) -> Result<()> {
        let size = usize_of(all.size());
        if self.buffer.capacity() < size {
            self.buffer = room::unwritten(size)?;
        }
        self.buffer.clear();
        // SAFETY: the room of the buffer, which nobody else has.
        let output = unsafe { Output::new(self.buffer.as_mut_ptr(), size) };
        // The buffer of the sections begins at the position, which may lie in a hole of the map before the first.
        let begin = sections.first().map_or(0, |first| first.buffer().base());
        let is_data = sections.len() == 1 && all.end() <= self.data_end;
        access::in_steps(sections, interrupt, |part| {
            let part = part.behind(begin);
            if is_data { part.read(&output) } else { part.scan(&output) }
        })?;
        // SAFETY: as many bytes were written, for sections that touch each other fill a window.
        unsafe { self.buffer.set_len(size) };
        Ok(())
    }
}
