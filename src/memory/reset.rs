//! Putting the bytes of a storage back to what they were, in place: whoever has a pointer to them keeps it.
//!
//! A copy takes less time than a fault of a guest. So a page that was written stays unprotected and is compared each time, until it has
//! not differed in a number of resets: only then it is protected again, and the kernel tells of the next store to it.

use std::sync::{Arc, Weak};

use super::capture::data_of;
use super::dirty::{DirtyBitmap, PAGE};
use super::kept;
use super::live::{LOOK, Live, LivePart, whole_pages};
use super::region::MappedRegion;
use super::shadow::Expected;
use super::source_error::failed;
use super::storage::Storage;
use super::watch::Watch;
use super::window::Window;
use crate::model::error::Result;
use crate::model::ids::{ConsumerId, StorageId};
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::range::{Range, joined};
use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::model::region_map::RegionEntry;
use crate::model::room::{self, Gathered, Room};
use crate::model::tracking::Observer;
use crate::sys::copy::{self as kernel, Stopped};
use crate::sys::file;
use crate::sys::fork::Forked;
use crate::sys::host::page_size;
use crate::sys::lock::Lock;

/// Resets without a difference after which a page is protected again.
const QUIET: u8 = 8;

/// Numbers of pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResetCounts {
    /// Pages that were looked at.
    pub found: u64,
    /// Of these, those that differed.
    pub copied: u64,
    /// Of these, those that stay unprotected.
    pub hot: u64,
    /// Pages that were protected again.
    pub protected: u64,
    /// Pages that are given back, for they were not there before.
    pub punched: u64,
}

impl ResetCounts {
    /// The sums; of pages that stay unprotected, those of the other.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            found: self.found.saturating_add(other.found),
            copied: self.copied.saturating_add(other.copied),
            hot: other.hot,
            protected: self.protected.saturating_add(other.protected),
            punched: self.punched.saturating_add(other.punched),
        }
    }
}

/// Pages of a storage that may differ from what they were.
#[derive(Debug, Default)]
pub struct Suspects {
    /// Stored to since they were protected, and still unprotected.
    hot: Vec<Range>,
    /// All others. They are found this time only.
    others: Vec<Range>,
    /// Whether all pages that differ are among them.
    is_all: bool,
}

impl Suspects {
    /// The bytes of the pages.
    pub fn size(&self) -> u64 {
        self.hot.iter().chain(&self.others).map(Range::size).sum()
    }

    /// The same, and others.
    pub fn add(&mut self, runs: Vec<Range>) -> Result<()> {
        self.others.add_all(runs)
    }

    fn all(&self) -> Result<Vec<Range>> {
        let mut all = room::collected(self.hot.iter().chain(&self.others).copied())?;
        all.sort_unstable();
        Ok(joined(all))
    }
}

/// The resets of one storage, for all checkpoints of it.
#[derive(Debug)]
pub struct Reset {
    consumer: ConsumerId,
    size: u64,
    storage: Lock<(StorageId, Weak<Storage>)>,
    /// Resets in which a page did not differ.
    quiet: Lock<Vec<u8>>,
}

impl Reset {
    /// The resets of the storage of a region, whose writes a consumer follows.
    pub fn new(region: &MappedRegion, consumer: ConsumerId) -> Result<Self> {
        let storage = region.shared_storage();
        let units = storage.whole().size().div_ceil(unit_of(storage));
        let quiet = Lock::new(room::zeroed(usize_of(units))?);
        let size = storage.whole().size();
        Ok(Self { consumer, size, storage: Lock::new((storage.id(), Arc::downgrade(storage))), quiet })
    }

    /// Whether a region shows the storage.
    pub fn is_of(&self, region: &MappedRegion) -> Result<bool, Forked> {
        Ok(self.storage.lock()?.0 == region.storage().id())
    }

    /// A region that shows the storage in a window that it had, if it is still there.
    pub fn shown(&self, entry: &RegionEntry, window: Window) -> Result<Option<MappedRegion>, Forked> {
        Ok(self.storage()?.map(|storage| MappedRegion::of(entry.clone(), storage, window)))
    }

    /// Whether a window shows all of the storage.
    pub const fn is_whole(&self, window: Window) -> bool {
        window.shown().size() == self.size
    }

    fn storage(&self) -> Result<Option<Arc<Storage>>, Forked> {
        Ok(self.storage.lock()?.1.upgrade())
    }

