//! The way back to a checkpoint: first the map, by a change as any other, then the bytes, in place.

use std::sync::Arc;
use std::time::Instant;

use super::change::map_one;
use super::point::{Kept, Point, PointRegion};
use super::space::AddressSpace;
use super::subscribe::WriterTurn;
use super::tracker::pages_of;
use crate::memory::difference;
use crate::memory::dirty::PAGE;
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region::MappedRegion;
use crate::memory::reset::ResetCounts;
use crate::memory::shadow::Expected;
use crate::memory::suspects::Suspects;
use crate::model::change::Change;
use crate::model::dirty::DirtyPages;
use crate::model::error::Result;
use crate::model::interrupt::{Interrupt, Uninterrupted};
use crate::model::range::Range;
use crate::model::region_map::{RegionEntry, RegionMap};
use crate::model::room::Room;

/// The most bytes that are put back with the interpreter's lock held: they take less time than to give it away and get it back.
const QUICK: u64 = 2 << 20;
/// The most bytes of memory whose page tables are looked at meanwhile.
const QUICK_SCAN: u64 = 256 << 20;

/// The windows of a storage as they are, as they were, and what is to be looked at in them.
struct Work<'a> {
    kept: &'a Kept,
    windows: Vec<&'a MappedRegion>,
    suspects: Suspects,
}

/// The bytes that a restore put back.
#[derive(Debug, Default)]
pub struct Restored {
    /// The number of pages of 4 KiB that differed.
    pub copied: u64,
    /// Their guest physical addresses, at every address where they are seen.
    pub pages: Vec<Range>,
}

impl AddressSpace {
    /// Makes map and bytes those of a checkpoint, and gives the pages that differed; its writers are paused by the caller.
    ///
    /// Refused before any byte is copied, nothing has changed; failed behind that, it can be done again.
    pub fn restore(&self, point: &Arc<Point>, interrupt: &dyn Interrupt) -> Result<Restored> {
        self.check_leads()?;
        let turn = self.take_turn(interrupt)?;
        let later = self.later_than(point)?;
        self.refuse_unseen(point.options)?;
        let begun = Instant::now();
        self.put_map_back(point, &turn)?;
        let (counts, pages) = self.restore_bytes(point, &later, u64::MAX, &*turn)?.unwrap_or_default();
        self.close_later(&later)?;
        note(point, counts, begun)?;
        Ok(Restored { copied: counts.copied, pages })
    }

    /// The same for whoever has the interpreter's lock, if that takes no longer than a moment; `None` if it would, and nothing is done.
    pub fn restore_quickly(&self, point: &Arc<Point>) -> Result<Option<Restored>> {
        self.check_process()?;
        self.check_leads()?;
        let size = self.load().memory_of(point.incarnation)?.regions().map(|region| region.range().size()).sum::<u64>();
        if size > QUICK_SCAN || point.sources().contains("compare") {
            return Ok(None);
        }
        let Some(_turn) = self.turn().try_take(&Uninterrupted)? else { return Ok(None) };
        let later = self.later_than(point)?;
        if *point.agrees.lock()? != self.load().map.generation() {
            return Ok(None);
        }
        self.refuse_unseen(point.options)?;
        let begun = Instant::now();
        let restored = self.restore_bytes(point, &later, QUICK, &Uninterrupted)?;
        let Some((counts, pages)) = restored else { return Ok(None) };
        self.close_later(&later)?;
        note(point, counts, begun)?;
        Ok(Some(Restored { copied: counts.copied, pages }))
    }

    /// Puts the map back: clients are asked, and leases veto. Regions that have gone get new memory, with the bytes that they had.
    fn put_map_back(&self, point: &Point, turn: &WriterTurn<'_>) -> Result<()> {
        let before = self.load_full();
        let generation = before.map.generation();
        if *point.agrees.lock()? == generation {
            return Ok(());
        }
        let after = Arc::new(RegionMap::clone(&point.map).at_generation(generation.next()));
        let change = Change::of_operations(&before.map, &after);
        if change.is_empty() {
            *point.agrees.lock()? = generation;
            return Ok(());
        }
        self.reservations()?.check_put_back(&change.claims(), &point.reservations)?;
        let memory = before.memory_after(&change, |entry, _| show(point, entry, &**turn))?;
        let added = change.added.clone();
        let (old, after) = self.publish_change(turn, before, change, memory.as_ref(), None)?;
        *point.agrees.lock()? = after.generation();
        let regions = added.iter().filter_map(|entry| memory.as_ref()?.find(entry.base()));
        regions.into_iter().try_for_each(|region| take_up(point, region))?;
        drop(old);
        Ok(())
    }

