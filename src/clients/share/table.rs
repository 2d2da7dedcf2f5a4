//! The storages and regions that a follower has, by its leader's numbers, and what a proposal makes of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::sync::Arc;

use super::channel::Message;
use super::record::{PlaceRecord, Record, StorageRecord};
use crate::memory::region::MappedRegion;
use crate::memory::storage::Storage;
use crate::model::error::{Errno, Error, Result};
use crate::model::ids::{Generation, Origin, RegionId};
use crate::model::int::index_sum;
use crate::model::layout::Layout;
use crate::model::range::Range;
use crate::model::region::{MAP_SHARED, PROT_READ, PROT_WRITE, Region, RegionType, SharedRegion};
use crate::model::region_map::{RegionEntry, RegionMap};
use crate::model::reserved::{ReservedKind, ReservedRange};
use crate::model::room::Room;
use crate::model::source::{Source, UserFile};
use crate::sys::file;

/// The most that a proposal can tell of: hundreds of times what large machines have.
const MOST_RECORDS: usize = 1 << 20;

/// A storage that is mapped here.
#[derive(Clone, Debug)]
struct KnownStorage {
    storage: Arc<Storage>,
    /// Whose bytes its regions show.
    origin: Origin,
    file: UserFile,
    offset: u64,
    is_writable: bool,
    /// How many regions show it.
    windows: usize,
}

/// A proposal of the leader's, as its messages come in.
#[derive(Debug, Default)]
pub(super) struct Proposed {
    pub(super) sequence: u64,
    pub(super) generation: u64,
    gone: Vec<u64>,
    storages: Vec<(StorageRecord, File)>,
    places: Vec<PlaceRecord>,
    layout: Option<[u64; 3]>,
    ranges: Vec<(u32, Range)>,
    /// Why it can't be followed, as far as that is known already.
    problem: Option<String>,
    /// The leader's number for its space.
    pub(super) id: [u8; 16],
}

impl Proposed {
    /// Adds what a message brings; an error when a leader tells of more than any has.
    pub(super) fn add(&mut self, message: Message) -> Result<()> {
        let known = [self.gone.len(), self.storages.len(), self.places.len(), self.ranges.len()];
        if known.into_iter().fold(message.records.len(), index_sum) > MOST_RECORDS {
            let message = format!("the leader tells of more than {MOST_RECORDS} regions, storages and ranges");
            return Err(Error::Share { message });
        }
        (self.sequence, self.generation) = (message.header.sequence, message.header.generation);
        if message.is_cut || message.descriptors.len() < message.header.descriptors.into() {
            let why =
                "this process has no room for the descriptors: raise RLIMIT_NOFILE (ulimit -n, resource.setrlimit)";
            self.problem = Some(why.into());
        }
        let mut files: Vec<Option<File>> = message.descriptors.into_iter().map(Some).collect();
        for record in message.records {
            match record {
                Record::Storage(storage) => match files.get_mut(usize::from(storage.descriptor)).and_then(Option::take)
                {
                    Some(file) => self.storages.add((storage, file))?,
                    None => _ = self.problem.get_or_insert_with(|| "a storage came without its descriptor".into()),
                },
                Record::Place(place) => self.places.add(place)?,
                Record::Region(region) => self.gone.add(region)?,
                Record::Layout(ends, _, id) => (self.layout, self.id) = (Some(ends), id),
                Record::Range(kind, range) => self.ranges.add((kind, range))?,
                Record::Lease(..) | Record::Text(_) | Record::Wish(..) => {}
            }
        }
        Ok(())
    }

    /// The empty map of the leader's layout.
    pub(super) fn empty_map(&self) -> Result<RegionMap> {
        let [phys_end, mem_start, mem_end] = self.layout.ok_or_else(|| bad("it came without a layout"))?;
        let windows = self.ranges.iter().filter(|(kind, _)| *kind == 0).map(|(_, range)| *range).collect();
        let reserved = self.ranges.iter().filter_map(|(kind, range)| {
            let place = usize::try_from(kind.checked_sub(1)?).ok()?;
            Some(ReservedRange { range: *range, kind: *ReservedKind::ALL.get(place)? })
        });
        let layout = Layout::new(phys_end, mem_start, mem_end, windows)?.with_reserved(reserved.collect())?;
        Ok(RegionMap::empty(layout))
    }
}

