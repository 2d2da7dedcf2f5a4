//! Where each byte of memory lies in the data of an image.

use std::sync::Arc;

use super::chunk::CHUNK;
use super::header::AREA;
use crate::memory::section::Section;
use crate::model::error::{Error, Result};
use crate::model::format;
use crate::model::ids::{Lineage, StorageId};
use crate::model::range::{Range, joined};
use crate::model::region::{PROT_READ, RegionType};
use crate::model::room::{self, Room};

/// The place of one storage in the data.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// The identity of its bytes.
    pub lineage: Lineage,
    /// Its place.
    pub place: Range,
    /// The guest physical address of its first byte, if a region shows it.
    pub address: Option<u64>,
}

/// The memory that is saved, and the place of each byte.
#[derive(Debug)]
pub struct Plan<'a> {
    areas: Vec<Area>,
    /// Whether the parent has each area.
    known: Vec<bool>,
    storages: Vec<(StorageId, usize)>,
    /// Each region, by ascending address, with its place in the data as its buffer.
    sections: Vec<Section<'a>>,
    /// Each byte once, by ascending place.
    cover: Vec<Section<'a>>,
}

impl<'a> Plan<'a> {
    /// Places the memory of a space, where the parent has it too, or behind what the parent has.
    pub fn of(sections: impl Iterator<Item = Section<'a>>, parent: &[Area], parent_size: u64) -> Result<Self> {
        let is_saved = |section: &Section<'_>| {
            matches!(section.region().desc().region_type, RegionType::DefaultMemory | RegionType::FirmwareMemory)
        };
        let sections = room::collected(sections.filter(is_saved))?;
        sections.iter().try_for_each(check_readable)?;
        let (areas, known, storages) = (Vec::new(), Vec::new(), Vec::new());
        let mut plan = Self { areas, known, storages, sections, cover: Vec::new() };
        plan.place_areas(parent, parent_size)?;
        plan.place_sections();
        plan.find_cover()?;
        Ok(plan)
    }

    fn place_areas(&mut self, parent: &[Area], parent_size: u64) -> Result<()> {
        let mut free = Range::between(parent_size, u64::MAX >> 1);
        let storages = self.sections.iter().map(|section| section.region().storage().lineage());
        let mut lineages = room::collected(storages)?;
        lineages.sort_unstable();
        for section in &self.sections {
            let storage = section.region().storage();
            let Err(index) = self.storages.binary_search_by_key(&storage.id(), |known| known.0) else { continue };
            let (lineage, size) = (storage.lineage(), storage.whole().size());
            let address = (section.part().base() == 0).then_some(section.address());
            let fits = |area: &&Area| area.place.size() == size;
            let same = parent.iter().filter(fits).find(|area| area.lineage == lineage);
            // Other memory at the same address may be alike: it is compared.
            let is_free = |area: &&Area| {
                address.is_some() && area.address == address && lineages.binary_search(&area.lineage).is_err()
            };
            let place = match same.or_else(|| parent.iter().filter(fits).find(is_free)) {
                Some(old) => old.place,
                None => {
                    let place = free.take(size);
                    free = free.skip(size.checked_next_multiple_of(AREA).unwrap_or(u64::MAX));
                    place
                }
            };
            self.storages.add((storage.id(), self.areas.len()))?;
            self.storages.get_mut(index..).into_iter().for_each(|rest| rest.rotate_right(1));
            self.known.add(same.is_some())?;
            self.areas.add(Area { lineage, place, address })?;
        }
        Ok(())
    }

    fn place_sections(&mut self) {
        let mut sections = std::mem::take(&mut self.sections);
        for section in &mut sections {
            let area = self.areas.get(self.index_of(section)).map_or(Range::between(0, 0), |area| area.place);
            *section = section.placed(area.skip(section.part().base()).base());
        }
        self.sections = sections;
    }

    fn find_cover(&mut self) -> Result<()> {
        let mut all = room::collected(self.sections.iter().copied())?;
        all.sort_unstable_by_key(|section| section.buffer().base());
        let mut reached = 0;
        for section in all {
            let place = section.buffer();
            // Bytes that several regions show are saved once.
            let rest = section.skip(reached.max(place.base()).abs_diff(place.base()));
            reached = reached.max(place.end());
            self.cover.add_all((!rest.is_empty()).then_some(rest))?;
        }
        Ok(())
    }

    fn index_of(&self, section: &Section<'_>) -> usize {
        let storage = section.region().storage().id();
        let index = self.storages.binary_search_by_key(&storage, |known| known.0).ok();
        index.and_then(|index| self.storages.get(index)).map(|known| known.1).unwrap_or_default()
    }

    /// The areas, in the order in which the regions first show them.
    pub fn areas(&self) -> &[Area] {
        &self.areas
    }

    /// For each region its address, the index of its area and the offset at which it begins there.
    pub fn regions(&self) -> impl Iterator<Item = (u64, usize, u64)> {
        self.sections.iter().map(|section| (section.address(), self.index_of(section), section.part().base()))
    }

    /// The bytes that the data has room for.
    pub fn data_size(&self, parent_size: u64) -> u64 {
        self.areas.iter().fold(parent_size, |size, area| size.max(area.place.end()))
    }

    /// Whether the parent has all of a section that is not dirty.
    fn is_known(&self, section: &Section<'_>) -> bool {
        self.known.get(self.index_of(section)).is_some_and(|known| *known)
    }

    /// The files that the memory is mapped from, by device and inode.
    pub fn files(&self) -> Result<Vec<(u64, u64)>> {
        let files = self.sections.iter().filter_map(|section| section.region().desc().source.file.as_ref());
        room::collected(files.map(|file| file.identity))
    }

    /// The bytes to look at: of memory that the parent has, whole chunks with a dirty page; of other memory what has data.
    pub fn to_read(&self, dirty: Option<&[Range]>) -> Result<Vec<Section<'a>>> {
        let chunks = dirty.map(|dirty| self.chunks_of(dirty)).transpose()?;
        let mut all = Vec::new();
        for section in &self.cover {
            match &chunks {
                Some(chunks) if self.is_known(section) => all.add_all(cut(section, chunks))?,
                _ => all.add_all(section.with_data()?)?,
            }
        }
        Ok(all)
    }

    /// All chunks with a page of some ranges, whole.
    pub fn again(&self, ranges: &[Range]) -> Result<Vec<Section<'a>>> {
        let chunks = self.chunks_of(ranges)?;
        let mut all = Vec::new();
        self.cover.iter().try_for_each(|section| all.add_all(cut(section, &chunks)))?;
        Ok(all)
    }

    /// The places of the chunks with a byte of some addresses, which ascend.
    fn chunks_of(&self, ranges: &[Range]) -> Result<Vec<Range>> {
        let around = |place: Range| Range::between(place.base() & !(CHUNK - 1), place.end().next_multiple_of(CHUNK));
        Ok(joined(room::collected(self.places_of(ranges)?.into_iter().map(around))?))
    }

    /// The places of some addresses, which ascend, ascending.
    pub fn places_of(&self, ranges: &[Range]) -> Result<Vec<Range>> {
        let mut places = Vec::new();
        for section in &self.sections {
            let first = ranges.partition_point(|range| range.end() <= section.address());
            let touching = ranges.iter().skip(first).take_while(|range| range.base() < section.range().end());
            places.add_all(touching.map(|range| section.within(*range).buffer()))?;
        }
        places.sort_unstable();
        Ok(joined(places))
    }

    /// The places of memory that the parent has, of which what nobody has looked at is as it was there.
    pub fn known_places(&self) -> Result<Vec<Range>> {
        let known = self.areas.iter().zip(&self.known).filter(|(_, known)| **known);
        let mut places = room::collected(known.map(|(area, _)| area.place))?;
        places.sort_unstable();
        Ok(places)
    }
}

/// The parts of a section at some places.
fn cut<'a>(section: &Section<'a>, places: &[Range]) -> impl Iterator<Item = Section<'a>> {
    let (here, section) = (section.buffer(), *section);
    let first = places.partition_point(|place| place.end() <= here.base());
    let last = places.partition_point(|place| place.base() < here.end());
    places.get(first..last).unwrap_or_default().iter().map(move |place| {
        let inside = place.intersection(&here);
        section.skip(inside.base().abs_diff(here.base())).take(inside.size())
    })
}

fn check_readable(section: &Section<'_>) -> Result<()> {
    let desc = section.region().desc();
    if desc.prot_flags & PROT_READ != 0 {
        return Ok(());
    }
    Err(Error::AccessDenied {
        message: format!("save: {desc} can't be read: it is {}", format::protection(desc.prot_flags)),
        address: section.address(),
        size: section.size(),
        region: Arc::clone(desc),
    })
}