    /// The storage of a region has taken the place of the one that has gone.
    pub fn rebind(&self, region: &MappedRegion) -> Result<(), Forked> {
        let storage = region.shared_storage();
        *self.storage.lock()? = (storage.id(), Arc::downgrade(storage));
        self.quiet.lock()?.iter_mut().for_each(|quiet| *quiet = 0);
        Ok(())
    }

    /// The names of those who see the writes.
    pub fn sources(&self, region: &MappedRegion) -> Result<&'static [&'static str]> {
        let is_logged = region.storage().has_log()?;
        Ok(region.observer(self.consumer)?.map_or(&[], |observer| observer.sources(is_logged)))
    }

    /// The pages that may differ from what is expected; a look keeps them for the next time.
    pub fn suspects(&self, region: &MappedRegion, expected: Expected<'_>, is_look: bool) -> Result<Suspects> {
        let storage = region.storage();
        let (observer, pages) = match storage.tracking().find(self.consumer)? {
            Some((observer, pages)) if observer != Observer::Compare => (observer, pages),
            _ => return everything(region, expected),
        };
        let hot = match self.lonely_watch(storage, observer)? {
            Some(watch) => hot_runs(&watch, region)?,
            None if self.keeps_logs(storage, observer)? => {
                storage.look_at_logs()?;
                // They stay in the logs, with the pages of our own writes.
                let logged = |hot| Suspects { hot, others: Vec::new(), is_all: false };
                return self.taken(storage, &pages, is_look, logged);
            }
            None => {
                storage.sync(region.desc(), observer)?;
                Vec::new()
            }
        };
        self.taken(storage, &pages, is_look, |others| Suspects { hot, others, is_all: false })
    }

    /// Takes the pages of a bitmap, or looks at them, as suspects; without room for them, the next time finds them.
    fn taken(
        &self,
        storage: &Storage,
        pages: &DirtyBitmap,
        is_look: bool,
        suspects: impl FnOnce(Vec<Range>) -> Suspects,
    ) -> Result<Suspects> {
        let (mut runs, mut room) = (Vec::new(), Ok(()));
        let mut take = |run: Range| {
            if room.is_ok() {
                room = runs.add(whole_pages(run, storage));
            }
            if room.is_err() {
                pages.mark(run.base(), run.size());
            }
        };
        if is_look {
            pages.peek(&mut take);
        } else {
            pages.drain(&mut take);
        }
        let suspects = suspects(runs);
        match room {
            Ok(()) => Ok(suspects),
            Err(refused) => self.put_back(&suspects).and(Err(refused)),
        }
    }

    /// Whether pages may stay in the logs of machines: they are cleared by hand, and nobody else follows the guest.
    fn keeps_logs(&self, storage: &Storage, observer: Observer) -> Result<bool> {
        Ok(observer == Observer::Kvm
            && storage.tracking().is_alone_with_guest(self.consumer)?
            && storage.keeps_logs()?)
    }

    /// The watch of the storage, if its pages may stay unprotected: nobody else is told by it, and no page of it has bytes of others.
    fn lonely_watch(&self, storage: &Storage, observer: Observer) -> Result<Option<Arc<Watch>>> {
        let is_lonely = observer == Observer::Pagemap
            && storage.tracking().is_alone(self.consumer)?
            && storage.backing().lead() == 0;
        Ok(if is_lonely { storage.tracking().watch()? } else { None })
    }

    /// Gives pages back that could not be put back: they are found the next time.
    pub fn put_back(&self, suspects: &Suspects) -> Result<()> {
        if suspects.is_all {
            return Ok(());
        }
        self.suspect(&suspects.hot)?;
        self.suspect(&suspects.others)
    }

    /// Makes what is expected of the suspects, counts, and gives the pages that differed; when it fails, they are suspects again.
    pub fn restore(
        &self,
        windows: &[&MappedRegion],
        expected: Expected<'_>,
        suspects: &Suspects,
        counts: &mut ResetCounts,
        interrupt: &dyn Interrupt,
    ) -> Result<Vec<Range>> {
        let restored = restore(windows, expected, &suspects.all()?, self.consumer, interrupt);
        let settled = restored.and_then(|differing| {
            counts.found =
                counts.found.saturating_add(pages_in(&suspects.hot).saturating_add(pages_in(&suspects.others)));
            counts.copied = counts.copied.saturating_add(pages_in(&differing));
            self.settle(windows, expected, (&suspects.hot, &differing), counts, interrupt)?;
            Ok(differing)
        });
        settled.or_else(|error| self.put_back(suspects).and(Err(error)))
    }

    /// Protects the hot pages again that have not differed for long.
    fn settle(
        &self,
        windows: &[&MappedRegion],
        expected: Expected<'_>,
        (hot, differing): (&[Range], &[Range]),
        counts: &mut ResetCounts,
        interrupt: &dyn Interrupt,
    ) -> Result<()> {
        let Some((storage, region)) = self.storage()?.zip(windows.first()) else { return Ok(()) };
        let mut due = self.quiet_units(unit_of(&storage), hot, differing)?;
        counts.hot = counts.hot.saturating_add(pages_in(hot).saturating_sub(pages_in(&due)));
        if due.is_empty() {
            return Ok(());
        }
        let watch = storage.tracking().watch()?;
        let is_ours = is_ours_to_free(&storage);
        let zeroes: Vec<Range> = due.extract_if(.., |unit| is_ours && is_all_hole(expected, *unit)).collect();
        for run in joined(zeroes) {
            // SAFETY: whole pages of our own storage, which were looked at just now: they are zero, and will be.
            let freed = unsafe { kept::free(&storage, run) };
            freed.map_err(|error| failed(region.desc(), "giving pages of zeroes back failed", &error))?;
            counts.punched = counts.punched.saturating_add(pages_in(&[run]));
        }
        for run in joined(due) {
            match &watch {
                Some(watch) => {
                    let protected = watch.protect_run(storage.pages_of(run));
                    protected.map_err(|error| failed(region.desc(), "write-protecting its pages failed", &error))?;
                }
                None => storage.forget_in_logs(run)?,
            }
            counts.protected = counts.protected.saturating_add(pages_in(&[run]));
            // Once more: a store since the first look is no longer told of.
            restore(windows, expected, &[run], self.consumer, interrupt)?;
        }
        Ok(())
    }

    /// The hot pages that did not differ in many resets, up to this one; from here on they count anew.
    fn quiet_units(&self, unit: u64, hot: &[Range], differing: &[Range]) -> Result<Vec<Range>> {
        // A power of two.
        let shift = unit.trailing_zeros();
        let units = |run: &Range| usize_of(run.base() >> shift)..usize_of(run.end().div_ceil(unit));
        let mut quiet = self.quiet.lock()?;
        let mut due = Vec::new();
        for run in hot {
            quiet.get_mut(units(run)).into_iter().flatten().for_each(|count| *count = count.saturating_add(1));
        }
        for run in differing {
            quiet.get_mut(units(run)).into_iter().flatten().for_each(|count| *count = 0);
        }
        for index in hot.iter().flat_map(units) {
            if let Some(count) = quiet.get_mut(index).filter(|count| **count >= QUIET) {
                *count = 0;
                due.add(
                    Range::at(u64_of(index).saturating_mul(unit), unit).intersection(&Range::between(0, self.size)),
                )?;
            }
        }
        Ok(due)
    }

    /// Lets all of some suspects be found the next time.
    pub fn suspect_all(&self, suspects: &Suspects) -> Result<()> {
        self.suspect(&suspects.others)
    }

    /// Lets pages be found the next time.
    pub fn suspect(&self, runs: &[Range]) -> Result<()> {
        let Some(storage) = self.storage()? else { return Ok(()) };
        let found = storage.tracking().find(self.consumer)?;
        found.into_iter().for_each(|(_, pages)| runs.iter().for_each(|run| pages.mark(run.base(), run.size())));
        Ok(())
    }
}

