//! Which pages were written.

use std::fmt::Debug;

use crate::model::error::Result;
use crate::model::int::usize_of;
use crate::model::range::Range;
use crate::model::room;
use crate::sys::sync::{AtomicU64, Ordering};

/// Bytes that one bit stands for.
pub const PAGE: u64 = 4096;
const BITS: u64 = 64;

/// A client that knows of writes which no page table of this process shows: a log of KVM's.
pub trait WriteLog: Debug + Send + Sync {
    /// Whether it logs.
    fn is_on(&self) -> Result<bool>;

    /// Tells the consumers of the mapping of all that was logged since the last time.
    fn sync(&self) -> Result<()>;
}

/// One bit a page, set after each write of ours.
#[derive(Debug, Default)]
pub struct DirtyBitmap {
    words: Vec<AtomicU64>,
    /// The bytes before offset 0 that are in its page.
    lead: u64,
}

impl DirtyBitmap {
    /// A clean bitmap for `size` bytes, whose first page begins `lead` bytes before them.
    pub fn new(lead: u64, size: u64) -> Result<Self> {
        let words = usize_of(lead.saturating_add(size).div_ceil(PAGE).div_ceil(BITS));
        Ok(Self { words: room::collected((0..words).map(|_| AtomicU64::new(0)))?, lead })
    }

    /// Marks the pages of `size` bytes at `offset`, which were written before this call.
    ///
    /// A bit that looks set already is set again: a drain may be clearing it, and this write came after what that drain saw.
    #[inline]
    pub fn mark(&self, offset: u64, size: u64) {
        let offset = offset.saturating_add(self.lead);
        let Some(last) = size.checked_sub(1).map(|rest| offset.saturating_add(rest) / PAGE) else { return };
        let mut page = offset / PAGE;
        while page <= last {
            let word_end = (page | (BITS - 1)).min(last);
            let mask = (u64::MAX << (page % BITS)) & (u64::MAX >> (!word_end % BITS));
            if let Some(word) = usize::try_from(page / BITS).ok().and_then(|index| self.words.get(index)) {
                // Without a look at the bit: a drain between the look and a skip would lose this write.
                // Release, so that the drain which finds the bit finds the bytes.
                word.fetch_or(mask, Ordering::Release);
            }
            page = word_end.saturating_add(1);
        }
    }

    /// Marks the pages of another bitmap's words, which begins where this one's first page does.
    pub fn mark_words(&self, words: &[u64]) {
        let marked = self.words.iter().zip(words).filter(|(_, more)| **more != 0);
        marked.for_each(|(word, more)| _ = word.fetch_or(*more, Ordering::Release));
    }

    /// Calls `found` with each run of written pages by ascending start, and forgets them.
    ///
    /// A write that is under way may be found now or the next time, never not at all.
    pub fn drain(&self, found: &mut dyn FnMut(Range)) {
        // Clean words are only looked at: a swap would take the cache line from the writers.
        // A mark that comes behind the look is found the next time.
        let taken =
            |word: &AtomicU64| if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::Acquire) };
        self.runs(taken, found);
    }

    /// Calls `found` with each run of written pages, and keeps them.
    pub fn peek(&self, found: &mut dyn FnMut(Range)) {
        self.runs(|word| word.load(Ordering::Acquire), found);
    }

    /// Whether the page of a byte is marked.
    pub fn has(&self, offset: u64) -> bool {
        let page = offset / PAGE;
        let word = usize::try_from(page / BITS).ok().and_then(|index| self.words.get(index));
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (page % BITS) & 1 != 0)
    }

    fn runs(&self, bits_of: impl Fn(&AtomicU64) -> u64, found: &mut dyn FnMut(Range)) {
        let mut run: Option<Range> = None;
        let mut base = 0u64;
        for word in &self.words {
            let mut bits = bits_of(word);
            while bits != 0 {
                let first = u64::from(bits.trailing_zeros());
                let count = u64::from((bits >> first).trailing_ones());
                let start = base.saturating_add(first).saturating_mul(PAGE);
                let end = start.saturating_add(count.saturating_mul(PAGE));
                let pages = Range::between(start.saturating_sub(self.lead), end.saturating_sub(self.lead));
                run = Some(match run {
                    Some(run) if run.end() == pages.base() => Range::between(run.base(), pages.end()),
                    Some(run) => {
                        found(run);
                        pages
                    }
                    None => pages,
                });
                // The carry clears the run; where it leaves the word, nothing else is left.
                bits &= bits.checked_add(1 << first).unwrap_or(0);
            }
            base = base.saturating_add(BITS);
        }
        run.into_iter().for_each(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(bitmap: &DirtyBitmap) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        bitmap.drain(&mut |range| found.push((range.base() / PAGE, range.size() / PAGE)));
        found
    }

    #[test]
    fn runs_are_found_once_and_joined_over_words() {
        let bitmap = DirtyBitmap::new(0, 200 * PAGE).unwrap();
        bitmap.mark(0, 1);
        bitmap.mark(60 * PAGE + 17, 10 * PAGE);
        bitmap.mark(63 * PAGE, 2);
        bitmap.mark(128 * PAGE, 64 * PAGE);
        bitmap.mark(199 * PAGE + 4095, 1);
        assert_eq!(drained(&bitmap), [(0, 1), (60, 11), (128, 64), (199, 1)]);
        assert_eq!(drained(&bitmap), []);
    }

    #[test]
    fn a_mark_is_as_exact_as_a_plain_loop() {
        let bitmap = DirtyBitmap::new(0, 130 * PAGE).unwrap();
        for (offset, size) in [(0, 0), (4095, 2), (64 * PAGE - 1, 1), (64 * PAGE, PAGE), (3, 130 * PAGE - 3)] {
            bitmap.mark(offset, size);
            let pages: u64 = drained(&bitmap).iter().map(|(_, count)| count).sum();
            let expected = if size == 0 { 0 } else { (offset + size - 1) / PAGE - offset / PAGE + 1 };
            assert_eq!(pages, expected, "{offset} {size}");
        }
    }

    #[test]
    fn no_write_is_lost_between_marks_and_drains() {
        const ROUNDS: u64 = 20_000;
        let (bitmap, value) = (DirtyBitmap::new(0, PAGE).unwrap(), AtomicU64::new(0));
        let mut seen = 0;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 1..=ROUNDS {
                    value.store(round, Ordering::Relaxed);
                    bitmap.mark(0, 8);
                }
            });
            let mut is_last = false;
            while !is_last {
                is_last = writer.is_finished();
                if !drained(&bitmap).is_empty() {
                    seen = value.load(Ordering::Relaxed);
                }
            }
        });
        assert_eq!(seen, ROUNDS);
    }
}
