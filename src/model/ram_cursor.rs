//! The place of a plan's RAM: round the holes, upwards.

use super::format::size as size_text;
use super::range::Range;

/// The place of the next RAM, which only ever moves up.
#[derive(Debug)]
pub struct RamCursor {
    at: u64,
    /// Below a hole, less than this much is left unused.
    min_split: u64,
    mem_end: u64,
    /// Where RAM can't lie, sorted and joined.
    holes: Vec<Range>,
}

impl RamCursor {
    /// A cursor at the beginning of the RAM's bounds.
    #[must_use]
    pub const fn new(ram: Range, holes: Vec<Range>, min_split: u64) -> Self {
        Self { at: ram.base(), min_split, mem_end: ram.end(), holes }
    }

    /// Moves up to a whole page. Where RAM lies before it, the bytes that this leaves out, and those that RAM has too many.
    pub fn align(&mut self, page_size: u64) -> Option<(u64, u64)> {
        let from = self.at;
        self.at = from.checked_next_multiple_of(page_size).unwrap_or(u64::MAX);
        let next_hole = self.holes.iter().find(|hole| hole.end() >= from);
        let left_out = Range::between(from, next_hole.map_or(self.at, |hole| hole.base().min(self.at))).size();
        let too_many = from.checked_rem(page_size).unwrap_or_default();
        (left_out > 0).then_some((left_out, too_many))
    }

    /// Ranges for `size` bytes with the reason for each; `Err` with the bytes that do not fit.
    pub fn take(
        &mut self,
        size: u64,
        page_size: u64,
        found: &mut Vec<(Range, String)>,
    ) -> std::result::Result<(), u64> {
        let mut left = size;
        let mut split = None;
        while left > 0 {
            let next = self.holes.iter().find(|hole| hole.end() > self.at).copied();
            let room_end = next.map_or(self.mem_end, |hole| hole.base().min(self.mem_end));
            let room = Range::between(self.at, room_end);
            if let Some(rest) = room.size().checked_sub(left) {
                let reason = split.map_or_else(
                    || format!("all of its {}", size_text(size)),
                    |hole| format!("the rest of its {}, behind the hole {hole}", size_text(size)),
                );
                found.push((room.take(left), reason));
                self.at = room.last(rest).base();
                return Ok(());
            }
            let Some(hole) = next.filter(|hole| hole.end() < self.mem_end) else { return Err(left) };
            // Below a hole only whole pages can be used, and a rest too small to be worth a region is left out, as the original does.
            let usable = room.take(room.size() & !page_size.wrapping_sub(1));
            if !usable.is_empty() && usable.size() >= self.min_split {
                found.push((usable, format!("as much of its {} as fits below the hole {hole}", size_text(size))));
                left = left.abs_diff(usable.size());
            }
            self.at = hole.end().checked_next_multiple_of(page_size).unwrap_or(u64::MAX);
            split = Some(hole);
        }
        Ok(())
    }
}
