//! Memory for long work: leased, and found on the current map.

use std::sync::Arc;

use super::space::AddressSpace;
use crate::memory::access::{Access, LeasedSections};
use crate::memory::mapped_regions::Need;
use crate::memory::region::MappedRegion;
use crate::memory::section::Section;
use crate::model::error::{Error, Result};
use crate::model::ids::Incarnation;
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::wait::SLICE;

impl AddressSpace {
    /// Leases the sections that `sections` finds in a range; `Err` in the result is a region to wait for.
    ///
    /// After a wait all of it is done again, on the snapshot of then: nothing that was found before holds.
    pub fn try_lease(
        &self,
        incarnation: Incarnation,
        (verb, need, range): (&'static str, Need, Range),
        sections: impl FnOnce(&Access<'_>) -> Result<Vec<Section>>,
    ) -> Result<Result<LeasedSections, Arc<MappedRegion>>> {
        let snapshot = self.load();
        let access = Access { map: &snapshot.map, memory: snapshot.memory_of(incarnation)?, verb, need, range };
        Ok(access.lease(sections(&access)?))
    }

    /// Leases the first readable bytes of a range: regions that touch each other, up to `most` bytes; empty when there are none.
    ///
    /// Must be called without the interpreter's lock, for it may wait for a change that is deciding about a region.
    pub fn lease_run(
        &self,
        incarnation: Incarnation,
        (verb, range): (&'static str, Range),
        most: usize,
        interrupt: &dyn Interrupt,
    ) -> Result<LeasedSections> {
        loop {
            match self.try_lease(incarnation, (verb, Need::Read, range), |access| Ok(access.run(most)))? {
                Ok(leased) => return Ok(leased),
                Err(unsettled) => self.wait_settled(&unsettled, interrupt)?,
            }
        }
    }

    /// Waits for a moment, or until the change that is deciding about a region has decided.
    pub fn wait_settled(&self, region: &MappedRegion, interrupt: &dyn Interrupt) -> Result<()> {
        // The change that would decide is waiting for this very call.
        if region.leases.is_closing() && self.turn().is_mine() {
            return Err(Error::Reentrant {
                message: format!("{} is being removed by the change that this call is part of", region.desc),
            });
        }
        region.leases.wait_settled(SLICE);
        // A client that waits for this thread never lets the change decide: refused in time, the thread can let the client go on.
        self.turn().check_client_timeout()?;
        Ok(interrupt.check()?)
    }
}
