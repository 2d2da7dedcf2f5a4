//! Maps regions one after the other: placed, advised, populated and locked as each asks.

use super::advice;
use super::mapping::Mapping;
use super::prealloc::{self, Target};
use crate::model::error::Result;
use crate::model::interrupt::Interrupt;
use crate::model::region::{MAP_POPULATE, SharedRegion};

/// Maps regions one after the other and tells how far it is.
#[allow(missing_debug_implementations, reason = "borrows a caller's trait object")]
pub struct Mapper<'a> {
    interrupt: &'a dyn Interrupt,
    done: u64,
    total: u64,
}

impl<'a> Mapper<'a> {
    /// A mapper for regions of `total` bytes.
    pub fn new(interrupt: &'a dyn Interrupt, total: u64) -> Self {
        Self { interrupt, done: 0, total }
    }

    /// Maps one region, places it, and sees to it that the pages that should be there from the beginning are.
    pub fn map(&mut self, region: &SharedRegion) -> Result<Mapping> {
        let mapping = Mapping::new(region)?;
        mapping.advise(None, region)?;
        let locked = region.options.mlock == Some(true);
        if let Some(target) = Target::of(region, &mapping).filter(|_| locked || region.perm_flags & MAP_POPULATE != 0) {
            let (before, total, interrupt) = (self.done, self.total, self.interrupt);
            prealloc::populate(&[target], None, &mut |done| {
                // That all is done, is said once: when the last region is mapped and locked too.
                match before.saturating_add(done) {
                    reached if reached < total => interrupt.progress("populate", reached, total),
                    _ => interrupt.check(),
                }
            })?;
        }
        if locked {
            let (host, size) = mapping.pages();
            advice::lock(host, size, region)?;
        }
        self.done = self.done.saturating_add(region.size());
        self.interrupt.progress("map", self.done, self.total)?;
        Ok(mapping)
    }
}
