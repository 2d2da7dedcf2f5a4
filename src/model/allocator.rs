//! Finds room among ranges that are taken: first, last, best or exact fit, with alignment, bounds and guard gaps.

use super::error::{Error, Result, Shortage};
use super::format::{hex, size as size_text};
use super::invalid::Invalid;
use super::range::Range;

/// Which of the places that would do is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FitPolicy {
    /// The lowest.
    First,
    /// The highest.
    Last,
    /// The lowest place in the smallest hole that is large enough.
    Best,
}

impl FitPolicy {
    /// Parses `"first"`, `"last"` or `"best"`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Invalid::named("policy", text, [("first", Self::First), ("last", Self::Last), ("best", Self::Best)])
    }
}

/// A request for room.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The number of bytes, above 0.
    pub size: u64,
    /// A power of two that the base is a multiple of.
    pub align: u64,
    /// Bytes that stay free between the result and the ranges in use.
    pub guard_gap: u64,
    /// Which place is preferred.
    pub policy: FitPolicy,
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

    /// The addresses, or why there are none.
    ///
    /// `rooms` are the sorted, disjoint bounds, `taken` the sorted, disjoint ranges in use.
    pub fn place(&self, rooms: &[Range], taken: &[Range]) -> Result<Range> {
        let holes = || holes(rooms, taken, self.guard_gap);
        let mut places = holes().filter_map(|hole| Some((self.in_hole(hole)?, hole.size())));
        let found = match self.policy {
            FitPolicy::First => places.next(),
            FitPolicy::Last => places.last(),
            // The first of equal holes, which is the lowest.
            FitPolicy::Best => places.min_by_key(|(_, size)| *size),
        };
        found.map(|(place, _)| place).ok_or_else(|| self.no_room(rooms, holes()))
    }

    /// The addresses in a hole that the policy prefers.
    fn in_hole(&self, hole: Range) -> Option<Range> {
        // At least 1, being a power of two: nothing wraps.
        let mask = self.align.wrapping_sub(1);
        // Rounding up may pass 2^64, and rounding down the begin of the hole: the place is checked against the hole at the end.
        let base = match self.policy {
            FitPolicy::Last => hole.end().checked_sub(self.size)? & !mask,
            FitPolicy::First | FitPolicy::Best => hole.base().checked_add(mask)? & !mask,
        };
        Range::new(base, self.size).ok().filter(|place| hole.covers(place))
    }

    fn no_room(&self, rooms: &[Range], holes: impl Iterator<Item = Range>) -> Error {
        let sizes: Vec<u64> = holes.map(|hole| hole.size()).collect();
        // Holes are disjoint: together they have no more bytes than there are addresses.
        let (free, largest) = (sizes.iter().sum(), sizes.iter().copied().max().unwrap_or_default());
        let shortage = Shortage { size: self.size, free, largest, align: self.align };
        let (asked, total, hole) = (self.asked(rooms), size_text(free), size_text(largest));
        if free < self.size {
            return Error::NoSpace { message: format!("{asked}: {total} are free in all"), shortage };
        }
        if largest < self.size {
            let message = format!("{asked}: {total} are free, but fragmented, the largest hole has {hole}");
            return Error::Fragmented { message, shortage };
        }
        let align = hex(self.align);
        let message = format!("{asked}: holes of up to {hole} are free, but none holds it at a multiple of {align}");
        Error::AlignmentImpossible { message, shortage }
    }

    fn asked(&self, rooms: &[Range]) -> String {
        let bounds: Vec<String> = rooms.iter().take(4).map(ToString::to_string).collect();
        let bounds = if bounds.is_empty() { "the bounds, which are empty".into() } else { bounds.join(", ") };
        let size = format!("{} ({})", size_text(self.size), hex(self.size));
        match self.guard_gap {
            0 => format!("no room for {size} in {bounds}"),
            gap => format!("no room for {size} in {bounds} beside gaps of {}", size_text(gap)),
        }
    }
}

/// The parts of the rooms that are free and keep the gap to the ranges in use, ascending.
fn holes<'a>(rooms: &'a [Range], taken: &'a [Range], gap: u64) -> impl Iterator<Item = Range> + 'a {
    rooms.iter().flat_map(move |room| {
        // The ranges are disjoint, so that their ends ascend as their bases do: those before the room are skipped by bisection.
        let first = taken.partition_point(|range| range.widened(gap).end() <= room.base());
        let blocked = taken.get(first..).unwrap_or_default().iter().map(move |range| range.widened(gap));
        // The room's end closes the last hole.
        let behind = Range::between(room.end(), room.end());
        let blocked = blocked.take_while(|blocked| blocked.base() < room.end()).chain([behind]);
        let holes = blocked.scan(room.base(), |reached, blocked| {
            // Widened ranges may overlap: then this is empty, and filtered out below.
            let hole = Range::between(*reached, blocked.base());
            *reached = blocked.end();
            Some(hole)
        });
        holes.filter(|hole| !hole.is_empty())
    })
}