fn bad(why: &str) -> Error {
    Error::Share { message: format!("the leader's proposal can't be followed: {why}") }
}

/// All that a follower has.
#[derive(Debug)]
pub(super) struct Table {
    leader: u32,
    map: RegionMap,
    storages: HashMap<u64, KnownStorage>,
    /// With the number of the storage that each shows.
    regions: HashMap<u64, (RegionEntry, u64)>,
}

/// The outcome of a proposal for a table, with all memory that it takes.
#[derive(Debug)]
pub(super) struct NextTable {
    /// The map behind it.
    pub(super) map: RegionMap,
    /// The storages that come regions show.
    storages: HashMap<u64, KnownStorage>,
    gone: Vec<u64>,
    regions: HashMap<u64, (RegionEntry, u64)>,
}

impl Table {
    /// Nothing yet; `map` has the leader's layout.
    pub(super) fn new(leader: u32, map: RegionMap) -> Self {
        Self { leader, map, storages: HashMap::new(), regions: HashMap::new() }
    }

    /// Maps what a proposal brings, and lays out what it makes of the map; nothing that is seen changes.
    pub(super) fn follow(&self, proposed: Proposed) -> Result<NextTable> {
        if let Some(problem) = &proposed.problem {
            return Err(bad(problem));
        }
        let mut storages = HashMap::new();
        for (record, file) in proposed.storages {
            if let (Entry::Vacant(new), false) = (storages.entry(record.id), self.storages.contains_key(&record.id)) {
                new.insert(received(&record, file)?);
            }
        }
        let mut regions = HashMap::new();
        for place in &proposed.places {
            let known = self.storage_of(place, &mut storages)?;
            regions.insert(place.region, (self.entry(place, known)?, place.storage));
        }
        let left = proposed.gone.iter().chain(regions.keys()).filter_map(|number| self.regions.get(number));
        let left = left.map(|(entry, _)| entry.id).collect();
        let map = self.map.edited(&left, regions.values().map(|(entry, _)| entry.clone()).collect())?;
        let map = map.at_generation(Generation(proposed.generation));
        Ok(NextTable { map, storages, gone: proposed.gone, regions })
    }

