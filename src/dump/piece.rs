//! Pieces of guest memory in a file: in order, joined, and refused where they contradict each other.

use super::wrong;
use crate::model::error::Result;
use crate::model::range::{Range, joined as joined_ranges};
use crate::model::room::{self, Room};

/// Some guest physical addresses, and where their bytes begin in the file; `None` where the dump lacks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The addresses.
    pub range: Range,
    /// The offset.
    pub at: Option<u64>,
}

impl Piece {
    /// The distance of file and memory, as a number that wraps, which pieces have in common that go on in both alike.
    fn shift(&self) -> Option<u64> {
        self.at.map(|at| at.wrapping_sub(self.range.base()))
    }

    /// Whether another piece begins where this one ends, in file and memory alike.
    pub(super) fn goes_on_in(&self, other: &Self) -> bool {
        self.range.end() == other.range.base() && self.shift() == other.shift()
    }

    /// The piece as far as a file of some size has it, and the rest, which the dump then lacks.
    fn within(self, file_size: u64) -> [Self; 2] {
        let there = self.at.map_or(0, |at| file_size.saturating_sub(at));
        let stored = Self { range: self.range.take(there), ..self };
        [stored, Self { range: self.range.skip(there), at: None }]
    }
}

/// The pieces as far as a file of some size has them; what it lacks is refused, unless `is_partial`.
pub fn checked(pieces: Vec<Piece>, file_size: u64, is_partial: bool) -> Result<Vec<Piece>> {
    let is_cut = |piece: &&Piece| piece.at.is_some_and(|at| file_size.saturating_sub(at) < piece.range.size());
    let Some(cut) = pieces.iter().find(is_cut) else { return Ok(pieces) };
    if !is_partial {
        return Err(truncated(cut, file_size));
    }
    let parts = pieces.iter().flat_map(|piece| piece.within(file_size));
    room::collected(parts.filter(|part| !part.range.is_empty()))
}

fn truncated(piece: &Piece, file_size: u64) -> crate::model::error::Error {
    let (at, range) = (piece.at.unwrap_or_default(), shown(piece.range));
    let end = at.saturating_add(piece.range.size());
    let missing = end.saturating_sub(file_size.max(at));
    let what = format!("truncated: of the memory {range}, [{at:#x}, {end:#x}), {missing:#x} bytes are missing");
    wrong(format!("{what}; the file has {file_size:#x}"), Some(at))
}

/// The pieces by address, with one for what goes on. The same bytes twice are taken once, other ones at one address are refused.
pub fn joined(mut pieces: Vec<Piece>) -> Result<Vec<Piece>> {
    pieces.sort_unstable_by_key(|piece| (piece.range.base(), piece.range.size()));
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match joined.last_mut() {
            Some(last) if piece.range.base() <= last.range.end() && piece.shift() == last.shift() => {
                last.range = Range::between(last.range.base(), last.range.end().max(piece.range.end()));
            }
            Some(last) if piece.range.base() < last.range.end() => {
                let (last, piece) = (shown(last.range), shown(piece.range));
                return Err(wrong(format!("{last} and {piece} overlap, and are not the same bytes"), None));
            }
            _ => joined.add(piece)?,
        }
    }
    Ok(joined)
}

/// The ranges of pieces, where those that touch are one.
pub fn covered<'a>(pieces: impl Iterator<Item = &'a Piece>) -> Result<Vec<Range>> {
    Ok(joined_ranges(room::collected(pieces.map(|piece| piece.range))?))
}

/// At most so many ranges that have all of some ascending ones in them, and of what lies between those the smallest gaps.
pub fn folded(ranges: &[Range], most: usize) -> Result<Vec<Range>> {
    let pairs = ranges.iter().zip(ranges.iter().skip(1));
    let mut gaps = room::collected(pairs.map(|(before, behind)| Range::between(before.end(), behind.base())))?;
    gaps.sort_unstable_by_key(|gap| std::cmp::Reverse(gap.size()));
    gaps.truncate(most.saturating_sub(1));
    gaps.sort_unstable();
    let (first, last) = (ranges.first().map_or(0, Range::base), ranges.last().map_or(0, Range::end));
    let starts = std::iter::once(first).chain(gaps.iter().map(Range::end));
    let ends = gaps.iter().map(Range::base).chain(std::iter::once(last));
    room::collected(starts.zip(ends).map(|(start, end)| Range::between(start, end)))
}

/// A range as errors about a file show it.
fn shown(range: Range) -> String {
    format!("[{:#x}, {:#x})", range.base(), range.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(base: u64, size: u64, at: Option<u64>) -> Piece {
        Piece { range: Range::at(base, size), at }
    }

    #[test]
    fn pieces_that_go_on_are_one_and_others_at_one_address_are_refused() {
        let all = vec![piece(8, 4, Some(108)), piece(0, 8, Some(100)), piece(12, 4, Some(0)), piece(16, 4, None)];
        let one = [piece(0, 12, Some(100)), piece(12, 4, Some(0)), piece(16, 4, None)];
        assert_eq!(joined(all).unwrap(), one);
        // The same bytes twice, and part of them once more.
        let twice = vec![piece(0, 8, Some(100)), piece(0, 8, Some(100)), piece(4, 2, Some(104))];
        assert_eq!(joined(twice).unwrap(), [piece(0, 8, Some(100))]);
        assert!(joined(vec![piece(0, 8, Some(100)), piece(4, 2, Some(100))]).is_err());
    }

    #[test]
    fn what_a_file_lacks_is_refused_or_not_in_the_dump() {
        let all = vec![piece(0, 8, Some(96)), piece(8, 8, Some(200))];
        assert!(checked(all.clone(), 100, false).is_err());
        let parts = [piece(0, 4, Some(96)), piece(4, 4, None), piece(8, 8, None)];
        assert_eq!(checked(all.clone(), 100, true).unwrap(), parts);
        assert_eq!(checked(all.clone(), 208, false).unwrap(), all);
    }

    #[test]
    fn the_largest_gaps_stay() {
        let ranges = [(0, 4), (5, 9), (20, 24), (26, 30)].map(|(base, end)| Range::between(base, end));
        let expected: [&[(u64, u64)]; 3] = [&[(0, 30)], &[(0, 9), (20, 30)], &[(0, 9), (20, 24), (26, 30)]];
        for (most, expected) in (1..).zip(expected) {
            let found: Vec<_> =
                folded(&ranges, most).unwrap().iter().map(|range| (range.base(), range.end())).collect();
            assert_eq!(found, expected);
        }
    }
}
