//! Parts of a storage whose bytes stay, whether a window shows them or not.

use std::any::Any;
use std::io;
use std::sync::Arc;

use super::storage::Storage;
use crate::model::ids::Place;
use crate::model::range::Range;
use crate::model::region_map::RegionEntry;
use crate::model::source::KeptBytes;
use crate::sys::{file, memory};

/// Keeps bytes of a storage. When it is dropped, those go that no window shows and nobody else keeps.
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
    /// Keeps bytes of a storage that are shown.
    pub(super) fn of(storage: &Arc<Storage>, part: Range) -> Self {
        let place = Place::unique();
        storage.places().show(place, part);
        Self { storage: Arc::clone(storage), part, place }
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
        places.unseen(self.part).into_iter().for_each(|part| give_back(&self.storage, part));
    }
}

/// Gives back bytes that no window shows any more, and forbids to touch them. Nobody is told of a failure: they go with their storage.
fn give_back(storage: &Storage, part: Range) {
    let backing = storage.backing();
    if backing.buffer.is_some() || backing.is_foreign {
        return;
    }
    // SAFETY: whole pages of our own storage, which nobody sees, and no reader is left who did.
    let _ = unsafe { free(storage, part) };
    // Not mapped over: who tracks the pages of the storage by their addresses could not go on.
    // SAFETY: as above.
    let _ = unsafe { storage.protection().forbid(part, storage.own_pages_of(part)) };
}

/// Frees whole pages of a storage: of a private file, it shows the file again; else zeroes.
///
/// # Safety
/// The pages are the storage's own, and nobody needs the contents.
pub(super) unsafe fn free(storage: &Storage, part: Range) -> io::Result<()> {
    let (backing, (host, size)) = (storage.backing(), storage.pages_of(part));
    let freed = match &backing.file {
        Some(file) if !backing.is_private() => match backing.offset.checked_add(part.base()) {
            Some(position) => file::punch_hole(file, position, part.size()),
            None => Ok(()),
        },
        None if !backing.is_private() => {
            // SAFETY: the caller's promise.
            unsafe { memory::remove_pages(host, size) }
        }
        // SAFETY: as above.
        _ => unsafe { memory::drop_pages(host, size) },
    };
    // Behind it, or a look in between would note the pages again.
    storage.holes().forget(part);
    freed
}