    /// The storage that a place shows, which is among the given ones then.
    fn storage_of<'a>(
        &self,
        place: &PlaceRecord,
        storages: &'a mut HashMap<u64, KnownStorage>,
    ) -> Result<Option<&'a KnownStorage>> {
        if place.storage == 0 {
            return Ok(None);
        }
        if let Some(known) = self.storages.get(&place.storage) {
            storages.entry(place.storage).or_insert_with(|| known.clone());
        }
        let known = storages.get(&place.storage);
        known.map(Some).ok_or_else(|| bad("a region shows a storage that never came"))
    }

    /// The proposal is published: what no region shows any more goes.
    pub(super) fn publish(&mut self, next: NextTable) {
        self.map = next.map;
        let mut touched: Vec<u64> = next.storages.keys().copied().collect();
        for (id, known) in next.storages {
            self.storages.entry(id).or_insert(known);
        }
        touched.extend(next.gone.iter().filter_map(|number| self.forget(*number)));
        for (number, region) in next.regions {
            touched.extend(self.forget(number));
            if let Some(known) = self.storages.get_mut(&region.1) {
                known.windows = known.windows.saturating_add(1);
            }
            self.regions.insert(number, region);
        }
        for id in touched {
            if let Entry::Occupied(known) = self.storages.entry(id)
                && known.get().windows == 0
            {
                known.remove();
            }
        }
    }

    /// Takes a region out, and gives the storage that it showed.
    fn forget(&mut self, number: u64) -> Option<u64> {
        let (_, storage) = self.regions.remove(&number)?;
        let known = self.storages.get_mut(&storage)?;
        known.windows = known.windows.saturating_sub(1);
        Some(storage)
    }

    /// The number that the leader has for a region.
    pub(super) fn number_of(&self, region: &SharedRegion) -> Option<u64> {
        let found = self.regions.iter().find(|(_, (entry, _))| Arc::ptr_eq(&entry.desc, region));
        found.map(|(number, _)| *number)
    }

    fn entry(&self, place: &PlaceRecord, known: Option<&KnownStorage>) -> Result<RegionEntry> {
        let old = self.regions.get(&place.region).map(|(entry, _)| entry);
        let desc = self.description(place, known)?;
        if let Some(old) = old.filter(|old| *old.desc == desc) {
            return Ok(old.clone());
        }
        let (origin, at) = match known {
            Some(known) => (known.origin, place.at),
            None => (old.map_or_else(Origin::unique, |old| old.origin), 0),
        };
        let shows_same = |old: &&RegionEntry| old.range != place.range || (old.origin, old.at) == (origin, at);
        // Other bytes at the same addresses are another region.
        let id = old.filter(shows_same).map_or_else(RegionId::unique, |old| old.id);
        Ok(RegionEntry { id, desc: Arc::new(desc), origin, at })
    }

    fn description(&self, place: &PlaceRecord, known: Option<&KnownStorage>) -> Result<Region> {
        let mut source = Source::default();
        if let Some(known) = known {
            let file_offset = known.offset.checked_add(place.at).ok_or_else(|| bad("an offset exceeds 2^64"))?;
            source = Source { file: Some(known.file.clone()), file_offset, ..source };
        }
        let mut region = Region::new(place.region_type, place.range, source)?;
        region.name.clone_from(&place.name);
        region.is_hotplug = place.is_hotplug;
        match known {
            Some(known) => {
                region.perm_flags = MAP_SHARED;
                region.prot_flags = place.prot_flags & !if known.is_writable { 0 } else { PROT_WRITE };
                region.is_anonpage = false;
            }
            None if place.region_type != RegionType::DeviceMemory => {
                region.prot_flags = place.prot_flags;
                region.source.elsewhere = Some(self.leader);
            }
            None => {}
        }
        if known.is_some() {
            region.check()?;
        }
        Ok(region)
    }
}

impl NextTable {
    /// The memory of a region that is new here, or that has moved.
    pub(super) fn map_region(&self, entry: &RegionEntry) -> Result<Arc<MappedRegion>> {
        self.map_behind(None, entry)
    }

    fn map_behind(&self, before: Option<&MappedRegion>, entry: &RegionEntry) -> Result<Arc<MappedRegion>> {
        let known = self.storages.values().find(|known| known.origin == entry.origin);
        let known = known.ok_or_else(|| bad("a region shows no storage"))?;
        MappedRegion::on(entry, &known.storage, entry.at, before).map(Arc::new)
    }

    /// The memory of all regions, by ascending base.
    pub(super) fn map_all(&self) -> Result<Vec<Arc<MappedRegion>>> {
        let mut all: Vec<Arc<MappedRegion>> = Vec::new();
        for entry in self.map.regions().iter().filter(|entry| entry.has_memory()) {
            all.push(self.map_behind(all.last().map(Arc::as_ref), entry)?);
        }
        Ok(all)
    }
}

/// Maps a storage whole, to be seen through windows.
fn received(record: &StorageRecord, file: File) -> Result<KnownStorage> {
    let failed = |error: std::io::Error| Error::Backing {
        message: format!("looking at a descriptor of the leader's failed: {error}"),
        errno: Errno::from(&error),
        region: None,
    };
    let is_writable = record.is_writable && file::protection(&file).map_err(failed)? & PROT_WRITE != 0;
    let file = UserFile { identity: file::identity(&file).map_err(failed)?, file: Arc::new(file), path: None };
    let source = Source { file: Some(file.clone()), file_offset: record.offset, ..Source::default() };
    let range = Range::new(0, record.size)?;
    let mut desc = Region::new(RegionType::DefaultMemory, range, source)?;
    desc.prot_flags = if is_writable { PROT_READ | PROT_WRITE } else { PROT_READ };
    let storage = Storage::received(&Arc::new(desc))?;
    Ok(KnownStorage { storage, origin: Origin::unique(), file, offset: record.offset, is_writable, windows: 0 })
}
