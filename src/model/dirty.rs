//! A set of dirty pages: sparse words of a bitmap over guest physical memory.

use super::error::{Error, Result};
use super::invalid::Invalid;
use super::range::{Range, joined};

const BITS: u64 = 64;
/// Words of a bitmap.
const STRETCH: usize = 64;

/// Pages that were written, as an immutable value.
///
/// A word of the bitmap covers 64 pages; only words with a bit set are there, by ascending index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DirtyPages {
    page_size: u64,
    words: Vec<(u64, u64)>,
    sources: Vec<String>,
}

impl DirtyPages {
    /// No pages yet; the size of one is a power of two.
    pub fn new(page_size: u64, mut sources: Vec<String>) -> Result<Self> {
        if !page_size.is_power_of_two() {
            let message = format!("page_size {page_size} is not a power of two");
            return Err(Invalid::at(message, None, Some(page_size)).into());
        }
        sources.sort();
        sources.dedup();
        Ok(Self { page_size, words: Vec::new(), sources })
    }

    /// Bytes a page.
    #[must_use]
    pub const fn page_size(&self) -> u64 {
        self.page_size
    }

    /// Who saw the writes, sorted.
    #[must_use]
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    const fn shift(&self) -> u32 {
        self.page_size.trailing_zeros()
    }

    /// Adds a bitmap whose first bit is the page at `base`; bitmaps come by ascending base.
    pub fn push_bitmap(&mut self, base: u64, bitmap: &[u64]) {
        let first = base >> self.shift();
        let (first, offset) = (first / BITS, first % BITS);
        let stretches = (first..).step_by(STRETCH).zip(bitmap.chunks(STRETCH));
        // Most of a log is clean: whole stretches are looked at together.
        for (first, stretch) in stretches.filter(|(_, stretch)| stretch.iter().fold(0, |all, word| all | word) != 0) {
            for (index, word) in (first..).zip(stretch).filter(|(_, word)| **word != 0) {
                self.push_word(index, word << offset);
                if offset > 0 {
                    self.push_word(index.saturating_add(1), word >> BITS.saturating_sub(offset));
                }
            }
        }
    }

    fn push_word(&mut self, index: u64, word: u64) {
        match self.words.last_mut() {
            _ if word == 0 => {}
            Some((last, bits)) if *last == index => *bits |= word,
            _ => self.words.push((index, word)),
        }
    }

    /// The same with the pages of ranges, which must be whole pages; any order.
    pub fn with_ranges(mut self, ranges: &[Range]) -> Result<Self> {
        let mut ranges = ranges.to_vec();
        ranges.sort();
        let mut reached = 0;
        for range in ranges {
            if (range.base() | range.size()) & self.page_size.saturating_sub(1) != 0 {
                let message = format!("{range} is not of whole pages of {} bytes", self.page_size);
                let (address, size) = (Some(range.base()), Some(range.size()));
                return Err(Error::Misaligned { message, address, size, region: None });
            }
            self.push_pages(reached.max(range.base() >> self.shift()), range.end() >> self.shift());
            reached = reached.max(range.end() >> self.shift());
        }
        Ok(self)
    }

    fn push_pages(&mut self, mut first: u64, end: u64) {
        while first < end {
            let (index, bit) = (first / BITS, first % BITS);
            let count = BITS.saturating_sub(bit).min(end.saturating_sub(first));
            let ones = u64::MAX >> BITS.saturating_sub(count);
            self.push_word(index, ones << bit);
            first = first.saturating_add(count);
        }
    }

    /// The number of pages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().fold(0, |sum: u64, (_, word)| sum.saturating_add(word.count_ones().into()))
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether the page that holds an address is one of them.
    #[must_use]
    pub fn contains(&self, addr: u64) -> bool {
        let page = addr >> self.shift();
        self.word(page / BITS) >> (page % BITS) & 1 != 0
    }

    fn word(&self, index: u64) -> u64 {
        let found = self.words.binary_search_by_key(&index, |(index, _)| *index).ok();
        found.and_then(|at| self.words.get(at)).map_or(0, |(_, word)| *word)
    }

