//! Maps regions one after the other: bound, advised, populated and locked as each asks.

use super::prealloc;
use super::region::MappedRegion;
use super::section::Section;
use crate::model::error::Result;
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::region::MAP_POPULATE;
use crate::model::region_map::RegionEntry;

/// Maps regions one after the other and tells how far it is.
#[allow(missing_debug_implementations, reason = "borrows a caller's trait object")]
pub struct Mapper<'a> {
    interrupt: &'a dyn Interrupt,
    /// From the bytes that are done to the bytes of all regions.
    left: Range,
}

impl<'a> Mapper<'a> {
    /// A mapper for regions of `total` bytes.
    pub fn new(interrupt: &'a dyn Interrupt, total: u64) -> Self {
        Self { interrupt, left: Range::between(0, total) }
    }

    /// Maps one region, and sees to it that the pages that should be there from the beginning are.
    pub fn map(&mut self, entry: &RegionEntry) -> Result<MappedRegion> {
        let desc = &entry.desc;
        let region = MappedRegion::map(entry)?;
        // Before any page is there: policy and advice decide where and how pages come.
        region.advise(None, desc)?;
        let is_locked = desc.options.mlock == Some(true);
        if is_locked || desc.perm_flags & MAP_POPULATE != 0 {
            let (left, interrupt) = (self.left, self.interrupt);
            prealloc::populate(&[Section::whole(&region)], None, &mut |done| match left.skip(done) {
                // Report completion only once, after the last region is mapped and locked.
                left if left.is_empty() => interrupt.check(),
                left => interrupt.progress("populate", left.base(), left.end()),
            })?;
        }
        if is_locked {
            region.storage().lock(region.window().shown(), desc)?;
        }
        self.left = self.left.skip(desc.size());
        self.interrupt.progress("map", self.left.base(), self.left.end())?;
        Ok(region)
    }
}
