//! Bytes that several processes map: what one tells the others of a storage, and the storage that they make of it.

use std::fs::File;
use std::sync::Arc;

use super::region::MappedRegion;
use super::storage::Storage;
use super::window::Window;
use crate::model::error::Result;
use crate::model::ids::StorageId;
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionEntry;

/// All that another process needs to map a storage.
#[derive(Clone, Debug)]
pub struct ExportedStorage {
    /// Which storage it is.
    pub id: StorageId,
    /// Its file.
    pub file: Arc<File>,
    /// Where in the file it begins.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes a page.
    pub page_size: u64,
    /// Whether its pages come from the pool of huge pages.
    pub is_huge: bool,
}

impl MappedRegion {
    /// Why no other process can map its bytes, if none can.
    pub fn is_private_because(&self) -> Option<&'static str> {
        let backing = self.storage().backing();
        if backing.is_window {
            Some("it is a DAX window, whose files come and go in this process")
        } else if backing.has_fault_handler {
            Some("its pages are brought in by this process")
        } else if backing.buffer.is_some() {
            Some("its buffer belongs to this process")
        } else {
            (backing.file.is_none() || backing.is_private()).then_some("its memory is private to this process")
        }
    }

    /// Its storage for another process, which may punch and truncate the file from here on; `None` where none can map it.
    ///
    /// Waits for direct copies in flight, so it must be called without the interpreter's lock.
    pub fn export_storage(&self) -> Option<ExportedStorage> {
        let storage = self.storage();
        let file = self.is_private_because().is_none().then(|| storage.export_file()).flatten()?;
        let (page_size, is_huge) = (storage.page_size(), storage.backing().is_huge);
        Some(ExportedStorage {
            id: storage.id(),
            file,
            offset: storage.in_file(0)?,
            size: storage.whole().size(),
            page_size,
            is_huge,
        })
    }

    /// The offset in the storage at which it begins.
    pub fn start_in_storage(&self) -> u64 {
        self.window().shown().base()
    }

    /// A region that shows the bytes of a storage from an offset on; until they are shown there, it gives no lease.
    ///
    /// It is seen through the place of the region before it where that may be another part of what was one region, and else through its own.
    pub fn on(entry: &RegionEntry, storage: &Arc<Storage>, at: u64, before: Option<&Self>) -> Result<Self> {
        let shown = Range::at(at, entry.size());
        if shown.size() != entry.size() || !storage.whole().covers(&shown) {
            let message = format!("{entry} would show bytes behind the end of its storage");
            return Err(Invalid::at(message, Some(entry.base()), Some(entry.size())).into());
        }
        storage.check_pages(&entry.desc, shown)?;
        let before = before.filter(|before| before.entry().agrees_with(entry));
        let window =
            before.map_or_else(|| Window::new(entry.range, at), |before| before.window().beside(entry.range, at));
        Ok(Self::of(entry.clone(), Arc::clone(storage), window))
    }
}

impl Storage {
    /// Maps bytes of a file for regions that are to come: none shows any of them yet.
    pub fn received(region: &SharedRegion) -> Result<Arc<Self>> {
        Self::new(region).map(Arc::new)
    }
}