    /// The bitmap of a range: a bit for each page that it touches.
    #[must_use]
    pub fn bitmap(&self, range: Range) -> Vec<u64> {
        let first = range.base() >> self.shift();
        let pages = self.pages_in(range);
        let (index, offset) = (first / BITS, first % BITS);
        let word = |at: u64| {
            let (low, high) =
                (self.word(index.saturating_add(at)), self.word(index.saturating_add(at).saturating_add(1)));
            let word = if offset == 0 { low } else { low >> offset | high << BITS.saturating_sub(offset) };
            let left = pages.saturating_sub(at.saturating_mul(BITS));
            if left < BITS { word & !(u64::MAX << left) } else { word }
        };
        (0..pages.div_ceil(BITS)).map(word).collect()
    }

    /// How many pages a range touches.
    #[must_use]
    pub const fn pages_in(&self, range: Range) -> u64 {
        if range.is_empty() {
            0
        } else {
            range.end().div_ceil(self.page_size).saturating_sub(range.base() >> self.shift())
        }
    }

    /// The pages as ranges that do not touch, ascending.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range> {
        let runs = self.words.iter().flat_map(|(index, word)| Runs { word: *word, page: index.saturating_mul(BITS) });
        joined(runs.map(|(first, end)| Range::between(first << self.shift(), self.address(end))))
    }

    /// The address of a page; the end of the last one is beyond what a range can have, and is cut.
    fn address(&self, page: u64) -> u64 {
        page.saturating_mul(self.page_size)
    }

    /// The pages of both.
    pub fn union(&self, other: &Self) -> Result<Self> {
        self.merged(other, |mine, theirs| mine | theirs)
    }

    /// The pages that are in both.
    pub fn intersection(&self, other: &Self) -> Result<Self> {
        self.merged(other, |mine, theirs| mine & theirs)
    }

    /// The pages that are not in `other`.
    pub fn difference(&self, other: &Self) -> Result<Self> {
        self.merged(other, |mine, theirs| mine & !theirs)
    }

    fn merged(&self, other: &Self, merge: impl Fn(u64, u64) -> u64) -> Result<Self> {
        if self.page_size != other.page_size {
            let message = format!("pages of {} and of {} bytes can't be combined", self.page_size, other.page_size);
            return Err(Invalid::at(message, None, Some(other.page_size)).into());
        }
        let mut merged = Self::new(self.page_size, [self.sources(), other.sources()].concat())?;
        let (mut mine, mut theirs) = (self.words.iter().peekable(), other.words.iter().peekable());
        while let Some(index) = [mine.peek(), theirs.peek()].into_iter().flatten().map(|(index, _)| *index).min() {
            let next = |words: &mut std::iter::Peekable<std::slice::Iter<'_, (u64, u64)>>| {
                words.next_if(|(at, _)| *at == index).map_or(0, |(_, word)| *word)
            };
            let (left, right) = (next(&mut mine), next(&mut theirs));
            merged.push_word(index, merge(left, right));
        }
        Ok(merged)
    }

    /// With the clean pages between two dirty ones that are at most `gap` bytes apart: fewer, longer ranges.
    #[must_use]
    pub fn coalesce(&self, gap: u64) -> Self {
        let mut result = Self { words: Vec::new(), ..self.clone() };
        let mut ranges = self.ranges().into_iter().peekable();
        while let Some(range) = ranges.next() {
            let mut end = range.end();
            while let Some(next) = ranges.next_if(|next| next.base().saturating_sub(end) <= gap) {
                end = next.end();
            }
            result.push_pages(range.base() >> self.shift(), end.div_ceil(self.page_size));
        }
        result
    }
}

/// The runs of ones in a word, as pages.
struct Runs {
    word: u64,
    page: u64,
}

impl Iterator for Runs {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<Self::Item> {
        if self.word == 0 {
            return None;
        }
        let first = self.word.trailing_zeros();
        let length = (self.word >> first).trailing_ones();
        let end = first.saturating_add(length);
        self.word = self.word.checked_shr(end).and_then(|word| word.checked_shl(end)).unwrap_or_default();
        let page = |bit: u32| self.page.saturating_add(bit.into());
        Some((page(first), page(end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_at_any_page_comes_back_as_it_went_in() {
        for first in [0u64, 1, 63, 64, 65, 1000] {
            let mut pages = DirtyPages::new(4096, vec![]).unwrap();
            let bitmap = [0x8000_0000_0000_0001, 0, u64::MAX, 5];
            pages.push_bitmap(first << 12, &bitmap);
            assert_eq!(pages.bitmap(Range::new(first << 12, 256 << 12).unwrap()), bitmap);
            assert_eq!(pages.count(), 68);
            assert_eq!(pages.clone(), DirtyPages::new(4096, vec![]).unwrap().with_ranges(&pages.ranges()).unwrap());
        }
    }
}
