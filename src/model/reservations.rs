//! Addresses that someone keeps for later: for an MMIO window, for memory that is plugged in, for a DAX window.

use std::sync::Arc;

use super::allocator::{Wanted, within};
use super::error::{Error, Result};
use super::format::hex;
use super::ids::{Generation, ReservationId};
use super::invalid::Invalid;
use super::layout::Layout;
use super::quote::quoted;
use super::range::{Range, joined};
use super::region::{RegionType, SharedRegion};
use super::region_map::{RegionEntry, RegionMap};

/// A range that is kept for its owner.
#[derive(Debug)]
pub struct Reservation {
    /// Which reservation this is.
    pub id: ReservationId,
    /// The addresses.
    pub range: Range,
    /// The owner's name, for the errors of others.
    pub owner: Box<str>,
}

impl Reservation {
    /// Refuses a region that does not lie in it.
    pub fn check(&self, region: &SharedRegion) -> Result<()> {
        if self.range.covers(&region.range) {
            return Ok(());
        }
        let message = format!("cannot insert {region}: it reaches out of {self}");
        Err(Invalid::at(message, Some(region.base()), Some(region.size())).into())
    }
}

impl std::fmt::Display for Reservation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} reserved for '{}'", self.range, self.owner)
    }
}

/// The addresses among which room is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The type of the regions that the room is for: the layout says where they may lie.
    pub region_type: RegionType,
    /// The lowest address.
    pub low: u64,
    /// The exclusive highest address.
    pub high: u64,
}

impl Bounds {
    fn rooms(&self, layout: &Layout) -> Vec<Range> {
        within(&layout.rooms(self.region_type), self.low, self.high)
    }
}

/// The reservations of a space.
#[derive(Debug, Default)]
pub struct ReservationTable {
    /// Disjoint, by ascending base.
    held: Vec<Arc<Reservation>>,
    /// The ranges that the regions of a generation and the reservations take together, joined. Most calls come with the map of the
    /// last one, and thousands of reservations in a row must not each sort all of them anew.
    taken: Option<(Generation, Vec<Range>)>,
}

impl ReservationTable {
    /// The reservations by ascending base.
    #[must_use]
    pub fn held(&self) -> &[Arc<Reservation>] {
        &self.held
    }

    /// Free addresses, where neither regions of the map nor reservations are.
    pub fn find_free(&mut self, map: &RegionMap, wanted: &Wanted, bounds: Bounds) -> Result<Range> {
        wanted.check()?;
        wanted.place(&bounds.rooms(map.layout()), self.taken(map))
    }

    /// Keeps free addresses for an owner: at `base`, or where the policy finds them.
    pub fn reserve(
        &mut self,
        map: &RegionMap,
        (wanted, bounds): (&Wanted, Bounds),
        base: Option<u64>,
        owner: &str,
    ) -> Result<Arc<Reservation>> {
        if owner.is_empty() || owner.chars().any(char::is_control) {
            let message = format!("{} can't be an owner's name: it is empty or has control characters", quoted(owner));
            return Err(Invalid::argument(message).into());
        }
        let range = match base {
            Some(base) => self.exactly(map, wanted, base, &bounds.rooms(map.layout()))?,
            None => self.find_free(map, wanted, bounds)?,
        };
        let reservation = Arc::new(Reservation { id: ReservationId::unique(), range, owner: owner.into() });
        self.add(&reservation);
        Ok(reservation)
    }

    /// Ends a reservation; one that has ended is left alone.
    pub fn release(&mut self, id: ReservationId) {
        self.held.retain(|held| held.id != id);
        // Its range may be joined to others: computed anew when it is needed.
        self.taken = None;
    }

    /// Refuses regions that are added where someone else has a reservation, and those that are added by one that has ended.
    pub fn check(&self, added: &[RegionEntry], except: Option<ReservationId>) -> Result<()> {
        self.check_but_for(added, |reservation| Some(reservation.id) == except)?;
        if except.is_some_and(|id| !self.held.iter().any(|held| held.id == id)) {
            let message =
                "the reservation was released: reserve the addresses again, or insert the region into the space";
            return Err(Invalid::argument(message).into());
        }
        Ok(())
    }

    /// Refuses regions that are put back where someone else has a reservation now: those in a reservation of then were its own.
    pub fn check_put_back(&self, added: &[RegionEntry], then: &[Arc<Reservation>]) -> Result<()> {
        self.check_but_for(added, |reservation| then.iter().any(|other| other.id == reservation.id))
    }

