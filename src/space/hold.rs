//! Memory for long work: held by leases, found on the map of the moment.

use std::sync::Arc;

use super::space::AddressSpace;
use crate::memory::access::{Access, Held};
use crate::memory::map::Need;
use crate::memory::region::MappedRegion;
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::wait::SLICE;

impl AddressSpace {
    /// Holds what `pieces` finds in a range; `Err` in the result is a region to wait for.
    pub fn try_hold(
        &self,
        incarnation: u64,
        (verb, need, range): (&'static str, Need, Range),
        pieces: impl FnOnce(&Access<'_>) -> Result<Vec<crate::memory::piece::Piece>>,
    ) -> Result<Result<Held, Arc<MappedRegion>>> {
        let snapshot = self.load();
        let access = Access { map: &snapshot.map, memory: snapshot.memory_of(incarnation)?, verb, need, range };
        Ok(access.hold(pieces(&access)?))
    }

    /// Holds the first readable bytes of a range: regions that touch each other, up to `most` bytes; empty when there are none.
    ///
    /// Must be called without the interpreter's lock, for it may wait for a change that is deciding about a region.
    pub fn hold_run(
        &self,
        incarnation: u64,
        (verb, range): (&'static str, Range),
        most: usize,
        interrupt: &dyn Interrupt,
    ) -> Result<Held> {
        loop {
            match self.try_hold(incarnation, (verb, Need::Read, range), |access| Ok(access.run(most)))? {
                Ok(held) => return Ok(held),
                Err(unsettled) => self.wait_settled(&unsettled, interrupt)?,
            }
        }
    }

    /// Waits for a moment, or until the change that is deciding about a region has decided.
    pub fn wait_settled(&self, region: &MappedRegion, interrupt: &dyn Interrupt) -> Result<()> {
        if region.leases.is_closing() && self.turn().is_mine() {
            return Err(Error::Reentrant {
                message: format!("{} is being removed by the change that this call is part of", region.meta),
            });
        }
        region.leases.wait_settled(SLICE);
        self.turn().check_patience()?;
        Ok(interrupt.check()?)
    }
}
