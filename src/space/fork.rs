//! Forks of a checkpoint: spaces whose memory begins as its bytes, and whose writes are their own.

use std::sync::Arc;

use super::change::map_one;
use super::point::Point;
use super::space::AddressSpace;
use super::state::SpaceState;
use crate::memory::copies;
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region::MappedRegion;
use crate::memory::window::Window;
use crate::model::error::{Errno, Error, Result};
use crate::model::ids::Incarnation;
use crate::model::interrupt::Interrupt;
use crate::model::region_map::{RegionEntry, RegionMap};

impl AddressSpace {
    /// A new space with the map and the memory of a checkpoint of this one, whose parent may change and go.
    pub fn fork(&self, point: &Arc<Point>, interrupt: &dyn Interrupt) -> Result<Self> {
        self.check_process()?;
        if !self.checkpoints()?.open().any(|other| Arc::ptr_eq(&other, point)) {
            return Err(Error::CheckpointClosed);
        }
        let mut regions = forked(point, interrupt)?;
        regions.sort_unstable_by_key(|region| region.range().base());
        let memory = MappedRegions::new(Incarnation::unique(), regions)?;
        let fork = Self::with_map(RegionMap::clone(&point.map));
        let map = fork.map();
        fork.swap_quietly(SpaceState { map, memory: Some(Arc::new(memory)) });
        Ok(fork)
    }
}

/// The regions that have memory: those of one storage share one again. Those whose bytes are not kept are mapped as the first time.
fn forked(point: &Point, interrupt: &dyn Interrupt) -> Result<Vec<Arc<MappedRegion>>> {
    let mut shown: Vec<Vec<(RegionEntry, Window)>> = point.kept.iter().map(|_| Vec::new()).collect();
    let mut regions = Vec::new();
    for entry in point.map.regions().iter().filter(|entry| entry.has_memory()) {
        let then = point.region(entry.base(), entry.id);
        match then.and_then(|then| Some((then, shown.get_mut(then.kept?)?))) {
            Some((then, shown)) => shown.push((entry.clone(), then.window)),
            None => regions.push(map_one(entry, interrupt)?),
        }
    }
    for (kept, shown) in point.kept.iter().zip(shown) {
        interrupt.check()?;
        let flat = kept.flat()?.map_err(|error| Error::Backing {
            message: format!("cannot fork the checkpoint: copying its bytes into one memfd failed: {error}"),
            errno: Errno::from(&error),
            region: None,
        })?;
        regions.extend(copies::of(&flat, &shown)?.into_iter().map(Arc::new));
    }
    Ok(regions)
}
