//! A change of the leader's space as its followers are told of it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::record::{PlaceRecord, Record, StorageRecord};
use super::wire::{self, Kind, Packed};
use crate::memory::exported::ExportedStorage;
use crate::memory::region::MappedRegion;
use crate::model::error::{Errno, Error, Result};
use crate::model::ids::StorageId;
use crate::model::layout::Layout;
use crate::model::region::{PROT_WRITE, SharedRegion};
use crate::model::region_map::RegionEntry;
use crate::model::reserved::ReservedKind;
use crate::space::proposal::Proposal;
use crate::sys::file;

/// How many regions show a storage that the followers have.
pub(super) type Known = HashMap<StorageId, usize>;

/// A change for followers to make, with all that they need for it.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) generation: u64,
    storages: Vec<ExportedStorage>,
    gone: Vec<u64>,
    places: Vec<PlaceRecord>,
    /// The regions that may be in use there, by their numbers.
    leaving: Vec<(u64, SharedRegion)>,
    layout: Vec<Record>,
}

impl Offer {
    /// All that a change takes and brings, but the storages that are known.
    pub(super) fn of(proposal: &Proposal, known: &Known, skips_private: bool) -> Result<Self> {
        let change = &proposal.change;
        let described = change.replaced.iter().map(|(_, new)| new);
        let leaving = change.removed.iter().chain(change.replaced.iter().map(|(old, _)| old));
        let gone = change.removed.iter().filter(|removed| !change.goes_on(removed));
        let mut offer = Self {
            generation: change.after.generation().0,
            storages: vec![],
            gone: gone.map(|removed| removed.id.number()).collect(),
            places: vec![],
            leaving: leaving.map(|region| (region.id.number(), Arc::clone(region))).collect(),
            layout: vec![],
        };
        let mut sent = HashSet::new();
        for region in change.added.iter().chain(described) {
            let mapped = proposal.mapping(region).filter(|_| region.has_memory());
            let shared = mapped.map(|mapped| shared(mapped, skips_private)).transpose()?.flatten();
            let is_new = |storage: &&ExportedStorage| !known.contains_key(&storage.id) && sent.insert(storage.id);
            if let Some(storage) = shared.as_ref().filter(is_new) {
                offer.storages.push(storage.clone());
            }
            let shown = mapped.map(Arc::as_ref).zip(shared.as_ref());
            offer.places.push(place(region, shown, mapped.is_some()));
        }
        Ok(offer)
    }

    /// The same with the layout, for one who has nothing yet.
    pub(super) fn with_layout(self, layout: &Layout, deadline_ms: u32, id: [u8; 16]) -> Self {
        let ends = [layout.phys_end(), layout.mem_start(), layout.mem_end()];
        let windows = layout.mmio_windows().iter().map(|window| Record::Range(0, *window));
        let reserved =
            layout.reserved().iter().map(|reserved| Record::Range(kind_number(reserved.kind), reserved.range));
        Self {
            layout: [Record::Layout(ends, deadline_ms, id)].into_iter().chain(windows).chain(reserved).collect(),
            ..self
        }
    }

    /// The messages for followers that may write, or that may not.
    pub(super) fn messages(&self, kind: Kind, sequence: u64, may_write: bool) -> Result<Messages> {
        let mut files = Vec::new();
        let mut records = self.layout.clone();
        records.extend(self.gone.iter().map(|region| Record::Region(*region)));
        for storage in &self.storages {
            let (file, is_writable) = descriptor(storage, may_write)?;
            files.push(file);
            records.push(Record::Storage(StorageRecord {
                id: number(storage.id),
                size: storage.size,
                offset: storage.offset,
                page_size: storage.page_size,
                is_writable,
                is_huge: storage.is_huge,
                descriptor: 0,
            }));
        }
        records.extend(self.places.iter().cloned().map(Record::Place));
        Ok(Messages { packed: wire::pack(kind, sequence, self.generation, &records), files })
    }

    /// The region of a number, which a follower has named.
    pub(super) fn region(&self, number: u64) -> Option<&SharedRegion> {
        self.leaving.iter().find(|(region, _)| *region == number).map(|(_, region)| region)
    }
}

/// Messages and their descriptors.
#[derive(Debug)]
pub(super) struct Messages {
    pub(super) packed: Vec<Packed>,
    files: Vec<Arc<File>>,
}

impl Messages {
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.files.iter().map(|file| file.as_fd()).collect()
    }
}

/// Counts what a change did to the windows on each storage.
pub(super) fn count(known: &mut Known, proposal: &Proposal) {
    let storage = |region: &RegionEntry| proposal.mapping(region).map(|mapped| mapped.storage().id());
    for id in proposal.change.added.iter().filter_map(storage) {
        let count = known.entry(id).or_default();
        *count = count.saturating_add(1);
    }
    for id in proposal.change.removed.iter().filter_map(storage) {
        if let Some(count) = known.get_mut(&id) {
            *count = count.saturating_sub(1);
        }
    }
    known.retain(|_, count| *count > 0);
}

/// 0 stands for no storage.
const fn number(id: StorageId) -> u64 {
    id.number().saturating_add(1)
}

fn kind_number(kind: ReservedKind) -> u32 {
    let place = ReservedKind::ALL.iter().position(|other| *other == kind).unwrap_or_default();
    u32::try_from(place).unwrap_or(0).saturating_add(1)
}

/// The storage of a region for other processes; `None` of one that is skipped.
fn shared(mapped: &MappedRegion, skips_private: bool) -> Result<Option<ExportedStorage>> {
    match mapped.is_private_because() {
        Some(_) if skips_private => Ok(None),
        Some(why) => Err(not_shared(mapped.desc(), why)),
        None => Ok(mapped.export_storage()),
    }
}

fn not_shared(region: &SharedRegion, why: &str) -> Error {
    let how =
        String::from("give it mem_type=\"shmem\" or a file that is mapped MAP_SHARED, or share with private=\"skip\"");
    let message = format!("cannot share {region}: {why}; {how}");
    Error::Unsupported { message, feature: "share", how, region: Some(Arc::clone(region)) }
}

fn place(region: &RegionEntry, shared: Option<(&MappedRegion, &ExportedStorage)>, has_bytes: bool) -> PlaceRecord {
    PlaceRecord {
        region: region.id.number(),
        range: region.range,
        storage: shared.map_or(0, |(_, storage)| number(storage.id)),
        at: shared.map_or(0, |(mapped, _)| mapped.start_in_storage()),
        region_type: region.region_type,
        prot_flags: region.prot_flags,
        is_hotplug: region.is_hotplug,
        is_elsewhere: has_bytes && shared.is_none(),
        name: region.name.clone(),
    }
}

/// The descriptor to send, and whether it can be written through.
fn descriptor(storage: &ExportedStorage, may_write: bool) -> Result<(Arc<File>, bool)> {
    let is_writable = file::protection(&storage.file).is_ok_and(|flags| flags & PROT_WRITE != 0);
    if may_write || !is_writable {
        return Ok((Arc::clone(&storage.file), is_writable));
    }
    let reopened = file::reopen(&storage.file).map_err(|error| Error::Backing {
        message: format!("a descriptor that only reads can't be opened for a follower: {error}"),
        errno: Errno::from(&error),
        region: None,
    })?;
    Ok((Arc::new(reopened), false))
}
