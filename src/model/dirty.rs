//! A set of dirty pages: the words of a bitmap over guest physical memory that are not zero, with stretches of full ones as one.

#![deny(clippy::disallowed_methods, reason = "sizes here are chosen by callers")]

use super::error::{Error, Result};
use super::int::usize_of;
use super::invalid::Invalid;
use super::range::{Range, joined};
use super::room::{self, Room};

const BITS: u64 = 64;
/// Sources are kinds of writers, of which there are few: KVM, a tracker, this package.
const MOST_SOURCES: usize = 64;
/// Words of a bitmap that are looked at together.
const STRETCH: usize = 64;

/// Pages that were written, as an immutable value.
///
/// A terabyte given as one range takes one block, and scattered pages take a word for each 64.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DirtyPages {
    page_size: u64,
    blocks: Vec<Block>,
    sources: Vec<String>,
    is_exact: bool,
}

/// Words of the bitmap that are alike. In a set they ascend, none is zero, only full words come in numbers, and full blocks that
/// touch are one: equal sets have equal blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Block {
    /// The index of the first word.
    index: u64,
    count: u64,
    bits: u64,
}

impl Block {
    const fn end(&self) -> u64 {
        // An index is below 2^58: 64 pages a word.
        self.index.wrapping_add(self.count)
    }

    /// The part from a word on, which lies inside.
    const fn from(self, index: u64) -> Self {
        Self { index, count: self.end().wrapping_sub(index), ..self }
    }
}

