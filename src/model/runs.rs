//! Runs: stretches of guest addresses that show one stretch of a memory, and the slots of a machine that follow them.

use super::allocator::without;
use super::ids::StorageId;
use super::range::Range;

/// Guest addresses that show bytes of one storage, one after the other, under the same flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The addresses.
    pub guest: Range,
    /// Whose bytes.
    pub storage: StorageId,
    /// The offset of the first.
    pub at: u64,
    /// The same for all of it.
    pub flags: u32,
}

impl Run {
    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> Range {
        Range::at(self.at, self.guest.size())
    }

    /// The part that lies at some of its addresses.
    #[must_use]
    pub fn at_addresses(&self, range: &Range) -> Self {
        let guest = self.guest.intersection(range);
        Self { guest, at: self.bytes().skip(guest.base().abs_diff(self.guest.base())).base(), ..*self }
    }

    /// The parts that lie in ranges, which ascend and do not touch.
    pub fn within<'a>(&self, ranges: &'a [Range]) -> impl Iterator<Item = Self> + use<'a> {
        let (run, first) = (*self, ranges.partition_point(|range| range.end() <= self.guest.base()));
        let touching = ranges.iter().skip(first).take_while(move |range| range.base() < run.guest.end());
        touching.map(move |range| run.at_addresses(range))
    }

    /// The same bytes from another address on.
    #[must_use]
    pub const fn moved(&self, base: u64) -> Self {
        Self { guest: Range::at(base, self.guest.size()), ..*self }
    }

    /// Whether both show some of the same bytes.
    #[must_use]
    pub fn shares_bytes(&self, other: &Self) -> bool {
        self.storage == other.storage && self.bytes().overlaps(&other.bytes())
    }

    fn goes_on(&self, next: &Self) -> bool {
        let is_same = self.storage == next.storage && self.flags == next.flags;
        is_same && self.guest.end() == next.guest.base() && self.bytes().end() == next.at
    }

    /// Its pieces, cut at the multiples of a size from the start of the storage on.
    fn pieces(self, most: Option<u64>) -> impl Iterator<Item = Self> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let run = rest.take().filter(|run| !run.guest.is_empty())?;
            let to_edge = most.and_then(|most| most.checked_sub(run.at.checked_rem(most)?));
            let first = run.guest.take(to_edge.unwrap_or(u64::MAX));
            rest = Some(run.at_addresses(&run.guest.skip(first.size())));
            Some(run.at_addresses(&first))
        })
    }
}

/// Runs by ascending address, those joined that go on in one another.
#[must_use]
pub fn joined(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_unstable_by_key(|run| run.guest.base());
    runs.dedup_by(|next, run| {
        let goes_on = run.goes_on(next);
        if goes_on {
            run.guest = Range::between(run.guest.base(), next.guest.end());
        }
        goes_on
    });
    runs
}

/// A window in pieces, each with those flags of `mask` that the slot of its bytes has, or the default.
#[must_use]
pub fn flagged(window: Run, slots: &[Run], mask: u32, default: u32) -> Vec<Run> {
    let is_at_once =
        |slot: &&Run| slot.guest.base().wrapping_sub(slot.at) == window.guest.base().wrapping_sub(window.at);
    let (here, elsewhere): (Vec<&Run>, Vec<&Run>) =
        slots.iter().filter(|slot| slot.shares_bytes(&window)).partition(is_at_once);
    let (mut rest, mut pieces) = (vec![window.guest], Vec::new());
    for slot in here.into_iter().chain(elsewhere) {
        let bytes = window.bytes().intersection(&slot.bytes());
        let seen = window.guest.skip(bytes.base().abs_diff(window.at)).take(bytes.size());
        let flags = window.flags | slot.flags & mask;
        let found = rest.iter().map(|range| range.intersection(&seen)).filter(|range| !range.is_empty());
        pieces.extend(found.map(|range| Run { flags, ..window.at_addresses(&range) }));
        rest = without(&rest, &[seen]);
    }
    pieces.extend(rest.iter().map(|range| Run { flags: window.flags | default, ..window.at_addresses(range) }));
    pieces
}

/// Steps after which slots show what windows show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotChanges {
    /// Slots that go first, for others come to their addresses: each by its address. For that moment a guest finds nothing there.
    pub deleted_before: Vec<u64>,
    /// Slots that are shown from another address on: from where, and to where.
    pub moved: Vec<(u64, u64)>,
    /// New slots.
    pub added: Vec<Run>,
    /// Slots that go last.
    pub deleted_after: Vec<u64>,
}

/// The changes of `slots`, those that may not be right any more, where windows are `shown` now; regions were moved as in `moves`.
///
/// A slot stays as long as the guest is to find just its bytes in all of its addresses, however many regions they are.
#[must_use]
pub fn changes(slots: &[Run], shown: &[Run], moves: &[(Range, u64)], most: Option<u64>) -> SlotChanges {
    let shows = |slot: &Run| shown.iter().any(|run| covers(run, slot));
    let (kept, wrong): (Vec<Run>, Vec<Run>) = slots.iter().partition(|slot| shows(slot));
    let mut changes = SlotChanges::default();
    let mut there = kept;
    for slot in &wrong {
        let is_free = |moved: &Run| {
            let others = wrong.iter().filter(|other| other.guest != slot.guest);
            !there.iter().chain(others).any(|other| other.guest.overlaps(&moved.guest))
        };
        let mut moved = moves
            .iter()
            .filter_map(|(old, base)| Some(slot.moved(base.checked_add(old.offset_of(slot.guest.base())?)?)));
        if let Some(moved) = moved.find(|moved| shows(moved) && is_free(moved)) {
            changes.moved.push((slot.guest.base(), moved.guest.base()));
            there.push(moved);
        }
    }
    there.sort_unstable_by_key(|run| run.guest.base());
    let taken: Vec<Range> = there.iter().map(|run| run.guest).collect();
    let free =
        |run: &Run| without(&[run.guest], &taken).into_iter().map(|range| run.at_addresses(&range)).collect::<Vec<_>>();
    changes.added = shown.iter().flat_map(free).flat_map(|run| run.pieces(most)).collect();
    let is_moved = |slot: &Run| changes.moved.iter().any(|(old, _)| *old == slot.guest.base());
    let comes = |range: &Range| {
        let moved = changes.moved.iter().filter_map(|(_, new)| there.iter().find(|run| run.guest.base() == *new));
        changes.added.iter().chain(moved).any(|run| run.guest.overlaps(range))
    };
    let gone = wrong.iter().filter(|slot| !is_moved(slot));
    let (before, after): (Vec<&Run>, Vec<&Run>) = gone.partition(|slot| comes(&slot.guest));
    changes.deleted_before = before.iter().map(|slot| slot.guest.base()).collect();
    changes.deleted_after = after.iter().map(|slot| slot.guest.base()).collect();
    changes
}

