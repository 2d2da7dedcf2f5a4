//! Saving the memory of a space.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::chain::Image;
use super::chunk::{self, Buffer, CHUNK, Digest};
use super::header::AREA;
use super::part::fault;
use super::writer::{Description, Writer};
use crate::memory::scan::{self, Chunk};
use crate::memory::section::Section;
use crate::memory::tracking::Consumer;
use crate::model::error::{Error, ImageFault, Result};
use crate::model::format;
use crate::model::ids::{ConsumerId, Incarnation, Lineage, StorageId};
use crate::model::int::{index_sum, u64_of, usize_of};
use crate::model::interrupt::{Interrupt, Uninterrupted};
use crate::model::range::{Range, joined};
use crate::model::region::{PROT_READ, RegionType};
use crate::model::room::{self, Room};
use crate::model::tracking::TrackingMode;
use crate::space::AddressSpace;

/// How often pages are saved again that were written meanwhile.
const AGAIN: usize = 2;
const STAGE: &str = "save";

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
    /// Each region, by ascending address.
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
        plan.place_all(parent, parent_size)?;
        plan.find_cover()?;
        Ok(plan)
    }

    fn place_all(&mut self, parent: &[Area], parent_size: u64) -> Result<()> {
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

    fn find_cover(&mut self) -> Result<()> {
        let mut all = room::collected(self.sections.iter().copied())?;
        all.sort_unstable_by_key(|section| self.place_of(section).base());
        let mut reached = 0;
        for section in all {
            let place = self.place_of(&section);
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

    fn area_of(&self, section: &Section<'_>) -> Range {
        self.areas.get(self.index_of(section)).map_or(Range::between(0, 0), |area| area.place)
    }

    /// The place of a section in the data.
    fn place_of(&self, section: &Section<'_>) -> Range {
        self.area_of(section).skip(section.part().base()).take(section.size())
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

    /// The bytes to look at: of memory that the parent has, whole chunks with a dirty page; of other memory what has data.
    pub fn to_read(&self, dirty: Option<&[Range]>) -> Result<Vec<Section<'a>>> {
        let chunks = dirty.map(|dirty| self.chunks_of(dirty)).transpose()?;
        let mut all = Vec::new();
        for section in &self.cover {
            match &chunks {
                Some(chunks) if self.is_known(section) => all.add_all(self.cut(section, chunks))?,
                _ => all.add_all(section.with_data()?)?,
            }
        }
        Ok(all)
    }

    /// All chunks with a page of some ranges, whole.
    pub fn again(&self, ranges: &[Range]) -> Result<Vec<Section<'a>>> {
        let chunks = self.chunks_of(ranges)?;
        let mut all = Vec::new();
        self.cover.iter().try_for_each(|section| all.add_all(self.cut(section, &chunks)))?;
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
            places.add_all(touching.map(|range| self.place_of(&section.within(*range))))?;
        }
        places.sort_unstable();
        Ok(joined(places))
    }

    /// The parts of a section at some places.
    fn cut(&self, section: &Section<'a>, places: &[Range]) -> impl Iterator<Item = Section<'a>> {
        let (here, section) = (self.place_of(section), *section);
        let first = places.partition_point(|place| place.end() <= here.base());
        let last = places.partition_point(|place| place.base() < here.end());
        places.get(first..last).unwrap_or_default().iter().map(move |place| {
            let inside = place.intersection(&here);
            section.skip(inside.base().abs_diff(here.base())).take(inside.size())
        })
    }
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

/// Takes chunks of memory, one after the other.
pub trait ChunkSink {
    /// Takes all bytes of a chunk; `fed` are the pages of it that are not known to be zero.
    fn put(&mut self, number: u64, bytes: &[u8], fed: u16) -> Result<()>;
}

impl ChunkSink for Writer<'_> {
    fn put(&mut self, number: u64, bytes: &[u8], fed: u16) -> Result<()> {
        Writer::put(self, number, bytes, fed)
    }
}

/// Brings the bytes of memory together in chunks.
#[derive(Debug)]
pub struct Assembler<'w, S> {
    sink: &'w mut S,
    number: Option<u64>,
    buffer: Buffer,
    fed: u16,
    seen: Vec<u64>,
}

impl<'w, S: ChunkSink> Assembler<'w, S> {
    /// Gives the chunks to a sink.
    pub fn new(sink: &'w mut S) -> Result<Self> {
        Ok(Self { sink, number: None, buffer: Image::buffer()?, fed: 0, seen: Vec::new() })
    }

