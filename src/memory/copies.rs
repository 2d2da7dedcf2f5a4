//! Memory that begins as the bytes of a shadow, and whose writes are its own: private copies of the pages of a sealed file.

use std::sync::Arc;

use super::region::MappedRegion;
use super::shadow::Shadow;
use super::source_error::failed;
use super::storage::Storage;
use super::window::Window;
use crate::model::error::Result;
use crate::model::region_map::RegionEntry;

/// Regions that show such a memory, each in its window. Its size plays no part: pages are copied when they are written.
pub fn of(shadow: &Arc<Shadow>, regions: &[(RegionEntry, Window)]) -> Result<Vec<MappedRegion>> {
    let Some((first, window)) = regions.first() else { return Ok(Vec::new()) };
    let refused = |error: std::io::Error| failed(&first.desc, "mapping copies of its shadow failed", &error);
    let base = window.guest().base().wrapping_sub(window.shown().base());
    let storage = Arc::new(Storage::over(base, shadow)?.map_err(refused)?);
    let shown = regions.iter().map(|(entry, window)| {
        let region = MappedRegion::of(entry.clone(), Arc::clone(&storage), *window);
        region.show().map(|()| region)
    });
    shown.collect()
}
