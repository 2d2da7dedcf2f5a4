//! Addresses kept for later: the reservations of a live space.

use std::sync::Arc;

use super::space::AddressSpace;
use crate::model::allocator::Wanted;
use crate::model::change::{ChangeRequest, MapOperation};
use crate::model::error::Result;
use crate::model::interrupt::Interrupt;
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionMap;
use crate::model::reservations::{Bounds, Reservation};

impl AddressSpace {
    /// The base of free addresses, where neither regions nor reservations are; they may be taken by the time it returns.
    pub fn find_free(&self, wanted: &Wanted, bounds: Bounds) -> Result<u64> {
        let map = self.map();
        self.reservations()?.find_free(&map, wanted, bounds).map(|range| range.base())
    }

    /// Keeps free addresses for an owner: at `base`, or where the policy finds them.
    pub fn reserve(
        &self,
        wanted: &Wanted,
        bounds: Bounds,
        base: Option<u64>,
        owner: &str,
        interrupt: &dyn Interrupt,
    ) -> Result<Arc<Reservation>> {
        self.check_leads()?;
        // Under the turn, although no map is published: a change that is under way has checked the reservations already, and the map
        // that it is about to publish would have a region here.
        let _turn = self.take_turn(interrupt)?;
        let map = self.map();
        self.reservations()?.reserve(&map, (wanted, bounds), base, owner)
    }

    /// Ends a reservation; one that has ended is left alone.
    pub fn release(&self, reservation: &Reservation) -> Result<()> {
        // Without the turn: addresses that become free make no change under way wrong.
        self.reservations()?.release(reservation.id);
        Ok(())
    }

    /// The reservations by ascending base.
    pub fn reservation_list(&self) -> Result<Vec<Arc<Reservation>>> {
        Ok(self.reservations()?.held().to_vec())
    }

    /// Whether a reservation has not ended.
    pub fn is_reserved(&self, reservation: &Reservation) -> Result<bool> {
        Ok(self.reservations()?.held().iter().any(|held| held.id == reservation.id))
    }

    /// Inserts a region inside a reservation, which only its holder can.
    pub fn insert_reserved(
        &self,
        reservation: &Reservation,
        region: &SharedRegion,
        interrupt: &dyn Interrupt,
    ) -> Result<Arc<RegionMap>> {
        // It must lie inside: the change is excused from this one reservation, not from its neighbours.
        reservation.check(region)?;
        let insertion = [MapOperation::insert(Arc::clone(region))];
        let request = ChangeRequest { reservation: Some(reservation.id), ..ChangeRequest::of(&insertion) };
        self.change(&request, interrupt)
    }
}
