//! Finds room among ranges that are taken: first, last, best or exact fit, with alignment, bounds and guard gaps.

use super::error::{Error, Result, Shortage};
use super::format::{hex, size as size_text};
use super::invalid::{Invalid, Kind};
use super::range::Range;

/// Which of the places that would do is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The lowest.
    First,
    /// The highest.
    Last,
    /// The lowest place in the smallest hole that is large enough.
    Best,
}

impl Policy {
    /// Parses `"first"`, `"last"` or `"best"`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "first" => Ok(Self::First),
            "last" => Ok(Self::Last),
            "best" => Ok(Self::Best),
            _ => {
                Err(Invalid::unknown(Kind::Argument, "policy", format_args!("{text:?}"), ["first", "last", "best"])
                    .into())
            }
        }
    }
}

/// What room is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The number of bytes, above 0.
    pub size: u64,
    /// A power of two that the base is a multiple of.
    pub align: u64,
    /// Bytes that stay free between the result and what is taken.
    pub guard_gap: u64,
    /// Which place is preferred.
    pub policy: Policy,
}

impl Wanted {
    /// Refuses sizes and alignments that nothing can have.
    pub fn check(&self) -> Result<()> {
        if self.size == 0 {
            return Err(Invalid::number("room for 0 bytes was asked for: the size must be above 0").into());
        }
        if !self.align.is_power_of_two() {
            return Err(Invalid::number(format!("align {} is not a power of two", hex(self.align))).into());
        }
        Ok(())
    }

    /// The base of a place, or why there is none.
    ///
    /// `rooms` are the sorted, disjoint bounds, `taken` the sorted, disjoint ranges in use.
    pub fn place(&self, rooms: &[Range], taken: &[Range]) -> Result<u64> {
        let mut search = Search::new(self);
        holes(rooms, taken, self.guard_gap, |hole| search.look(hole));
        search.result(rooms)
    }

    /// The base in a hole that the policy prefers.
    fn base_in(&self, hole: Range) -> Option<u64> {
        let mask = self.align.wrapping_sub(1);
        let base = match self.policy {
            Policy::Last => hole.end().checked_sub(self.size)? & !mask,
            Policy::First | Policy::Best => hole.base().checked_add(mask)? & !mask,
        };
        let fits = base >= hole.base() && base.checked_add(self.size)? <= hole.end();
        fits.then_some(base)
    }
}

/// The parts of the rooms that are not taken and keep the gap to what is. Stops when `look` gives `false`.
fn holes(rooms: &[Range], taken: &[Range], gap: u64, mut look: impl FnMut(Range) -> bool) {
    for room in rooms {
        let mut base = room.base();
        let first = taken.partition_point(|range| range.end().saturating_add(gap) <= room.base());
        for range in taken.get(first..).unwrap_or_default() {
            if range.base().saturating_sub(gap) >= room.end() {
                break;
            }
            let hole = Range::between(base, range.base().saturating_sub(gap));
            base = base.max(range.end().saturating_add(gap));
            if !hole.is_empty() && !look(hole) {
                return;
            }
        }
        let hole = Range::between(base, room.end());
        if !hole.is_empty() && !look(hole) {
            return;
        }
    }
}

/// The best place so far, and what explains that there is none.
struct Search<'a> {
    wanted: &'a Wanted,
    found: Option<(u64, u64)>,
    free: u64,
    largest: u64,
}

impl<'a> Search<'a> {
    const fn new(wanted: &'a Wanted) -> Self {
        Self { wanted, found: None, free: 0, largest: 0 }
    }

    /// Whether a better place may follow.
    fn look(&mut self, hole: Range) -> bool {
        self.free = self.free.saturating_add(hole.size());
        self.largest = self.largest.max(hole.size());
        let Some(base) = self.wanted.base_in(hole) else { return true };
        match self.wanted.policy {
            Policy::First => self.found = Some((base, hole.size())),
            Policy::Last => self.found = Some((base, hole.size())),
            Policy::Best if self.found.is_none_or(|(_, size)| hole.size() < size) => {
                self.found = Some((base, hole.size()))
            }
            Policy::Best => {}
        }
        self.wanted.policy != Policy::First
    }