    /// Puts the bytes back, unless there are more suspects than that.
    fn restore_bytes(
        &self,
        point: &Point,
        later: &[Arc<Point>],
        most: u64,
        interrupt: &dyn Interrupt,
    ) -> Result<Option<(ResetCounts, Vec<Range>)>> {
        let snapshot = self.load_full();
        let memory = snapshot.memory_of(point.incarnation)?;
        let mut left = Vec::new();
        let found = find(point, memory, later, false, &mut left);
        if found.is_err() || left.iter().map(|work| work.suspects.size()).sum::<u64>() > most {
            left.iter().try_for_each(|work| work.kept.reset.put_back(&work.suspects))?;
            return found.map(|()| None);
        }
        let (mut counts, mut pages) = (ResetCounts::default(), Vec::new());
        while let Some(Work { kept, windows, suspects }) = left.pop() {
            let expected = Expected::all(&kept.shadow);
            let restored = kept.reset.restore(&windows, expected, &suspects, &mut counts, interrupt);
            let differing = restored.or_else(|error| {
                left.iter().try_for_each(|work| work.kept.reset.put_back(&work.suspects))?;
                Err(error)
            })?;
            for run in differing {
                pages.add_all(windows.iter().map(|region| region.window().guest_of(run)))?;
            }
        }
        for (region, expected) in strangers(point, memory) {
            let differing = difference::put_everything_back(&[region], expected?, point.consumer, interrupt)?;
            counts.copied = counts.copied.saturating_add(difference::pages_in(&differing));
            pages.add_all(differing.into_iter().map(|run| region.window().guest_of(run)))?;
        }
        pages.retain(|run| !run.is_empty());
        Ok(Some((counts, pages)))
    }

    /// The pages that a restore would change, or, by comparing everything, all that differ.
    pub fn differing(&self, point: &Arc<Point>, compares: bool, interrupt: &dyn Interrupt) -> Result<DirtyPages> {
        let turn = self.take_turn(interrupt)?;
        let later = self.later_than(point)?;
        let snapshot = self.load_full();
        let memory = snapshot.memory_of(point.incarnation)?;
        let (mut work, mut found) = (Vec::new(), Vec::new());
        find(point, memory, &later, true, &mut work)?;
        for Work { kept, windows, suspects } in work {
            let expected = Expected::all(&kept.shadow);
            let everything = windows.first().filter(|_| compares).map(|region| Suspects::everything(region, expected));
            let suspects = everything.unwrap_or(Ok(suspects))?;
            for run in difference::differing(&windows, expected, &suspects, &*turn)? {
                found.add_all(windows.iter().map(|region| region.window().guest_of(run)))?;
            }
        }
        for (region, expected) in strangers(point, memory) {
            let expected = expected?;
            let suspects = Suspects::everything(region, expected)?;
            let differing = difference::differing(&[region], expected, &suspects, &*turn)?;
            found.add_all(differing.into_iter().map(|run| region.window().guest_of(run)))?;
        }
        found.add_all(come_or_gone(point, memory))?;
        found.retain(|range| !range.is_empty());
        let sources = if compares { vec!["compare".into()] } else { names(point) };
        Ok(pages_of(&found, PAGE, sources)?.with_exactness(true))
    }
}

fn names(point: &Point) -> Vec<String> {
    point.sources().iter().map(|name| (*name).into()).collect()
}

fn note(point: &Point, counts: ResetCounts, begun: Instant) -> Result<()> {
    let mut stats = point.stats.lock()?;
    stats.resets = stats.resets.saturating_add(1);
    stats.counts = ResetCounts { hot: counts.hot, ..stats.counts.plus(counts) };
    stats.seconds += begun.elapsed().as_secs_f64();
    Ok(())
}

/// The region of a checkpoint that a region is, if its bytes are kept.
fn of_point<'a>(point: &'a Point, region: &MappedRegion) -> Option<(&'a PointRegion, &'a Kept)> {
    let then = point.region(region.range().base(), region.id())?;
    Some((then, point.kept.get(then.kept?)?))
}