/// `rooms` without `windows`; both sorted, the result too.
#[must_use]
pub fn without(rooms: &[Range], windows: &[Range]) -> Vec<Range> {
    holes(rooms, windows, 0).collect()
}

/// `rooms` cut to the addresses from `low` to `high`.
#[must_use]
pub fn within(rooms: &[Range], low: u64, high: u64) -> Vec<Range> {
    let bounds = Range::between(low, high);
    rooms.iter().map(|room| room.intersection(&bounds)).filter(|room| !room.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(base: u64, end: u64) -> Range {
        Range::between(base, end)
    }

    fn place(policy: FitPolicy, size: u64, align: u64, guard_gap: u64) -> Result<u64> {
        let taken = [range(0, 0x10), range(0x18, 0x20), range(0x60, 0x70)];
        Wanted { size, align, guard_gap, policy }.place(&[range(0, 0x100)], &taken).map(|place| place.base())
    }

    #[test]
    fn policies_choose_their_hole() {
        assert_eq!(place(FitPolicy::First, 8, 1, 0).unwrap(), 0x10);
        assert_eq!(place(FitPolicy::First, 9, 1, 0).unwrap(), 0x20);
        assert_eq!(place(FitPolicy::Last, 8, 1, 0).unwrap(), 0xf8);
        assert_eq!(place(FitPolicy::Best, 0x10, 0x10, 0).unwrap(), 0x20);
        assert_eq!(place(FitPolicy::First, 8, 1, 1).unwrap(), 0x21);
    }

    #[test]
    fn refusals_are_told_apart() {
        assert!(matches!(place(FitPolicy::First, 0x100, 1, 0), Err(Error::NoSpace { .. })));
        assert!(matches!(place(FitPolicy::First, 0xa0, 1, 0), Err(Error::Fragmented { .. })));
        assert!(matches!(place(FitPolicy::First, 0x90, 0x80, 0), Err(Error::AlignmentImpossible { .. })));
    }

    #[test]
    fn the_last_address_can_be_had_and_nothing_wraps() {
        let wanted = Wanted { size: 1, align: 1 << 63, guard_gap: u64::MAX, policy: FitPolicy::Last };
        assert_eq!(wanted.place(&[range(0, u64::MAX)], &[]).unwrap(), Range::at(1 << 63, 1));
        assert!(wanted.place(&[range(0, u64::MAX)], &[range(5, 6)]).is_err());
    }

    #[test]
    fn equal_holes_are_filled_from_below() {
        let taken = [range(0, 8), range(0x10, 0x18), range(0x20, 0x80)];
        let wanted = |policy| Wanted { size: 4, align: 1, guard_gap: 0, policy };
        let place = |policy| wanted(policy).place(&[range(0, 0x80)], &taken).unwrap().base();
        assert_eq!([FitPolicy::First, FitPolicy::Best, FitPolicy::Last].map(place), [8, 8, 0x1c]);
    }

    /// Every base is tried by hand: none that would do is missed, and the one found is the policy's.
    #[test]
    fn a_place_is_found_whenever_there_is_one() {
        let (rooms, taken) = ([range(2, 9), range(10, 20)], [range(0, 3), range(5, 6), range(13, 15)]);
        for (size, align, guard_gap) in (1..8)
            .flat_map(|size| [1, 2, 4].into_iter().flat_map(move |align| (0..3).map(move |gap| (size, align, gap))))
        {
            let fits = |base: &u64| {
                let place = range(*base, base + size);
                base.is_multiple_of(align)
                    && rooms.iter().any(|room| room.covers(&place))
                    && !taken.iter().any(|taken| taken.widened(guard_gap).overlaps(&place))
            };
            let all: Vec<u64> = (0..24).filter(fits).collect();
            let place =
                |policy| Wanted { size, align, guard_gap, policy }.place(&rooms, &taken).ok().map(|place| place.base());
            assert_eq!(place(FitPolicy::First), all.first().copied(), "{size} {align} {guard_gap}");
            assert_eq!(place(FitPolicy::Last), all.last().copied(), "{size} {align} {guard_gap}");
            assert_eq!(place(FitPolicy::Best).is_some(), !all.is_empty(), "{size} {align} {guard_gap}");
        }
    }

    #[test]
    fn a_shortage_has_the_numbers() {
        let Err(Error::Fragmented { shortage, message }) = place(FitPolicy::First, 0xa0, 1, 1) else { panic!() };
        assert_eq!((shortage.free, shortage.largest), (0x6 + 0x3e + 0x8f, 0x8f));
        assert!(message.starts_with("no room for 160 B (0xa0) in [0x0, 0x100) beside gaps of 1 B: "), "{message}");
    }
}
