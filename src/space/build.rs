//! A plan made real.

use super::space::AddressSpace;
use crate::model::allocator::{FitPolicy, Wanted};
use crate::model::error::Result;
use crate::model::interrupt::Interrupt;
use crate::model::plan::SpacePlan;
use crate::model::region::RegionType;
use crate::model::region_map::RegionMap;
use crate::model::reservations::Bounds;

/// The owner of the window for memory that is plugged in later.
pub const HOTPLUG: &str = "hotplug";

/// The mapped space of a plan. On any failure the space is dropped, and with it all that was taken.
pub fn build(plan: &SpacePlan, interrupt: &dyn Interrupt) -> Result<AddressSpace> {
    plan.check()?;
    let map = RegionMap::from_regions(plan.regions.clone(), plan.layout.clone())?;
    let space = AddressSpace::with_map(map);
    let zones = plan.zone_windows.iter().map(|(name, window)| (format!("{HOTPLUG} {name}"), *window));
    for (owner, window) in plan.hotplug_window.map(|window| (HOTPLUG.to_owned(), window)).into_iter().chain(zones) {
        let wanted = Wanted { size: window.size(), align: 1, guard_gap: 0, policy: FitPolicy::First };
        let bounds = Bounds { region_type: RegionType::DefaultMemory, low: 0, high: u64::MAX };
        space.reserve(&wanted, bounds, Some(window.base()), &owner, interrupt)?;
    }
    // Last: whatever was refused before cost no memory.
    space.map_memory(interrupt)?;
    Ok(space)
}
