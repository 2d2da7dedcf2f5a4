//! Whole pages in a file, which bitmaps or tables number.

use std::iter;

use super::not_addresses;
use super::piece::Piece;
use crate::model::error::Result;
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::room::Room;

/// Frames of memory that Xen's dumps have no number for.
const NO_FRAME: [u64; 2] = [u32::MAX as u64, u64::MAX];

/// The pages whose bits are set among the first so many; they lie in the file one behind the other, from an offset on.
pub fn of_bitmap(bitmap: &[u8], count: u64, page_size: u64, at: u64, interrupt: &dyn Interrupt) -> Result<Vec<Piece>> {
    let (mut pages, mut at) = (Pages::of(page_size), at);
    for run in runs(words(bitmap), count) {
        interrupt.check()?;
        pages.add(run, Some(at))?;
        at = at.saturating_add(run.size().saturating_mul(page_size));
    }
    Ok(pages.pieces)
}

/// The pages whose numbers are those that the rows of a table begin with, in the order of the file.
pub fn of_table(table: &[u8], row: usize, page_size: u64, at: u64, interrupt: &dyn Interrupt) -> Result<Vec<Piece>> {
    let (mut pages, mut at) = (Pages::of(page_size), at);
    for row in table.chunks_exact(row.max(1)) {
        interrupt.check()?;
        let number = row.first_chunk().copied().map_or(u64::MAX, u64::from_le_bytes);
        if !NO_FRAME.contains(&number) {
            pages.add(Range::at(number, 1), Some(at))?;
        }
        at = at.saturating_add(page_size);
    }
    Ok(pages.pieces)
}

/// The pages that a kdump has, each in the place of its own address, and those that its memory had and that were left out.
pub fn of_kdump(
    there: &[u8],
    stored: &[u8],
    count: u64,
    page_size: u64,
    interrupt: &dyn Interrupt,
) -> Result<Vec<Piece>> {
    let mut pages = Pages::of(page_size);
    for run in runs(words(stored), count) {
        interrupt.check()?;
        pages.add(run, Some(run.base().saturating_mul(page_size)))?;
    }
    let left_out = words(there).zip(words(stored)).map(|(there, stored)| there & !stored);
    for run in runs(left_out, count) {
        interrupt.check()?;
        pages.add(run, None)?;
    }
    Ok(pages.pieces)
}

/// Pieces of whole pages, of which those that go on are one.
struct Pages {
    size: u64,
    pieces: Vec<Piece>,
}

impl Pages {
    const fn of(size: u64) -> Self {
        Self { size, pieces: Vec::new() }
    }

    /// Takes in a range of page numbers.
    fn add(&mut self, numbers: Range, at: Option<u64>) -> Result<()> {
        let (base, size) = (numbers.base().saturating_mul(self.size), numbers.size().saturating_mul(self.size));
        let range = Range::new(base, size).map_err(|_| not_addresses(base, size))?;
        let piece = Piece { range, at };
        match self.pieces.last_mut() {
            Some(last) if last.goes_on_in(&piece) => last.range = Range::between(last.range.base(), range.end()),
            _ => self.pieces.add(piece)?,
        }
        Ok(())
    }
}

/// The bits of a map: bit 0 of byte 0 is the first.
fn words(bitmap: &[u8]) -> impl Iterator<Item = u64> {
    bitmap.chunks(8).map(|bytes| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
}

/// The runs of ones in each word, among the first so many bits.
fn runs(words: impl Iterator<Item = u64>, count: u64) -> impl Iterator<Item = Range> {
    let all = Range::between(0, count);
    let in_words = (0u64..).step_by(64).zip(words).flat_map(|(first, word)| ones(word, first));
    in_words.map(move |run| run.intersection(&all)).filter(|run| !run.is_empty())
}

/// The runs of ones in a word whose first bit has a number.
fn ones(mut word: u64, first: u64) -> impl Iterator<Item = Range> {
    iter::from_fn(move || {
        let start = word.trailing_zeros();
        let length = word.checked_shr(start)?.trailing_ones();
        word &= u64::MAX.checked_shl(start.saturating_add(length)).unwrap_or_default();
        Some(Range::at(first.saturating_add(start.into()), length.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::interrupt::Uninterrupted;

    fn piece(base: u64, size: u64, at: Option<u64>) -> Piece {
        Piece { range: Range::at(base, size), at }
    }

    #[test]
    fn pages_of_a_bitmap_lie_one_behind_the_other() {
        let mut bitmap = [0; 17];
        (bitmap[0], bitmap[7], bitmap[8], bitmap[16]) = (0b101, 0x80, 0b1, 0xff);
        let expected = [piece(0, 16, Some(7)), piece(32, 16, Some(23)), piece(63 * 16, 32, Some(39))];
        let expected = [&expected[..], &[piece(128 * 16, 32, Some(71))]].concat();
        assert_eq!(of_bitmap(&bitmap, 130, 16, 7, &Uninterrupted).unwrap(), expected);
        assert_eq!(of_bitmap(&[0xff; 16], 128, 16, 0, &Uninterrupted).unwrap(), [piece(0, 2048, Some(0))]);
        assert_eq!(of_bitmap(&bitmap, 0, 16, 7, &Uninterrupted).unwrap(), []);
    }

    #[test]
    fn pages_of_a_table_go_on_where_numbers_do() {
        let table: Vec<u8> = [5, 6, u32::MAX.into(), 7, u64::MAX, 1].into_iter().flat_map(u64::to_le_bytes).collect();
        let expected = [piece(80, 32, Some(0)), piece(112, 16, Some(48)), piece(16, 16, Some(80))];
        assert_eq!(of_table(&table, 8, 16, 0, &Uninterrupted).unwrap(), expected);
        assert!(of_table(&[0x7f; 8], 8, 4096, 0, &Uninterrupted).is_err());
    }

    #[test]
    fn pages_that_a_kdump_left_out_are_known() {
        let expected = [piece(16, 16, Some(16)), piece(0, 16, None), piece(32, 16, None)];
        assert_eq!(of_kdump(&[0b111], &[0b010], 8, 16, &Uninterrupted).unwrap(), expected);
    }
}