/// All pages that have data, now or as they are expected.
pub fn everything(region: &MappedRegion, expected: Expected<'_>) -> Result<Suspects> {
    let (shown, mut runs) = (region.storage().whole(), Gathered::default());
    data_of(region)?.into_iter().for_each(|run| runs.add(run));
    expected.stored(&mut |run| runs.add(run.intersection(&shown)));
    let mut others = runs.finish()?;
    others.sort_unstable();
    Ok(Suspects { hot: Vec::new(), others: joined(others), is_all: true })
}

/// The pages among the suspects that differ from what is expected, in the storage of the windows.
pub fn differing(
    windows: &[&MappedRegion],
    expected: Expected<'_>,
    suspects: &Suspects,
    interrupt: &dyn Interrupt,
) -> Result<Vec<Range>> {
    let mut found = Gathered::default();
    Live::new(windows, LOOK).each(&suspects.all()?, interrupt, &mut |live| {
        each_difference(live, expected, &mut |page| {
            found.add(page);
            Ok(())
        })
    })?;
    found.finish().map(joined)
}

/// Makes what is expected of all that windows show of their storage, and gives the pages that differed.
pub fn restore_everything(
    windows: &[&MappedRegion],
    expected: Expected<'_>,
    consumer: ConsumerId,
    interrupt: &dyn Interrupt,
) -> Result<Vec<Range>> {
    let Some(region) = windows.first() else { return Ok(Vec::new()) };
    let all = everything(region, expected)?.all()?;
    restore(windows, expected, &all, consumer, interrupt)
}