impl DirtyPages {
    /// No pages yet; the size of one is a power of two.
    pub fn new(page_size: u64, mut sources: Vec<String>) -> Result<Self> {
        if !page_size.is_power_of_two() {
            let message = format!("page_size {page_size} is not a power of two");
            return Err(Invalid::at(message, None, Some(page_size)).into());
        }
        sources.sort_unstable();
        sources.dedup();
        if sources.len() > MOST_SOURCES {
            let message = format!("there are {} sources, and DirtyPages has at most {MOST_SOURCES}", sources.len());
            return Err(Invalid::argument(message).into());
        }
        Ok(Self { page_size, blocks: Vec::new(), sources, is_exact: false })
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

    /// The same, with the word of those who saw the writes for it that all pages were written, and no other was by whom they see.
    #[must_use]
    pub const fn with_exactness(mut self, is_exact: bool) -> Self {
        self.is_exact = is_exact;
        self
    }

    /// Whether all of the pages were written, and all that were written by whom the sources see are there.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// The same in larger pages, each of which has one of these.
    pub fn resized(&self, page_size: u64) -> Result<Self> {
        if page_size < self.page_size {
            let message = format!("pages of {} bytes can't be told apart in pages of {page_size}", self.page_size);
            return Err(Invalid::at(message, None, Some(page_size)).into());
        }
        let mut resized =
            Self::new(page_size, self.sources.clone())?.with_exactness(self.is_exact && page_size == self.page_size);
        let mut reached = 0;
        for range in self.ranges()? {
            let pages = resized.pages_of(range);
            resized.push_pages(Range::between(reached.max(pages.base()), pages.end()))?;
            reached = reached.max(pages.end());
        }
        Ok(resized)
    }

    const fn shift(&self) -> u32 {
        self.page_size.trailing_zeros()
    }

    /// Adds a bitmap whose first bit is the page at `base`; bitmaps come by ascending base.
    pub fn push_bitmap(&mut self, base: u64, bitmap: &[u64]) -> Result<()> {
        let Position { word: first, bit, upper } = Position::of(base >> self.shift());
        let stretches = (first..).step_by(STRETCH).zip(bitmap.chunks(STRETCH));
        // Most of a log is clean: whole stretches are looked at together.
        for (first, stretch) in stretches.filter(|(_, stretch)| stretch.iter().fold(0, |all, word| all | word) != 0) {
            let places = (first..).zip((first..).skip(1));
            for (word, (index, next)) in stretch.iter().zip(places).filter(|(word, _)| **word != 0) {
                // The bits pushed out of this word are the low ones of the next.
                let rotated = word.rotate_left(bit);
                self.push_word(index, rotated & upper)?;
                self.push_word(next, rotated & !upper)?;
            }
        }
        Ok(())
    }

    fn push_word(&mut self, index: u64, bits: u64) -> Result<()> {
        self.push(Block { index, count: 1, bits })
    }

    /// Adds a block behind all others; a single word may also add to the last word that is there.
    fn push(&mut self, block: Block) -> Result<()> {
        match self.blocks.last().copied() {
            _ if block.bits == 0 => Ok(()),
            // A full word has these bits already.
            Some(last) if last.end() > block.index && last.bits == u64::MAX => Ok(()),
            Some(last) if last.end() > block.index => {
                self.blocks.pop();
                // Pushed anew, for a word that is full now may join those before it.
                self.push(Block { bits: last.bits | block.bits, ..block })
            }
            Some(last) if last.bits & block.bits == u64::MAX && last.end() == block.index => {
                self.blocks.pop();
                self.blocks.add(Block { count: block.end().wrapping_sub(last.index), ..last })
            }
            _ => self.blocks.add(block),
        }
    }

    /// The same with the pages of ranges, which must be whole pages; any order.
    pub fn with_ranges(mut self, mut ranges: Vec<Range>) -> Result<Self> {
        // Equal ones need no order, and a stable sort would need room.
        ranges.sort_unstable();
        // Ranges may overlap: pages that are there already are not pushed again, for words are only ever added at the end.
        let mut reached = 0;
        for range in ranges {
            if !range.base().is_multiple_of(self.page_size) || !range.size().is_multiple_of(self.page_size) {
                let message = format!("{range} is not of whole pages of {} bytes", self.page_size);
                let (address, size) = (Some(range.base()), Some(range.size()));
                return Err(Error::Misaligned { message, address, size, region: None });
            }
            let pages = self.pages_of(range);
            self.push_pages(Range::between(reached.max(pages.base()), pages.end()))?;
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

    fn push_pages(&mut self, pages: Range) -> Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        let (first, last) = (pages.base() / BITS, pages.last_addr() / BITS);
        let (low, high) = (u64::MAX << (pages.base() % BITS), u64::MAX >> (!pages.last_addr() % BITS));
        if first == last {
            return self.push_word(first, low & high);
        }
        self.push_word(first, low)?;
        let between = Range::between(first, last).size().wrapping_sub(1);
        if between > 0 {
            self.push(Block { index: last.wrapping_sub(between), count: between, bits: u64::MAX })?;
        }
        self.push_word(last, high)
    }

    /// The number of pages.
    #[must_use]
    pub fn count(&self) -> u64 {
        // No range reaches 2^64, so that there are fewer pages, and nothing wraps.
        self.blocks.iter().map(|block| block.count.wrapping_mul(block.bits.count_ones().into())).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether the page that holds an address is one of them.
    #[must_use]
    pub fn contains(&self, addr: u64) -> bool {
        let page = addr >> self.shift();
        self.word(page / BITS) >> (page % BITS) & 1 != 0
    }

    fn word(&self, index: u64) -> u64 {
        let behind = self.blocks.partition_point(|block| block.index <= index);
        let block = behind.checked_sub(1).and_then(|at| self.blocks.get(at));
        block.filter(|block| index < block.end()).map_or(0, |block| block.bits)
    }

    /// The bitmap of a range: a bit for each page that it touches.
    pub fn bitmap(&self, range: Range) -> Result<Vec<u64>> {
        let pages = self.pages_of(range);
        let Position { word: first, bit, upper } = Position::of(pages.base());
        let word = |(index, next)| (self.word(index) & upper | self.word(next) & !upper).rotate_right(bit);
        let count = usize_of(pages.size().div_ceil(BITS));
        let mut words = room::collected((first..).zip((first..).skip(1)).take(count).map(word))?;
        // Pages behind the range are not asked for.
        if let (Some(last), rest @ 1..) = (words.last_mut(), pages.size() % BITS) {
            *last &= !(u64::MAX << rest);
        }
        Ok(words)
    }

    /// The dirty pages among those that a range touches, counted from its first one.
    pub fn positions_in(&self, range: Range) -> Result<Vec<Range>> {
        let pages = self.pages_of(range);
        let mut all = Self::new(self.page_size, vec![])?;
        all.push_pages(pages)?;
        let mut runs = self.intersection(&all)?.ranges()?;
        let position = |page: u64| Range::between(pages.base(), page).size();
        for run in &mut runs {
            let pages = self.pages_of(*run);
            *run = Range::between(position(pages.base()), position(pages.end()));
        }
        Ok(runs)
    }

    /// How many pages a range touches.
    #[must_use]
    pub const fn pages_in(&self, range: Range) -> u64 {
        self.pages_of(range).size()
    }

    /// The pages as ranges that do not touch, ascending.
    pub fn ranges(&self) -> Result<Vec<Range>> {
        let runs = self.blocks.iter().flat_map(Runs::of);
        // The end of the very last page is beyond what a range can have, and is cut.
        let addresses = |(first, last): (u64, u64)| {
            Range::between(first << self.shift(), Range::at(last << self.shift(), self.page_size).end())
        };
        Ok(joined(room::collected(runs.map(addresses))?))
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
        let sources = self.sources().iter().chain(other.sources()).cloned().collect();
        let mut merged = Self::new(self.page_size, sources)?.with_exactness(self.is_exact && other.is_exact);
        let (mut mine, mut theirs) = (Cursor::new(self), Cursor::new(other));
        while let Some(index) = [mine.start(), theirs.start()].into_iter().flatten().min() {
            let ((left, most_left), (right, most_right)) = (mine.at(index), theirs.at(index));
            let count = most_left.min(most_right);
            merged.push(Block { index, count, bits: merge(left, right) })?;
            mine.skip_to(index.wrapping_add(count));
            theirs.skip_to(index.wrapping_add(count));
        }
        Ok(merged)
    }

    /// With the clean pages between two dirty ones that are at most `gap` bytes apart: fewer, longer ranges.
    pub fn coalesce(&self, gap: u64) -> Result<Self> {
        let mut result = Self { blocks: Vec::new(), sources: self.sources.clone(), is_exact: false, ..*self };
        let mut ranges = self.ranges()?.into_iter().peekable();
        while let Some(range) = ranges.next() {
            let mut end = range.end();
            while let Some(next) = ranges.next_if(|next| Range::between(end, next.base()).size() <= gap) {
                end = next.end();
            }
            result.push_pages(self.pages_of(Range::between(range.base(), end)))?;
        }
        Ok(result)
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

/// A walk through the blocks of a set, side by side with that of another.
struct Cursor<'a> {
    rest: std::slice::Iter<'a, Block>,
    block: Option<Block>,
}

impl<'a> Cursor<'a> {
    fn new(pages: &'a DirtyPages) -> Self {
        let mut rest = pages.blocks.iter();
        Self { block: rest.next().copied(), rest }
    }

    /// The next word that isn't zero.
    fn start(&self) -> Option<u64> {
        self.block.map(|block| block.index)
    }

    /// The word at an index that nothing before is left of, and how many from there on are like it.
    fn at(&self, index: u64) -> (u64, u64) {
        match self.block {
            Some(block) if block.index == index => (block.bits, block.count),
            Some(block) => (0, block.index.wrapping_sub(index)),
            // From here on all words are clean.
            None => (0, u64::MAX),
        }
    }

    fn skip_to(&mut self, index: u64) {
        match self.block {
            Some(block) if block.end() <= index => self.block = self.rest.next().copied(),
            Some(block) if block.index < index => self.block = Some(block.from(index)),
            _ => {}
        }
    }
}

/// The runs of dirty pages in a block, as the first and the last page of each.
struct Runs {
    word: u64,
    /// The page of the lowest bit, a multiple of 64.
    page: u64,
    /// The pages behind the first word, which are all dirty when there are any.
    more: u64,
}

impl Runs {
    const fn of(block: &Block) -> Self {
        let more = block.count.wrapping_sub(1) << BITS.ilog2();
        Self { word: block.bits, page: block.index << BITS.ilog2(), more }
    }
}

impl Iterator for Runs {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let lowest = self.word & self.word.wrapping_neg();
        // A carry from the lowest one clears its run; there is nothing left when that reaches the highest bit.
        let rest = self.word & self.word.checked_add(lowest).unwrap_or_default();
        let run = self.word & !rest;
        self.word = rest;
        let last = self.page | u64::from(run.checked_ilog2()?);
        Some((self.page | u64::from(run.trailing_zeros()), last.wrapping_add(self.more)))
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
            pages.push_bitmap(first << 12, &bitmap).unwrap();
            assert_eq!(pages.bitmap(Range::new(first << 12, 256 << 12).unwrap()).unwrap(), bitmap);
            assert_eq!(pages.count(), 68);
            assert_eq!(
                pages.clone(),
                DirtyPages::new(4096, vec![]).unwrap().with_ranges(pages.ranges().unwrap()).unwrap()
            );
        }
    }

    fn of(numbers: &[u64]) -> DirtyPages {
        let ranges: Vec<Range> = numbers.iter().map(|page| Range::at(page << 12, 1 << 12)).collect();
        DirtyPages::new(4096, vec![]).unwrap().with_ranges(ranges).unwrap()
    }

    fn numbers(pages: &DirtyPages) -> Vec<u64> {
        pages.ranges().unwrap().iter().flat_map(|range| range.base() >> 12..range.end() >> 12).collect()
    }

    #[test]
    fn a_long_range_is_a_few_blocks_and_a_full_word_joins_them() {
        let whole = DirtyPages::new(4096, vec![]).unwrap().with_ranges(vec![Range::at(1 << 12, 1 << 60)]).unwrap();
        assert_eq!((whole.blocks.len(), whole.count()), (3, 1 << 48));
        assert_eq!(whole.ranges().unwrap(), [Range::at(1 << 12, 1 << 60)]);
        let hole = of(&(6400..6464).collect::<Vec<_>>());
        let cut = whole.difference(&hole).unwrap();
        assert_eq!((cut.blocks.len(), cut.count()), (4, (1 << 48) - 64));
        assert!(!cut.contains(6400 << 12) && cut.contains(6464 << 12));
        assert_eq!(cut.union(&hole).unwrap(), whole);
        assert_eq!(whole.intersection(&hole).unwrap(), hole);
    }

    #[test]
    fn runs_are_joined_over_words_and_told_apart_within_one() {
        let all = [0, 1, 3, 62, 63, 64, 65, 127, 129, 191, 192];
        let pages = of(&all);
        assert_eq!(numbers(&pages), all);
        let lengths: Vec<u64> = pages.ranges().unwrap().iter().map(|range| range.size() >> 12).collect();
        assert_eq!(lengths, [2, 1, 4, 1, 1, 2]);
        assert!((0..200).all(|page| pages.contains(page << 12 | 0xfff) == all.contains(&page)));
    }

    #[test]
    fn the_last_page_of_all_is_cut_at_the_last_end() {
        let mut pages = DirtyPages::new(4096, vec![]).unwrap();
        pages.push_bitmap(!0xfff, &[1]).unwrap();
        assert_eq!(pages.ranges().unwrap(), [Range::between(!0xfff, u64::MAX)]);
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
        assert_eq!(numbers(&pages.coalesce(0).unwrap()), numbers(&pages));
        assert_eq!(numbers(&pages.coalesce(1 << 12).unwrap()), [0, 1, 2, 5, 70]);
        assert_eq!(numbers(&pages.coalesce(2 << 12).unwrap()), [0, 1, 2, 3, 4, 5, 70]);
        assert_eq!(pages.coalesce(u64::MAX).unwrap().count(), 71);
    }
}
