//! Addresses that someone keeps for later: for an MMIO window, for memory that is plugged in, for a DAX window.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::space::AddressSpace;
use crate::model::allocator::{Wanted, within};
use crate::model::change::Operation;
use crate::model::error::{Error, Result};
use crate::model::format::hex;
use crate::model::interrupt::Interrupt;
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::model::region::{Region, RegionType, SharedRegion};
use crate::model::region_map::RegionMap;

/// A range that is kept for its owner.
#[derive(Debug)]
pub struct Reservation {
    id: u64,
    /// The addresses.
    pub range: Range,
    /// Who has them, for the errors of others.
    pub owner: Box<str>,
}

impl std::fmt::Display for Reservation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} reserved for '{}'", self.range, self.owner)
    }
}

/// Where room is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// What the room is for: the layout says where such regions may lie.
    pub region_type: RegionType,
    /// The lowest address.
    pub low: u64,
    /// The exclusive highest address.
    pub high: u64,
}

/// The reservations of a space.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    table: Mutex<Table>,
    ids: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    /// By ascending base.
    held: Vec<Arc<Reservation>>,
    /// What the regions of a generation and the reservations take together, joined.
    taken: Option<(u64, Vec<Range>)>,
}

impl Table {
    fn taken(&mut self, map: &RegionMap) -> &[Range] {
        if self.taken.as_ref().is_none_or(|(generation, _)| *generation != map.generation()) {
            let mut ranges: Vec<Range> = map.regions().iter().map(|region| region.range).collect();
            ranges.extend(self.held.iter().map(|reservation| reservation.range));
            ranges.sort_unstable();
            let mut joined = Vec::with_capacity(ranges.len());
            ranges.into_iter().for_each(|range| join_last(&mut joined, range));
            self.taken = Some((map.generation(), joined));
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
    fn in_the_way(&self, range: Range, except: Option<u64>) -> Option<&Arc<Reservation>> {
        let end = self.held.partition_point(|held| held.range.base() < range.end());
        let before = self.held.get(..end)?.iter().next_back()?;
        (before.range.overlaps(&range) && Some(before.id) != except).then_some(before)
    }
}

fn join_last(joined: &mut Vec<Range>, range: Range) {
    match joined.last_mut() {
        Some(last) if last.end() >= range.base() => *last = Range::between(last.base(), last.end().max(range.end())),
        _ => joined.push(range),
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

impl Reservations {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses regions that are added where someone else has a reservation.
    pub(super) fn check(&self, added: &[SharedRegion], except: Option<u64>) -> Result<()> {
        let table = self.lock();
        for region in added {
            if let Some(reservation) = table.in_the_way(region.range, except) {
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
}

impl AddressSpace {
    /// The base of free addresses, where neither regions nor reservations are.
    pub fn find_free(&self, wanted: &Wanted, bounds: Bounds) -> Result<u64> {
        wanted.check()?;
        let map = self.map();
        let rooms = within(&map.layout().rooms(bounds.region_type), bounds.low, bounds.high);
        wanted.place(&rooms, self.reservations().lock().taken(&map))
    }

    /// Keeps free addresses for an owner: at `base`, or where the policy finds them. A change in this sense: it takes the turn.
    pub fn reserve(
        &self,
        wanted: &Wanted,
        bounds: Bounds,
        base: Option<u64>,
        owner: &str,
        interrupt: &dyn Interrupt,
    ) -> Result<Arc<Reservation>> {
        wanted.check()?;
        let _turn = self.take_turn(interrupt)?;
        let map = self.map();
        let rooms = within(&map.layout().rooms(bounds.region_type), bounds.low, bounds.high);
        let mut table = self.reservations().lock();
        let base = match base {
            Some(base) => exact(&table, &map, wanted, base, &rooms)?,
            None => wanted.place(&rooms, table.taken(&map))?,
        };
        let id = self.reservations().ids.fetch_add(1, Ordering::Relaxed);
        let reservation = Arc::new(Reservation { id, range: Range::new(base, wanted.size)?, owner: owner.into() });
        table.add(&reservation);
        Ok(reservation)
    }

    /// Ends a reservation; one that has ended is left alone.
    pub fn release(&self, reservation: &Reservation) {
        let mut table = self.reservations().lock();
        table.held.retain(|held| held.id != reservation.id);
        table.taken = None;
    }

    /// The reservations by ascending base.
    #[must_use]
    pub fn reservation_list(&self) -> Vec<Arc<Reservation>> {
        self.reservations().lock().held.clone()
    }

    /// Whether a reservation has not ended.
    #[must_use]
    pub fn is_reserved(&self, reservation: &Reservation) -> bool {
        self.reservations().lock().held.iter().any(|held| held.id == reservation.id)
    }

    /// Inserts a region inside a reservation, which only its holder can.
    pub fn insert_reserved(
        &self,
        reservation: &Reservation,
        region: &Region,
        interrupt: &dyn Interrupt,
    ) -> Result<Arc<RegionMap>> {
        if !reservation.range.covers(&region.range) {
            return Err(Invalid::at(
                format!("cannot insert {region}: it reaches out of {reservation}"),
                Some(region.base()),
                Some(region.size()),
            )
            .into());
        }
        self.change_within(Some(reservation.id), &[Operation::Insert(Arc::new(region.clone()))], None, interrupt)
    }
}

/// The base asked for, when the place is free.
fn exact(table: &Table, map: &RegionMap, wanted: &Wanted, base: u64, rooms: &[Range]) -> Result<u64> {
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
    let kept = Range::between(base.saturating_sub(wanted.guard_gap), range.end().saturating_add(wanted.guard_gap));
    if let Some(region) = map.overlapping(kept).first() {
        return refused(format!("{region} is there"), Some(Arc::clone(region)));
    }
    if let Some(other) = table.in_the_way(kept, None) {
        return refused(format!("{other}"), None);
    }
    if !rooms.iter().any(|room| room.covers(&range)) {
        let rooms: Vec<String> = rooms.iter().take(4).map(ToString::to_string).collect();
        return refused(format!("such regions may lie in {}", rooms.join(", ")), None);
    }
    Ok(base)
}