/// Puts the pages of some runs back, and gives those that differed.
fn restore(
    windows: &[&MappedRegion],
    expected: Expected<'_>,
    runs: &[Range],
    consumer: ConsumerId,
    interrupt: &dyn Interrupt,
) -> Result<Vec<Range>> {
    let mut found = Gathered::default();
    Live::new(windows, PROT_READ | PROT_WRITE).each(runs, interrupt, &mut |live| {
        each_difference(live, expected, &mut |page| {
            found.add(page);
            // SAFETY: a page that is expected can be read.
            unsafe { live.put(page, expected.bytes(page.base())) }
        })
    })?;
    let found = joined(found.finish()?);
    if let Some(region) = windows.first() {
        let mark = |pages: &DirtyBitmap| found.iter().for_each(|run| pages.mark(run.base(), run.size()));
        region.storage().tracking().note_restored(consumer, &mark)?;
    }
    Ok(found)
}

/// Calls `found` with each page of a part that differs from what is expected.
fn each_difference(
    live: &LivePart<'_>,
    expected: Expected<'_>,
    found: &mut dyn FnMut(Range) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    for (page, bytes) in live.pages(expected.shift()) {
        // SAFETY: both can be read, the live part for as long as it is there.
        if !unsafe { kernel::are_equal(bytes, expected.bytes(page.base()), usize_of(page.size())) } {
            found(page)?;
        }
    }
    Ok(())
}

fn hot_runs(watch: &Watch, region: &MappedRegion) -> Result<Vec<Range>> {
    let storage = region.storage();
    let written = watch.written().map_err(|error| error.of(region.desc()))?;
    let mut runs = Vec::new();
    let mut add = Ok(());
    let mut found = |run: Range| add = runs.add(run);
    let mut at = storage.offsets_in(storage.whole(), &mut found);
    written.into_iter().for_each(|(start, size)| at(start, size));
    drop(at);
    add.map(|()| runs)
}

/// Bytes that the kernel protects together.
fn unit_of(storage: &Storage) -> u64 {
    storage.page_size().max(page_size())
}

/// The number of pages in some runs.
pub fn pages_in(runs: &[Range]) -> u64 {
    runs.iter().map(|run| run.size().div_ceil(PAGE)).sum()
}

impl MappedRegion {
    /// Whether its bytes can be put back: not where others map files, where pages are brought in by somebody when they are touched, nor
    /// where this process can't write.
    pub fn can_be_reset(&self) -> bool {
        let backing = self.storage().backing();
        let is_writable = match (&backing.buffer, &backing.file) {
            _ if backing.reader.is_some() => false,
            (Some(buffer), _) => buffer.is_writable,
            (None, Some(file)) if !backing.is_private() => {
                file::protection(file).is_ok_and(|prot_flags| prot_flags & PROT_WRITE != 0)
            }
            _ => true,
        };
        is_writable && !backing.is_window && !backing.has_fault_handler
    }
}

/// Whether pages of it can be given back so that they read as zeroes.
fn is_ours_to_free(storage: &Storage) -> bool {
    let backing = storage.backing();
    let is_private_file = backing.file.is_some() && backing.is_private();
    !backing.is_foreign && !backing.is_huge && !is_private_file
}

fn is_all_hole(expected: Expected<'_>, part: Range) -> bool {
    (part.base()..part.end()).step_by(usize_of(PAGE)).all(|page| expected.is_hole(page))
}
