//! A set of dirty pages: sparse words of a bitmap over guest physical memory.

use super::error::{Error, Result};
use super::int::usize_of;
use super::invalid::Invalid;
use super::range::{Range, joined};

const BITS: u64 = 64;
/// Words of a bitmap that are looked at together.
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

    /// The sources that saw the writes, sorted.
    #[must_use]
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    const fn shift(&self) -> u32 {
        self.page_size.trailing_zeros()
    }

    /// Adds a bitmap whose first bit is the page at `base`; bitmaps come by ascending base.
    pub fn push_bitmap(&mut self, base: u64, bitmap: &[u64]) {
        let Position { word: first, bit, upper } = Position::of(base >> self.shift());
        let stretches = (first..).step_by(STRETCH).zip(bitmap.chunks(STRETCH));
        // Most of a log is clean: whole stretches are looked at together.
        for (first, stretch) in stretches.filter(|(_, stretch)| stretch.iter().fold(0, |all, word| all | word) != 0) {
            let places = (first..).zip((first..).skip(1));
            for (word, (index, next)) in stretch.iter().zip(places).filter(|(word, _)| **word != 0) {
                // The bits pushed out of this word are the low ones of the next.
                let rotated = word.rotate_left(bit);
                self.push_word(index, rotated & upper);
                self.push_word(next, rotated & !upper);
            }
        }
    }

    fn push_word(&mut self, index: u64, word: u64) {
        match self.words.last_mut() {
            // Words without a bit are left out, or equal sets would not be equal values.
            _ if word == 0 => {}
            Some((last, bits)) if *last == index => *bits |= word,
            _ => self.words.push((index, word)),
        }
    }

    /// The same with the pages of ranges, which must be whole pages; any order.
    pub fn with_ranges(mut self, ranges: &[Range]) -> Result<Self> {
        let mut ranges = ranges.to_vec();
        ranges.sort();
        // Ranges may overlap: pages that are there already are not pushed again, for words are only ever added at the end.
        let mut reached = 0;
        for range in ranges {
            if !range.base().is_multiple_of(self.page_size) || !range.size().is_multiple_of(self.page_size) {
                let message = format!("{range} is not of whole pages of {} bytes", self.page_size);
                let (address, size) = (Some(range.base()), Some(range.size()));
                return Err(Error::Misaligned { message, address, size, region: None });
            }
            let pages = self.pages_of(range);
            self.push_pages(Range::between(reached.max(pages.base()), pages.end()));
            reached = reached.max(pages.end());
        }
        Ok(self)
    }

    /// The pages that a range of addresses touches.
    const fn pages_of(&self, range: Range) -> Range {
        if range.is_empty() {
            return Range::between(0, 0);
        }
        Range::between(range.base() >> self.shift(), range.end().div_ceil(self.page_size))
    }

    fn push_pages(&mut self, pages: Range) {
        if pages.is_empty() {
            return;
        }
        let (first, last) = (pages.base() / BITS, pages.last_addr() / BITS);
        for index in first..=last {
            let low = if index == first { u64::MAX << (pages.base() % BITS) } else { u64::MAX };
            let high = if index == last { u64::MAX >> (!pages.last_addr() % BITS) } else { u64::MAX };
            self.push_word(index, low & high);
        }
    }

    /// The number of pages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|(_, word)| u64::from(word.count_ones())).sum()
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
        let pages = self.pages_of(range);
        let Position { word: first, bit, upper } = Position::of(pages.base());
        let word = |(index, next)| (self.word(index) & upper | self.word(next) & !upper).rotate_right(bit);
        let count = usize_of(pages.size().div_ceil(BITS));
        let mut words: Vec<u64> = (first..).zip((first..).skip(1)).take(count).map(word).collect();
        // Pages behind the range are not asked for.
        if let (Some(last), rest @ 1..) = (words.last_mut(), pages.size() % BITS) {
            *last &= !(u64::MAX << rest);
        }
        words
    }

    /// How many pages a range touches.
    #[must_use]
    pub const fn pages_in(&self, range: Range) -> u64 {
        self.pages_of(range).size()
    }

    /// The pages as ranges that do not touch, ascending.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range> {
        let runs = self.words.iter().flat_map(|(index, word)| Runs { word: *word, page: index << BITS.ilog2() });
        // The end of the very last page is beyond what a range can have, and is cut.
        let addresses = |(first, last): (u64, u64)| {
            Range::between(first << self.shift(), Range::at(last << self.shift(), self.page_size).end())
        };
        joined(runs.map(addresses))
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
            while let Some(next) = ranges.next_if(|next| Range::between(end, next.base()).size() <= gap) {
                end = next.end();
            }
            result.push_pages(self.pages_of(Range::between(range.base(), end)));
        }
        result
    }
}