    fn result(self, rooms: &[Range]) -> Result<u64> {
        self.found.map(|(base, _)| base).ok_or_else(|| no_room(self.wanted, rooms, self.free, self.largest))
    }
}

fn no_room(wanted: &Wanted, rooms: &[Range], free: u64, largest: u64) -> Error {
    let bounds: Vec<String> = rooms.iter().take(4).map(ToString::to_string).collect();
    let bounds = if bounds.is_empty() { "the bounds, which are empty".into() } else { bounds.join(", ") };
    let gap =
        if wanted.guard_gap > 0 { format!(" beside gaps of {}", size_text(wanted.guard_gap)) } else { String::new() };
    let asked = format!("no room for {} ({}) in {bounds}{gap}", size_text(wanted.size), hex(wanted.size));
    let (total, hole) = (size_text(free), size_text(largest));
    let numbers = Shortage { size: wanted.size, free, largest, align: wanted.align };
    if free < wanted.size {
        return Error::NoSpace { message: format!("{asked}: {total} are free in all"), shortage: numbers };
    }
    if largest < wanted.size {
        let message = format!("{asked}: {total} are free, but fragmented, the largest hole has {hole}");
        return Error::Fragmented { message, shortage: numbers };
    }
    let message =
        format!("{asked}: holes of up to {hole} are free, but none holds it at a multiple of {}", hex(wanted.align));
    Error::AlignmentImpossible { message, shortage: numbers }
}

/// `rooms` without `windows`; both sorted, the result too.
#[must_use]
pub fn without(rooms: &[Range], windows: &[Range]) -> Vec<Range> {
    let mut left = Vec::new();
    holes(rooms, windows, 0, |hole| {
        left.push(hole);
        true
    });
    left
}

/// `rooms` cut to the addresses from `low` to `high`.
#[must_use]
pub fn within(rooms: &[Range], low: u64, high: u64) -> Vec<Range> {
    let cut = rooms.iter().map(|room| Range::between(room.base().max(low), room.end().min(high)));
    cut.filter(|room| !room.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(base: u64, end: u64) -> Range {
        Range::between(base, end)
    }

    fn place(policy: Policy, size: u64, align: u64, guard_gap: u64) -> Result<u64> {
        let taken = [range(0, 0x10), range(0x18, 0x20), range(0x60, 0x70)];
        Wanted { size, align, guard_gap, policy }.place(&[range(0, 0x100)], &taken)
    }

    #[test]
    fn policies_choose_their_hole() {
        assert_eq!(place(Policy::First, 8, 1, 0).unwrap(), 0x10);
        assert_eq!(place(Policy::First, 9, 1, 0).unwrap(), 0x20);
        assert_eq!(place(Policy::Last, 8, 1, 0).unwrap(), 0xf8);
        assert_eq!(place(Policy::Best, 0x10, 0x10, 0).unwrap(), 0x20);
        assert_eq!(place(Policy::First, 8, 1, 1).unwrap(), 0x21);
    }

    #[test]
    fn refusals_are_told_apart() {
        assert!(matches!(place(Policy::First, 0x100, 1, 0), Err(Error::NoSpace { .. })));
        assert!(matches!(place(Policy::First, 0xa0, 1, 0), Err(Error::Fragmented { .. })));
        assert!(matches!(place(Policy::First, 0x90, 0x80, 0), Err(Error::AlignmentImpossible { .. })));
    }

    #[test]
    fn the_last_address_can_be_had_and_nothing_wraps() {
        let wanted = Wanted { size: 1, align: 1 << 63, guard_gap: u64::MAX, policy: Policy::Last };
        assert_eq!(wanted.place(&[range(0, u64::MAX)], &[]).unwrap(), 1 << 63);
        assert!(wanted.place(&[range(0, u64::MAX)], &[range(5, 6)]).is_err());
    }
}
