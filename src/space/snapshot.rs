//! What readers see: the map, and the memory behind it.

use std::sync::Arc;

use crate::memory::map::MappedMap;
use crate::memory::region::MappedRegion;
use crate::model::change::Change;
use crate::model::error::{Error, Result};
use crate::model::map::Map;
use crate::model::region::SharedRegion;

/// One state of an address space.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The regions and their layout.
    pub map: Arc<Map>,
    /// Their memory, when the space is mapped.
    pub memory: Option<Arc<MappedMap>>,
}

impl Snapshot {
    /// The memory of one `map_memory`, which `close` ends.
    #[inline]
    pub fn memory_of(&self, incarnation: u64) -> Result<&MappedMap> {
        match &self.memory {
            Some(memory) if memory.incarnation() == incarnation => Ok(memory),
            _ => Err(Error::NotMapped {
                message: "this guest memory was closed: call map_memory() on the address space for a new one".into(),
            }),
        }
    }

    /// The memory after a change; `map` gives the memory of regions that were added.
    pub fn memory_after(
        &self,
        change: &Change,
        mut map: impl FnMut(&SharedRegion) -> Result<Arc<MappedRegion>>,
    ) -> Result<Option<Arc<MappedMap>>> {
        let Some(memory) = &self.memory else { return Ok(None) };
        if !touches_memory(change) {
            return Ok(Some(Arc::clone(memory)));
        }
        let mut old = memory.regions().iter().peekable();
        let mut replaced = change.replaced.iter().peekable();
        let mut regions = Vec::with_capacity(change.after.regions().len());
        for meta in change.after.regions().iter().filter(|region| region.has_memory()) {
            while old.next_if(|old| old.meta.base() < meta.base()).is_some() {}
            while replaced.next_if(|(_, new)| new.base() < meta.base()).is_some() {}
            regions.push(match old.peek() {
                Some(old) if Arc::ptr_eq(&old.meta, meta) => Arc::clone(old),
                Some(old) if replaced.peek().is_some_and(|(_, new)| Arc::ptr_eq(new, meta)) => {
                    Arc::new(old.described(Arc::clone(meta)))
                }
                _ => map(meta)?,
            });
        }
        Ok(Some(Arc::new(MappedMap::new(memory.incarnation(), memory.is_tracked(), regions))))
    }
}

fn touches_memory(change: &Change) -> bool {
    let touched = change.added.iter().chain(&change.removed).chain(change.replaced.iter().map(|(_, new)| new));
    touched.into_iter().any(|region| region.has_memory())
}
