//! Parts of a storage whose bytes stay, whether a window shows them or not.

use std::any::Any;
use std::sync::Arc;

use super::discard;
use super::region::MappedRegion;
use super::section::Section;
use super::storage::Storage;
use crate::model::cut;
use crate::model::error::{Error, Result};
use crate::model::format::hex;
use crate::model::ids::Place;
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::model::region::Region;
use crate::model::region_map::RegionEntry;
use crate::model::source::KeptBytes;

/// Keeps the bytes of part of a region. When it is dropped, those go that no window shows and nobody else keeps.
///
/// It is dropped where no reader is left in a snapshot that shows them through a window that is gone.
#[derive(Debug)]
pub struct KeptMemory {
    storage: Arc<Storage>,
    part: Range,
    /// Of its own: nobody takes leases there, and the bytes count as shown.
    place: Place,
}

impl KeptBytes for KeptMemory {}

impl KeptMemory {
    /// Keeps bytes of a region that is there.
    pub(super) fn of(region: &MappedRegion, part: Range) -> Self {
        let (storage, place) = (Arc::clone(region.shared_storage()), Place::unique());
        storage.places().show(place, part);
        Self { storage, part, place }
    }

    /// Keeps the bytes of sections that touch each other, or says where they don't; with them the description of a region that shows them.
    pub fn of_sections(sections: &[Section<'_>]) -> Result<(Self, Region)> {
        let Some((first, rest)) = sections.split_first() else {
            return Err(Invalid::number("part needs a size above 0").into());
        };
        let (region, mut part) = (first.region(), first.part());
        for section in rest {
            if !Arc::ptr_eq(section.region().shared_storage(), region.shared_storage())
                || section.part().base() != part.end()
            {
                return Err(apart(section, region));
            }
            part = Range::between(part.base(), section.part().end());
        }
        let desc = cut::described(region.desc(), first.range(), part.size())?;
        region.storage().check_pages(region.desc(), part)?;
        Ok((Self::of(region, part), desc))
    }

    /// The keeper of bytes, as it is known here.
    pub fn downcast(kept: Option<&Arc<dyn KeptBytes>>) -> Option<&Self> {
        kept.and_then(|kept| (&**kept as &dyn Any).downcast_ref())
    }

    pub(super) const fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// The offset in the storage of the first byte of an entry, which shows some of these.
    pub(super) fn offset_of(&self, entry: &RegionEntry) -> Option<u64> {
        self.part.base().checked_add(entry.at)
    }
}

impl Drop for KeptMemory {
    fn drop(&mut self) {
        let places = self.storage.places();
        places.hide(self.place, self.part);
        // Nobody can show them again: that takes a window that shows them, or who keeps them.
        places.unseen(self.part).into_iter().for_each(|part| discard::give_back(&self.storage, part));
    }
}

/// The refusal of a part that would go on in another memory.
fn apart(section: &Section<'_>, before: &MappedRegion) -> Error {
    let address = section.range().base();
    let message =
        format!("part: the bytes from {} on are those of another memory than {}", hex(address), before.desc());
    Error::NotContiguous {
        message,
        address,
        size: section.size(),
        region: Arc::clone(before.desc()),
        conflict: Some(Arc::clone(section.region().desc())),
    }
}