    fn check_but_for(&self, added: &[RegionEntry], is_own: impl Fn(&Reservation) -> bool) -> Result<()> {
        for region in added {
            if let Some(reservation) = self.in_the_way(region.range).filter(|reservation| !is_own(reservation)) {
                return Err(Error::Reserved {
                    message: format!(
                        "cannot insert {region}: {reservation}; insert it through that reservation, or release it first"
                    ),
                    address: region.base(),
                    size: region.size(),
                    region: Some(Arc::clone(region)),
                    conflict: None,
                });
            }
        }
        Ok(())
    }

    fn taken(&mut self, map: &RegionMap) -> &[Range] {
        if self.taken.as_ref().is_none_or(|(generation, _)| *generation != map.generation()) {
            // A reservation and the regions that its owner inserted into it overlap.
            let mut ranges: Vec<Range> = map.regions().iter().map(|region| region.range).collect();
            ranges.extend(self.held.iter().map(|reservation| reservation.range));
            ranges.sort_unstable();
            self.taken = Some((map.generation(), joined(ranges)));
        }
        self.taken.as_ref().map_or(&[], |(_, taken)| taken)
    }

    fn add(&mut self, reservation: &Arc<Reservation>) {
        let range = reservation.range;
        let index = self.held.partition_point(|held| held.range.base() < range.base());
        self.held.insert(index, Arc::clone(reservation));
        if let Some((_, taken)) = &mut self.taken {
            insert_joined(taken, range);
        }
    }

    /// The reservation of someone else that shares an address with a range.
    ///
    /// They are disjoint, so that only the last one that begins before the range's end can reach into it; where that is the one
    /// excepted, the range lies in it and meets no other.
    fn in_the_way(&self, range: Range) -> Option<&Arc<Reservation>> {
        let end = self.held.partition_point(|held| held.range.base() < range.end());
        self.held.get(..end)?.last().filter(|last| last.range.overlaps(&range))
    }

    /// The addresses from `base` on, when they are free.
    fn exactly(&self, map: &RegionMap, wanted: &Wanted, base: u64, rooms: &[Range]) -> Result<Range> {
        wanted.check()?;
        let range = Range::new(base, wanted.size)?;
        let refused = |why: String, conflict| {
            let message = format!("cannot reserve {range}: {why}");
            Err(Error::Reserved { message, address: base, size: wanted.size, region: None, conflict })
        };
        if !base.is_multiple_of(wanted.align) {
            return Err(Error::Misaligned {
                message: format!("cannot reserve {range}: its base is not a multiple of {}", hex(wanted.align)),
                address: Some(base),
                size: Some(wanted.size),
                region: None,
            });
        }
        let kept = range.widened(wanted.guard_gap);
        if let Some(region) = map.overlapping(kept).first() {
            return refused(format!("{region} is there"), Some(Arc::clone(region)));
        }
        if let Some(other) = self.in_the_way(kept) {
            return refused(format!("{other}"), None);
        }
        if !rooms.iter().any(|room| room.covers(&range)) {
            let rooms: Vec<String> = rooms.iter().take(4).map(ToString::to_string).collect();
            return refused(format!("such regions may lie in {}", rooms.join(", ")), None);
        }
        Ok(range)
    }
}