/// Where the bit of a page lies.
struct Position {
    word: u64,
    bit: u32,
    /// The bits of the word from that one on.
    upper: u64,
}

impl Position {
    const fn of(page: u64) -> Self {
        let upper = u64::MAX << (page % BITS);
        Self { word: page / BITS, bit: upper.trailing_zeros(), upper }
    }
}

/// The runs of ones in a word, as its first and its last page.
struct Runs {
    word: u64,
    /// The page of the lowest bit, a multiple of 64.
    page: u64,
}

impl Iterator for Runs {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let lowest = self.word & self.word.wrapping_neg();
        // A carry from the lowest one clears its run; there is nothing left when that reaches the highest bit.
        let rest = self.word & self.word.checked_add(lowest).unwrap_or_default();
        let run = self.word & !rest;
        self.word = rest;
        Some((self.page | u64::from(run.trailing_zeros()), self.page | u64::from(run.checked_ilog2()?)))
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

    fn of(numbers: &[u64]) -> DirtyPages {
        let ranges: Vec<Range> = numbers.iter().map(|page| Range::at(page << 12, 1 << 12)).collect();
        DirtyPages::new(4096, vec![]).unwrap().with_ranges(&ranges).unwrap()
    }

    fn numbers(pages: &DirtyPages) -> Vec<u64> {
        pages.ranges().iter().flat_map(|range| range.base() >> 12..range.end() >> 12).collect()
    }

    #[test]
    fn runs_are_joined_over_words_and_told_apart_within_one() {
        let all = [0, 1, 3, 62, 63, 64, 65, 127, 129, 191, 192];
        let pages = of(&all);
        assert_eq!(numbers(&pages), all);
        let lengths: Vec<u64> = pages.ranges().iter().map(|range| range.size() >> 12).collect();
        assert_eq!(lengths, [2, 1, 4, 1, 1, 2]);
        assert!((0..200).all(|page| pages.contains(page << 12 | 0xfff) == all.contains(&page)));
    }

    #[test]
    fn the_last_page_of_all_is_cut_at_the_last_end() {
        let mut pages = DirtyPages::new(4096, vec![]).unwrap();
        pages.push_bitmap(!0xfff, &[1]);
        assert_eq!(pages.ranges(), [Range::between(!0xfff, u64::MAX)]);
    }

    #[test]
    fn sets_are_those_of_their_pages() {
        let (one, two) = (of(&[1, 2, 63, 64, 200]), of(&[2, 64, 65, 300]));
        assert_eq!(numbers(&one.union(&two).unwrap()), [1, 2, 63, 64, 65, 200, 300]);
        assert_eq!(numbers(&one.intersection(&two).unwrap()), [2, 64]);
        assert_eq!(numbers(&one.difference(&two).unwrap()), [1, 63, 200]);
        assert!(one.difference(&one).unwrap().is_empty());
        assert!(one.union(&DirtyPages::new(8192, vec![]).unwrap()).is_err());
    }

    #[test]
    fn clean_pages_between_are_taken_up_to_the_gap() {
        let pages = of(&[0, 2, 5, 70]);
        assert_eq!(numbers(&pages.coalesce(0)), numbers(&pages));
        assert_eq!(numbers(&pages.coalesce(1 << 12)), [0, 1, 2, 5, 70]);
        assert_eq!(numbers(&pages.coalesce(2 << 12)), [0, 1, 2, 3, 4, 5, 70]);
        assert_eq!(pages.coalesce(u64::MAX).count(), 71);
    }
}