/// Whether a run shows all of another, as the other does.
fn covers(run: &Run, other: &Run) -> bool {
    run.guest.covers(&other.guest) && run.at_addresses(&other.guest) == *other
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 0x1000;

    fn run(storage: StorageId, guest: u64, at: u64, pages: u64, flags: u32) -> Run {
        Run { guest: Range::at(guest << 12, pages << 12), storage, at: at << 12, flags }
    }

    fn pages(addresses: &[u64]) -> Vec<u64> {
        addresses.iter().map(|address| address >> 12).collect()
    }

    #[test]
    fn a_cut_and_a_union_change_no_slot() {
        let memory = StorageId::unique();
        let whole = [run(memory, 0, 0, 8, 0)];
        let halves = joined(vec![run(memory, 3, 3, 5, 0), run(memory, 0, 0, 3, 0)]);
        assert_eq!(halves, whole);
        assert_eq!(changes(&whole, &halves, &[], None), SlotChanges::default());
        let slots = [run(memory, 0, 0, 3, 0), run(memory, 3, 3, 5, 0)];
        assert_eq!(changes(&slots, &whole, &[], None), SlotChanges::default());
    }

    #[test]
    fn a_move_to_a_free_range_moves_the_slot() {
        let memory = StorageId::unique();
        let moves = [(Range::at(0, 8 * PAGE), 4 * PAGE)];
        let moved = changes(&[run(memory, 0, 0, 8, 0)], &[run(memory, 4, 0, 8, 0)], &moves, None);
        assert_eq!(moved, SlotChanges { moved: vec![(0, 4 * PAGE)], ..SlotChanges::default() });
        // Half of a slot can't be moved.
        let shown = [run(memory, 0, 0, 4, 0), run(memory, 20, 4, 4, 0)];
        let half = changes(&[run(memory, 0, 0, 8, 0)], &shown, &[(Range::at(4 * PAGE, 4 * PAGE), 20 * PAGE)], None);
        assert_eq!((pages(&half.deleted_before), half.added), (vec![0], shown.to_vec()));
    }

    #[test]
    fn what_is_protected_is_cut_out_of_its_slot() {
        let memory = StorageId::unique();
        let shown = [run(memory, 0, 0, 3, 0), run(memory, 3, 3, 1, 2), run(memory, 4, 4, 4, 0)];
        let cut = changes(&[run(memory, 0, 0, 8, 0)], &shown, &[], None);
        assert_eq!((pages(&cut.deleted_before), cut.added), (vec![0], shown.to_vec()));
        let back = changes(&shown, &[run(memory, 0, 0, 8, 0)], &[], None);
        assert_eq!((pages(&back.deleted_before), back.added), (vec![3], vec![run(memory, 3, 3, 1, 0)]));
    }

    #[test]
    fn slots_are_cut_at_multiples_from_the_start_of_the_memory() {
        let memory = StorageId::unique();
        let added = changes(&[], &[run(memory, 16, 3, 10, 0)], &[], Some(4 * PAGE)).added;
        let expected =
            [run(memory, 16, 3, 1, 0), run(memory, 17, 4, 4, 0), run(memory, 21, 8, 4, 0), run(memory, 25, 12, 1, 0)];
        assert_eq!(added, expected);
        let shown = [run(memory, 16, 3, 2, 0), run(memory, 18, 5, 1, 2), run(memory, 19, 6, 7, 0)];
        let cut = changes(&expected, &joined(shown.to_vec()), &[], Some(4 * PAGE));
        assert_eq!(pages(&cut.deleted_before), [17]);
        assert_eq!(cut.added, [run(memory, 17, 4, 1, 0), run(memory, 18, 5, 1, 2), run(memory, 19, 6, 2, 0)]);
    }

    #[test]
    fn flags_stay_with_the_bytes() {
        let memory = StorageId::unique();
        let slots = [run(memory, 0, 0, 4, 1), run(memory, 20, 2, 4, 2)];
        let found = joined(flagged(run(memory, 0, 0, 8, 8), &slots, 3, 0));
        assert_eq!(found, [run(memory, 0, 0, 4, 9), run(memory, 4, 4, 2, 10), run(memory, 6, 6, 2, 8)]);
    }

    #[test]
    fn what_nobody_replaces_goes_last() {
        let (memory, other) = (StorageId::unique(), StorageId::unique());
        let gone = changes(&[run(memory, 0, 0, 4, 0), run(memory, 4, 8, 4, 0)], &[run(other, 4, 0, 4, 0)], &[], None);
        assert_eq!((pages(&gone.deleted_before), pages(&gone.deleted_after)), (vec![4], vec![0]));
    }
}