    /// Reads sections of a plan, by ascending place.
    pub fn read(
        &mut self,
        plan: &Plan<'_>,
        (stage, sections): (&'static str, &[Section<'_>]),
        interrupt: &dyn Interrupt,
    ) -> Result<()> {
        scan::walk(sections, stage, interrupt, |part, chunk| {
            let place = plan.place_of(part);
            match chunk {
                Chunk::Data(bytes) => self.feed(place.base(), bytes)?,
                Chunk::Hole => self.pass(place)?,
            }
            Ok(ControlFlow::<()>::Continue(()))
        })?;
        self.flush()
    }

    fn feed(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let (mut at, mut left) = (at, bytes);
        while !left.is_empty() {
            self.enter(at / CHUNK)?;
            let offset = at % CHUNK;
            let (part, rest) = left.split_at(left.len().min(usize_of(CHUNK.saturating_sub(offset))));
            let size = u64_of(part.len());
            let room = self.buffer.get_mut(usize_of(offset)..index_sum(usize_of(offset), part.len()));
            room.into_iter().for_each(|room| room.copy_from_slice(part));
            self.fed |= chunk::pages_of(offset, size);
            (at, left) = (at.saturating_add(size), rest);
        }
        Ok(())
    }

    /// Goes over zeroes.
    fn pass(&mut self, place: Range) -> Result<()> {
        (place.base() / CHUNK..place.end().div_ceil(CHUNK)).try_for_each(|number| self.enter(number))
    }

    fn enter(&mut self, number: u64) -> Result<()> {
        if self.number != Some(number) {
            self.flush()?;
            self.number = Some(number);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Some(number) = self.number.take() else { return Ok(()) };
        self.sink.put(number, &self.buffer, self.fed)?;
        self.buffer.fill(0);
        self.fed = 0;
        self.seen.add(number)
    }

    /// Of what the parent has and nobody has looked at, all is zero that is not known to be as it was.
    fn drop_rest(&mut self, plan: &Plan<'_>, parent: &Image, is_by_pages: bool) -> Result<()> {
        let kept = plan.areas.iter().zip(&plan.known).filter(|(_, known)| is_by_pages && **known);
        let mut kept = room::collected(kept.map(|(area, _)| area.place))?;
        kept.sort_unstable();
        let is_kept = |at: u64| {
            let index = kept.partition_point(|place| place.end() <= at);
            kept.get(index).is_some_and(|place| place.contains(at))
        };
        for (number, _) in parent.chunks() {
            if self.seen.binary_search(number).is_err() && !is_kept(number.saturating_mul(CHUNK)) {
                self.sink.put(*number, &self.buffer, 0)?;
            }
        }
        Ok(())
    }
}

/// All that saving takes.
#[allow(missing_debug_implementations, reason = "borrows what has none")]
pub struct Job<'a> {
    /// The memory, which leases hold.
    pub plan: &'a Plan<'a>,
    /// The name of the file.
    pub path: &'a Path,
    /// The image that it is to be a difference from.
    pub parent: Option<&'a Image>,
    /// The pages that may differ from the parent, by ascending address; `None` compares all.
    pub dirty: Option<&'a [Range]>,
    /// The rest of what the file says.
    pub description: Description,
    /// Whether all is brought to the disk.
    pub is_synced: bool,
}

impl Job<'_> {
    /// Writes the file, and gives its root digest. With a watch, a guest that runs meanwhile is noticed.
    pub fn run(mut self, watch: Option<&Watch<'_>>, interrupt: &dyn Interrupt) -> Result<Digest> {
        let files = self.plan.sections.iter().filter_map(|section| section.region().desc().source.file.as_ref());
        let in_use = room::collected(files.map(|file| file.identity))?;
        let mut writer = Writer::create(self.path, self.parent, &in_use)?;
        let mut assembler = Assembler::new(&mut writer)?;
        assembler.read(self.plan, (STAGE, &self.plan.to_read(self.dirty)?), interrupt)?;
        if let Some(parent) = self.parent {
            assembler.drop_rest(self.plan, parent, self.dirty.is_some())?;
        }
        if let Some(watch) = watch {
            self.repeat(&mut assembler, watch, interrupt)?;
        }
        self.description.is_watched = watch.is_some();
        interrupt.check()?;
        writer.finish(&self.description, self.is_synced)
    }

    /// Saves what was written meanwhile, until nothing is.
    fn repeat(
        &self,
        assembler: &mut Assembler<'_, Writer<'_>>,
        watch: &Watch<'_>,
        interrupt: &dyn Interrupt,
    ) -> Result<()> {
        for round in 0..=AGAIN {
            let again = self.plan.again(&watch.written(interrupt)?)?;
            let Some(first) = again.first() else { break };
            if round == AGAIN {
                let (at, desc) = (format::hex(first.address()), first.region().desc());
                let message =
                    format!("{desc} was written at {at} while it was saved: pause the guest's processors first");
                return Err(fault(self.path, ImageFault::Refused, message, None));
            }
            assembler.read(self.plan, (STAGE, &again), interrupt)?;
        }
        Ok(())
    }
}

/// Notices writes for as long as it is there.
#[derive(Debug)]
pub struct Watch<'a> {
    space: &'a AddressSpace,
    incarnation: Incarnation,
    id: ConsumerId,
}

impl<'a> Watch<'a> {
    /// Begins; `None` where the kernel can't watch some of the memory.
    pub fn begin(space: &'a AddressSpace, incarnation: Incarnation, interrupt: &dyn Interrupt) -> Result<Option<Self>> {
        let consumer = Consumer { id: ConsumerId::unique(), mode: TrackingMode::Pagemap, is_exact: false };
        match space.start_tracking(incarnation, consumer, interrupt) {
            Ok(()) => Ok(Some(Self { space, incarnation, id: consumer.id })),
            Err(Error::Unsupported { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn written(&self, interrupt: &dyn Interrupt) -> Result<Vec<Range>> {
        self.space.collect(self.incarnation, self.id, (chunk::PAGE, false), interrupt)?.pages.ranges()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // Refused only where the memory has gone, and the watch with it.
        let _ = self.space.stop_tracking(self.incarnation, self.id, &Uninterrupted);
    }
}
