//! The pages that we wrote since the last time that somebody asked, at every address where they are seen.

use super::mapped_regions::MappedRegions;
use super::region::MappedRegion;
use crate::model::error::Result;
use crate::model::range::Range;
use crate::model::room::{self, Room};

/// The pages that were written, by ascending address, which are forgotten. Memory that is leased for writing counts as written each time.
pub fn drain(memory: &MappedRegions) -> Result<Vec<Range>> {
    let mut regions = room::collected(memory.regions())?;
    regions.sort_unstable_by_key(|region| region.storage().id());
    let mut found = Vec::new();
    // Each storage once: what the first of its windows took, the next would not find.
    for windows in regions.chunk_by(|one, next| one.storage().id() == next.storage().id()) {
        drain_storage(windows, &mut found)?;
    }
    found.sort_unstable_by_key(Range::base);
    Ok(found)
}

fn drain_storage(windows: &[&MappedRegion], found: &mut Vec<Range>) -> Result<()> {
    let Some(storage) = windows.first().map(|region| region.storage()) else { return Ok(()) };
    let Some(dirty) = storage.dirty() else { return Ok(()) };
    storage.places().written()?.iter().for_each(|part| dirty.mark(part.base(), part.size()));
    let mut result = Ok(());
    dirty.drain(&mut |pages| {
        let seen = windows.iter().map(|region| region.window().guest_of(pages)).filter(|seen| !seen.is_empty());
        for range in seen {
            if result.is_ok() {
                result = found.add(range);
            }
        }
    });
    result
}