/// Adds a free range to sorted, disjoint ones and joins it to its neighbours.
fn insert_joined(taken: &mut Vec<Range>, range: Range) {
    let index = taken.partition_point(|other| other.base() < range.base());
    let touches_next = taken.get(index).is_some_and(|next| next.base() == range.end());
    let end = if touches_next { taken.remove(index).end() } else { range.end() };
    match index.checked_sub(1).and_then(|before| taken.get_mut(before)) {
        Some(before) if before.end() == range.base() => *before = Range::between(before.base(), end),
        _ => taken.insert(index, Range::between(range.base(), end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::allocator::FitPolicy;
    use crate::model::region::Region;
    use crate::model::source::Source;

    const PAGE: u64 = 0x1000;
    const ANYWHERE: Bounds = Bounds { region_type: RegionType::DefaultMemory, low: 0, high: u64::MAX };

    fn wanted(pages: u64, guard_gap: u64) -> Wanted {
        Wanted { size: pages << 12, align: PAGE, guard_gap, policy: FitPolicy::First }
    }

    fn ram(page: u64, pages: u64) -> RegionEntry {
        let range = Range::new(page << 12, pages << 12).unwrap();
        let region = Region::new(RegionType::DefaultMemory, range, Source::default()).unwrap();
        RegionEntry::new(Arc::new(region))
    }

    /// Sixteen pages for RAM, of which the regions take some.
    fn map(regions: &[RegionEntry]) -> RegionMap {
        let layout = Layout::new(32 * PAGE, 0, 16 * PAGE, vec![]).unwrap();
        let regions = regions.iter().map(|region| Arc::clone(region)).collect();
        RegionMap::from_regions(regions, layout).unwrap()
    }

    fn reserve(table: &mut ReservationTable, map: &RegionMap, page: Option<u64>, pages: u64) -> Result<Range> {
        let at = page.map(|page| page << 12);
        table.reserve(map, (&wanted(pages, 0), ANYWHERE), at, "owner").map(|reservation| reservation.range)
    }

    fn free(table: &mut ReservationTable, map: &RegionMap) -> u64 {
        table.find_free(map, &wanted(1, 0), ANYWHERE).unwrap().base() / PAGE
    }

    #[test]
    fn reservations_and_regions_never_share_an_address() {
        let mut table = ReservationTable::default();
        let map = map(&[ram(1, 1), ram(4, 2)]);
        let found: Vec<u64> =
            std::iter::from_fn(|| reserve(&mut table, &map, None, 2).ok()).map(|range| range.base() / PAGE).collect();
        assert_eq!(found, [2, 6, 8, 10, 12, 14]);
        assert_eq!(reserve(&mut table, &map, None, 1).unwrap().base(), 0);
        assert!(matches!(reserve(&mut table, &map, None, 1), Err(Error::NoSpace { .. })));
        let ranges: Vec<Range> = table.held().iter().map(|held| held.range).collect();
        assert!(ranges.is_sorted());
        assert_eq!(joined(ranges).iter().map(Range::size).sum::<u64>(), 13 * PAGE);
    }

    #[test]
    fn what_is_taken_follows_the_map_and_the_reservations() {
        let mut table = ReservationTable::default();
        let before = map(&[ram(0, 1)]);
        let first = table.reserve(&before, (&wanted(2, 0), ANYWHERE), None, "first").unwrap();
        assert_eq!(free(&mut table, &before), 3);
        let after = before.insert(&ram(3, 1)).unwrap().at_generation(Generation(1));
        assert_eq!(free(&mut table, &after), 4);
        assert_eq!(free(&mut table, &before), 3);
        table.release(first.id);
        table.release(first.id);
        assert_eq!(free(&mut table, &after), 1);
    }

    /// The joined ranges that the table keeps up to date are those that it would compute anew.
    #[test]
    fn a_range_is_joined_to_both_its_neighbours() {
        for order in [[1, 3, 5, 2, 4], [5, 4, 3, 2, 1], [2, 4, 3, 1, 5]] {
            let (mut table, map) = (ReservationTable::default(), map(&[ram(7, 1)]));
            table.find_free(&map, &wanted(1, 0), ANYWHERE).unwrap();
            for page in order {
                reserve(&mut table, &map, Some(page), 1).unwrap();
                let kept = table.taken.clone();
                table.taken = None;
                table.taken(&map);
                assert_eq!(kept, table.taken, "{order:?} {page}");
            }
        }
    }

    #[test]
    fn an_exact_place_is_refused_with_what_is_in_the_way() {
        let mut table = ReservationTable::default();
        let map = map(&[ram(4, 1)]);
        reserve(&mut table, &map, Some(8), 2).unwrap();
        for (page, pages, why) in
            [(3, 2, "ram [0x4000, 0x5000) is there"), (9, 1, "reserved for 'owner'"), (15, 2, "[0x0, 0x1_0000)")]
        {
            let refused = reserve(&mut table, &map, Some(page), pages).unwrap_err();
            assert!(refused.to_string().contains(why), "{refused}");
        }
        let mut at = |base, gap| table.reserve(&map, (&wanted(1, gap), ANYWHERE), Some(base), "owner").map(drop);
        assert!(matches!(at(PAGE / 2, 0), Err(Error::Misaligned { .. })));
        assert!(matches!(at(7 * PAGE, 1), Err(Error::Reserved { .. })));
        assert!(matches!(at(5 * PAGE, 1), Err(Error::Reserved { .. })));
        at(6 * PAGE, PAGE).unwrap();
    }

    #[test]
    fn only_the_owner_may_insert() {
        let mut table = ReservationTable::default();
        let map = map(&[]);
        let mine = table.reserve(&map, (&wanted(2, 0), ANYWHERE), Some(2 * PAGE), "mine").unwrap();
        let theirs = table.reserve(&map, (&wanted(2, 0), ANYWHERE), Some(4 * PAGE), "theirs").unwrap();
        for (region, by_me, by_nobody) in
            [(ram(2, 2), true, false), (ram(4, 1), false, false), (ram(6, 1), true, true), (ram(0, 3), true, false)]
        {
            let region = [region];
            assert_eq!(table.check(&region, Some(mine.id)).is_ok(), by_me, "{}", region[0]);
            assert_eq!(table.check(&region, None).is_ok(), by_nobody, "{}", region[0]);
        }
        assert!(mine.check(&ram(2, 2)).is_ok() && mine.check(&ram(3, 2)).is_err() && theirs.check(&ram(3, 2)).is_err());
    }
}
