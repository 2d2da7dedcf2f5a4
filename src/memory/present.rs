//! The pages of a mapping that are known to be there.

use std::ops::Range;

use crate::model::error::Result;
use crate::model::int::u64_of;
use crate::model::room;
use crate::sys::sync::{AtomicU64, Ordering};

/// A bit for each page, or for each block of pages. One of huge pages stays set: those go only when others can take them, and from
/// then on nobody asks.
#[derive(Debug)]
pub struct PresentPages(Box<[AtomicU64]>);

impl PresentPages {
    /// None of so many pages.
    pub fn new(pages: usize) -> Result<Self> {
        Ok(Self(room::collected((0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)))?.into()))
    }

    /// Notes that pages were brought in.
    pub fn mark(&self, pages: Range<usize>) {
        for (word, bits) in self.words(pages) {
            word.fetch_or(bits, Ordering::AcqRel);
        }
    }

    /// Notes that pages are gone, or may be.
    pub fn clear(&self, pages: Range<usize>) {
        for (word, bits) in self.words(pages) {
            word.fetch_and(!bits, Ordering::AcqRel);
        }
    }

    /// Whether all of the pages were.
    pub fn has(&self, pages: Range<usize>) -> bool {
        self.words(pages).all(|(word, bits)| word.load(Ordering::Acquire) & bits == bits)
    }

    /// The words that some pages have bits in, with these.
    fn words(&self, pages: Range<usize>) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let (first, last) = (pages.start / 64, pages.end.div_ceil(64));
        let words = self.0.iter().enumerate().take(last).skip(first);
        words.map(move |(index, word)| {
            let base = index.saturating_mul(64);
            let low = u64_of(pages.start.saturating_sub(base)).min(64);
            let high = u64_of(pages.end.saturating_sub(base)).min(64);
            (word, below(high) & !below(low))
        })
    }
}

/// The lowest bits.
fn below(count: u64) -> u64 {
    u64::MAX.checked_shr(u32::try_from(64u64.saturating_sub(count)).unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_there_once_each_of_them_is_marked() {
        let ranges = || (0..200usize).step_by(7).flat_map(|start| (start..200).step_by(9).map(move |end| start..end));
        for marked in ranges() {
            let pages = PresentPages::new(200).unwrap();
            pages.mark(marked.clone());
            for asked in ranges() {
                let expected = asked.clone().all(|page| marked.contains(&page));
                assert_eq!(pages.has(asked.clone()), expected, "{asked:?} of {marked:?}");
            }
            pages.clear(marked.clone());
            assert!(!marked.clone().any(|page| pages.has(page..page + 1)));
        }
    }
}
