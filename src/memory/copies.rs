//! Memory that begins as the bytes of a shadow, and whose writes are its own: private copies of the pages of a sealed file.

use std::sync::Arc;

use super::region::MappedRegion;
use super::shadow::Shadow;
use super::source::failed;
use super::storage::Storage;
use super::window::Window;
use crate::model::error::{Error, Result};
use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::model::region_map::RegionEntry;

/// Regions that show such a memory, each in its window. Its size plays no part: pages are copied when they are written.
pub fn of(shadow: &Arc<Shadow>, regions: &[(RegionEntry, Window)]) -> Result<Vec<MappedRegion>> {
    let Some((first, window)) = regions.first() else { return Ok(Vec::new()) };
    let refused = |error: std::io::Error| failed(&first.desc, "mapping copies of its shadow failed", &error);
    let storage = Arc::new(Storage::over(window, shadow)?.map_err(refused)?);
    let shown = regions.iter().map(|(entry, window)| {
        storage.places().show(window)?;
        let prot_flags = entry.prot_flags;
        if prot_flags != PROT_READ | PROT_WRITE {
            // SAFETY: nobody touches the memory yet.
            unsafe { storage.protect(window.shown(), prot_flags) }.map_err(refused)?;
        }
        Ok::<_, Error>(MappedRegion::of(entry.clone(), Arc::clone(&storage), *window))
    });
    shown.collect()
}