/// The memory of a region that comes back: what it was, if that is still there, or new memory with the same bytes.
fn show(point: &Point, entry: &RegionEntry, interrupt: &dyn Interrupt) -> Result<Arc<MappedRegion>> {
    let then = point.region(entry.base(), entry.id);
    let kept = then.and_then(|then| Some((then, point.kept.get(then.kept?)?)));
    let Some((then, kept)) = kept else { return map_one(entry, interrupt) };
    if let Some(there) = kept.reset.shown(entry, then.window)? {
        return Ok(Arc::new(there));
    }
    let new = map_one(entry, interrupt)?;
    let expected = Expected::from(&kept.shadow, then.window.shown().base(), 0);
    difference::put_everything_back(&[&new], expected, point.consumer, interrupt)?;
    Ok(new)
}

/// Goes on with the memory of a region that came back.
fn take_up(point: &Point, region: &MappedRegion) -> Result<()> {
    let Some((then, kept)) = of_point(point, region) else { return Ok(()) };
    if kept.reset.is_of(region)? {
        // Bytes that nobody showed were given back, and nobody was told.
        let expected = Expected::all(&kept.shadow);
        return kept.reset.suspect_all(&Suspects::everything(region, expected)?);
    }
    if kept.reset.is_whole(then.window) { Ok(kept.reset.rebind(region)?) } else { Ok(()) }
}

/// Adds the suspects in each storage of a checkpoint that is shown where it was; a look keeps them.
fn find<'a>(
    point: &'a Point,
    memory: &'a MappedRegions,
    later: &[Arc<Point>],
    is_look: bool,
    found: &mut Vec<Work<'a>>,
) -> Result<()> {
    let mut windows: Vec<Vec<&MappedRegion>> = point.kept.iter().map(|_| Vec::new()).collect();
    for region in memory.regions() {
        let then = point.region(region.range().base(), region.id());
        let kept = then.filter(|then| then.window == region.window()).and_then(|then| then.kept);
        if let Some((index, all)) = kept.and_then(|index| Some((index, windows.get_mut(index)?)))
            && point.kept.get(index).is_some_and(|kept| kept.reset.is_of(region).unwrap_or(false))
        {
            all.push(region);
        }
    }
    for (kept, windows) in point.kept.iter().zip(windows) {
        let Some(region) = windows.first() else { continue };
        let mut suspects = kept.reset.suspects(region, Expected::all(&kept.shadow), is_look)?;
        let since = later.iter().rev().find(|later| later.kept_of(&kept.reset).is_some());
        let added = since.map_or(Ok(Vec::new()), |later| later.stored_since(kept)).and_then(|runs| suspects.add(runs));
        found.push(Work { kept, windows, suspects });
        added?;
    }
    Ok(())
}

/// Regions of a checkpoint that show other memory than they did, with the bytes that they should have.
fn strangers<'a>(
    point: &'a Point,
    memory: &'a MappedRegions,
) -> impl Iterator<Item = (&'a MappedRegion, Result<Expected<'a>>)> {
    memory.regions().filter_map(|region| {
        let (then, kept) = of_point(point, region)?;
        let expected =
            |_: bool| Expected::from(&kept.shadow, then.window.shown().base(), region.window().shown().base());
        match kept.reset.is_of(region) {
            Ok(true) if then.window == region.window() => None,
            other => Some((region, other.map(expected).map_err(Into::into))),
        }
    })
}

/// The addresses of regions that came or went since a checkpoint.
fn come_or_gone(point: &Point, memory: &MappedRegions) -> Vec<Range> {
    let there = |base: u64| memory.find(base).filter(|region| region.range().base() == base);
    let is_there = |then: &PointRegion| {
        there(then.range.base()).is_some_and(|region| region.id() == then.id && region.range() == then.range)
    };
    let was_there = |region: &MappedRegion| {
        point.region(region.range().base(), region.id()).is_some_and(|then| then.range == region.range())
    };
    let gone = point.regions.iter().filter(|then| !is_there(then)).map(|then| then.range);
    gone.chain(memory.regions().filter(|region| !was_there(region)).map(MappedRegion::range)).collect()
}
