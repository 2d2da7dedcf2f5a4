//! Memory for work that lets the snapshot go: planned on the map of the moment, and leased.

use std::sync::Arc;

use super::space::AddressSpace;
use crate::memory::access::{self, Side};
use crate::memory::lease::WeakRegion;
use crate::memory::leased_sections::LeasedSections;
use crate::model::error::{Error, Result};
use crate::model::ids::Incarnation;
use crate::model::interrupt::Interrupt;
use crate::model::region_map::RegionMap;
use crate::model::wait::SLICE;

impl AddressSpace {
    /// Plans what the verbs take and leases it, without a wait; `Err` in the result is a region to wait for.
    pub fn try_lease<const N: usize>(
        &self,
        incarnation: Incarnation,
        sides: [Side<'_>; N],
    ) -> Result<Result<[LeasedSections; N], WeakRegion>> {
        let snapshot = self.load();
        let plans = access::plan(&snapshot.map, snapshot.memory_of(incarnation)?, sides)?;
        LeasedSections::lease_all(sides, &plans)
    }

    /// Leases what a verb takes, and gives the map that it was planned on.
    ///
    /// Must be called without the interpreter's lock.
    pub fn lease_with_map(
        &self,
        incarnation: Incarnation,
        side: Side<'_>,
        interrupt: &dyn Interrupt,
    ) -> Result<(Arc<RegionMap>, LeasedSections)> {
        loop {
            let unsettled = {
                let snapshot = self.load();
                let plans = access::plan(&snapshot.map, snapshot.memory_of(incarnation)?, [side])?;
                match LeasedSections::lease_all([side], &plans)? {
                    Ok([leased]) => return Ok((Arc::clone(&snapshot.map), leased)),
                    Err(unsettled) => unsettled,
                }
            };
            self.wait_settled(&unsettled, interrupt)?;
        }
    }

    /// Goes on from what [`try_lease`](Self::try_lease) gave: waits for the change that is deciding about a region, and tries again.
    ///
    /// Must be called without the interpreter's lock.
    pub fn lease<const N: usize>(
        &self,
        incarnation: Incarnation,
        sides: [Side<'_>; N],
        mut leased: Result<[LeasedSections; N], WeakRegion>,
        interrupt: &dyn Interrupt,
    ) -> Result<[LeasedSections; N]> {
        loop {
            match leased {
                Ok(leased) => return Ok(leased),
                Err(unsettled) => self.wait_settled(&unsettled, interrupt)?,
            }
            leased = self.try_lease(incarnation, sides)?;
        }
    }

    /// Waits for a moment, or until the change that is deciding about the region has decided.
    ///
    /// Must be called without the interpreter's lock.
    pub fn wait_settled(&self, region: &WeakRegion, interrupt: &dyn Interrupt) -> Result<()> {
        // The change that would decide is waiting for this very call.
        if region.leases().is_closing()? && self.turn().is_mine()? {
            return Err(Error::Reentrant {
                message: format!("{} is being removed by the change that this call is part of", region.desc()),
            });
        }
        region.leases().wait_settled(SLICE)?;
        // A client that waits for this thread never lets the change decide: refused in time, the thread can let the client go on.
        self.turn().check_client_timeout()?;
        Ok(interrupt.check_now()?)
    }
}
