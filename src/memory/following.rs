//! Telling the consumers of a storage of the writes to it.

use std::sync::{Arc, Weak};

use super::dirty::{DirtyBitmap, PAGE, WriteLog};
use super::protection::Pages;
use super::region::MappedRegion;
use super::source_error::failed;
use super::storage::Storage;
use super::tracking::{Consumer, Follower, sees_guest, sees_ours};
use super::watch::{CollectError, NoWatch, Watch};
use crate::model::error::{Error, Result};
use crate::model::ids::ConsumerId;
use crate::model::int::usize_of;
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::room::{self, Gathered, Room};
use crate::model::tracking::{Observer, TrackingMode};
use crate::sys::fork::Forked;
use crate::sys::pagemap::Unprotected;
use crate::sys::sync::Ordering;

/// Bytes whose pages one page table has; larger ones where pages are larger only cost more questions.
const TABLE: usize = 2 << 20;

impl Storage {
    /// The bitmap of our own writes, while somebody wants them.
    pub(super) fn dirty(&self) -> Option<&DirtyBitmap> {
        self.tracking().bitmap()
    }

    /// Begins to tell a consumer of the writes to it, which a region shows; what has data counts as written if `is_new`.
    ///
    /// To begin twice does nothing.
    pub(super) fn follow(&self, region: &SharedRegion, consumer: Consumer, is_new: bool) -> Result<()> {
        if self.tracking().find(consumer.id)?.is_some() {
            return Ok(());
        }
        let pages = Arc::new(self.new_bitmap()?);
        let observer = self.observer_for(region, consumer)?;
        // What was written before is for those who follow already.
        self.sync(region, observer)?;
        if is_new {
            self.data_runs(region, self.whole(), &mut |run| pages.mark(run.base(), run.size()))?;
        }
        if sees_ours(observer) {
            // Made before it is known whether one is there: two threads may get here at once, and one of theirs is taken.
            let tracking = self.tracking();
            if tracking.bitmap.get().is_none() {
                let new = self.new_bitmap()?;
                tracking.bitmap.get_or_init(|| new);
            }
            if !tracking.is_marking.load(Ordering::Acquire) {
                // Marks of the last time are stale.
                tracking.bitmap.get().into_iter().for_each(|bitmap| bitmap.drain(&mut |_| ()));
            }
            // Behind the bitmap: a writer that finds this on finds the bitmap too.
            tracking.is_marking.store(true, Ordering::Release);
        }
        // A page of a file that was not there is in no page table, and a read brings it in as a store does.
        let is_exact = observer == Observer::Pagemap && (consumer.is_exact || !self.brings_in_by_reads());
        let mut followers = self.tracking().followers.lock()?;
        followers.add(Follower { id: consumer.id, observer, is_exact, pages })
    }

    /// Ends it; nobody is told any more whom no consumer needs.
    pub fn unfollow(&self, id: ConsumerId) -> Result<(), Forked> {
        let tracking = self.tracking();
        tracking.followers.lock()?.retain(|follower| follower.id != id);
        if !tracking.has(sees_ours)? {
            tracking.is_marking.store(false, Ordering::Release);
        }
        if !tracking.has(|observer| observer == Observer::Pagemap)? {
            // Dropped behind the lock: the kernel walks the pages.
            let watch = tracking.watch.lock()?.take();
            drop(watch);
        }
        Ok(())
    }

    /// The observer of the writes to a region for a consumer.
    fn observer_for(&self, region: &SharedRegion, consumer: Consumer) -> Result<Observer> {
        match consumer.mode {
            TrackingMode::Api => Ok(Observer::Api),
            TrackingMode::Kvm => Ok(Observer::Kvm),
            TrackingMode::Compare => Ok(Observer::Compare),
            TrackingMode::Restore => {
                Ok(if self.begin_watch(region, false)?.is_ok() { Observer::Pagemap } else { Observer::Compare })
            }
            TrackingMode::Pagemap => match self.begin_watch(region, consumer.is_exact)? {
                Ok(()) => Ok(Observer::Pagemap),
                Err(why) => Err(cannot_watch(region, why)),
            },
            TrackingMode::Auto => {
                Ok(if self.begin_watch(region, consumer.is_exact)?.is_ok() { Observer::Pagemap } else { Observer::Kvm })
            }
        }
    }

    fn begin_watch(&self, region: &SharedRegion, is_exact: bool) -> Result<Result<(), NoWatch>> {
        let (own, tracking) = (self.own_pages(), self.tracking());
        let Some(pages) = own.filter(|_| self.dax_window().is_none()) else { return Ok(Err(NoWatch::Foreign)) };
        let mut watch = tracking.watch.lock()?;
        let watch = match &*watch {
            Some(watch) => Arc::clone(watch),
            None => match Watch::new(pages, self.is_evictable()) {
                Ok(new) => Arc::clone(watch.insert(Arc::new(new))),
                Err(why) => return Ok(Err(why)),
            },
        };
        self.arm(&watch, pages, region, is_exact).map(Ok)
    }

    /// Protects what is there. A page of a file that is in no page table of ours yet would count as written once it is read.
    ///
    /// Those who follow already are told of what was stored to before: protected, it would not be found again.
    fn arm(&self, watch: &Watch, pages: Pages, region: &SharedRegion, is_exact: bool) -> Result<()> {
        let refused =
            |error: std::io::Error| failed(region, "write-protecting its pages (PAGEMAP_SCAN) failed", &error);
        let mut note = |run| self.note_stores(run);
        let mut found = |run: Unprotected| match (run.is_there, self.part_at(run.start, run.size)) {
            (true, part) => note(part),
            (false, part) => self.evicted(part, &mut note),
        };
        watch.protect(pages, is_exact && self.brings_in_by_reads(), &mut found).map_err(refused)?;
        let mut runs = Gathered::default();
        self.file_runs(self.whole(), &mut |run| runs.add(run));
        let runs = if is_exact { Vec::new() } else { runs.finish()? };
        runs.into_iter().try_for_each(|run| watch.protect(self.pages_of(run), true, &mut found)).map_err(refused)
    }

    /// Tells those whom the kernel sees for of pages that were stored to.
    fn note_stores(&self, part: Range) {
        // Refused in a forked child only, where nobody follows.
        let _ = self.tracking().note(|observer| observer == Observer::Pagemap, &|pages| {
            pages.mark(part.base(), part.size());
        });
    }

    /// Calls `found` with the pages of a part that were evicted: in no page table, but the file has bytes of them. Without a file nobody
    /// knows, and it is all of them.
    fn evicted(&self, part: Range, found: &mut dyn FnMut(Range)) {
        if self.is_evictable() && !self.file_runs(part, found) {
            found(part);
        }
    }

    /// Tells of those that were evicted among pages that are in no page table.
    ///
    /// Holes beside other pages are protected, so that they are not found again; holes that have no page table stay as they are.
    fn note_absent(&self, watch: &Watch, run: &Unprotected) -> Result<(), CollectError> {
        let (first, last) = (run.start.checked_next_multiple_of(TABLE).unwrap_or(usize::MAX), run.end() & !(TABLE - 1));
        let (first, last) = if first < last { (first, last) } else { (run.end(), run.end()) };
        let mut parts = Gathered::default();
        parts.add(self.part_at(run.start, first.saturating_sub(run.start)));
        self.evicted(self.part_at(first, last.saturating_sub(first)), &mut |part| parts.add(part));
        parts.add(self.part_at(last, run.end().saturating_sub(last)));
        for part in parts.finish()?.into_iter().filter(|part| !part.is_empty()) {
            watch.protect_run(self.pages_of(part))?;
            // Behind it: a store in between is in the file when that is asked, and a later one is found by a scan.
            self.evicted(part, &mut |evicted| self.note_stores(evicted));
        }
        Ok(())
    }

    /// Whether a page that is not there is brought in by a read as by a write.
    fn brings_in_by_reads(&self) -> bool {
        self.backing().file.is_some() || !self.backing().is_private()
    }

    /// The runs that were stored to since they were protected, and stay unprotected; all are told of those that were evicted.
    pub(super) fn written_runs(&self, watch: &Watch, region: &SharedRegion) -> Result<Vec<Range>> {
        let written = watch.written().map_err(|error| error.of(region))?;
        let mut absent = written.iter().filter(|run| !run.is_there);
        absent.try_for_each(|run| self.note_absent(watch, run)).map_err(|error| error.of(region))?;
        let there = written.iter().filter(|run| run.is_there);
        room::collected(there.map(|run| self.part_at(run.start, run.size)))
    }

    /// Adds a client's log.
    pub fn add_log(&self, log: Weak<dyn WriteLog>) -> Result<()> {
        let mut logs = self.tracking().logs.lock()?;
        logs.retain(|log| log.strong_count() > 0);
        logs.add(log)
    }

    /// Whether a client logs what a guest writes.
    pub fn has_log(&self) -> Result<bool> {
        let logs = self.tracking().logs.lock()?.clone();
        // Behind the lock: a log has one of its own.
        logs.iter().filter_map(Weak::upgrade).try_fold(false, |has, log| Ok(has || log.is_on()?))
    }

    /// Tells all of pages whose bytes changed otherwise than by a store.
    pub(super) fn note_change(&self, part: Range) -> Result<(), Forked> {
        self.tracking().note(|_| true, &|pages| pages.mark(part.base(), part.size()))
    }

    /// Watches pages that took the place of others.
    pub(super) fn renew_watch(&self) -> std::io::Result<()> {
        self.tracking().watch()?.map_or(Ok(()), |watch| watch.renew())
    }
}

fn cannot_watch(region: &SharedRegion, why: NoWatch) -> Error {
    let how = why.how();
    Error::Unsupported {
        message: format!("the kernel can't watch the writes to {region}: it needs {how}"),
        feature: "pagemap",
        how,
        region: Some(Arc::clone(region)),
    }
}

impl Storage {
    /// Brings what was written up to now to the consumers of its writes, one of whom asks.
    ///
    /// A write that is under way may be found now or the next time, never not at all.
    pub(super) fn sync(&self, region: &SharedRegion, observer: Observer) -> Result<()> {
        match observer {
            Observer::Compare => Ok(()),
            Observer::Pagemap => self.sync_watch(region),
            Observer::Api => self.sync_ours(),
            Observer::Kvm => {
                self.sync_ours()?;
                let logs = self.tracking().logs.lock()?.clone();
                logs.iter().filter_map(Weak::upgrade).try_for_each(|log| log.sync())
            }
        }
    }

    /// The logs that are on, taken from their lock, for each has one of its own.
    fn logs(&self) -> Result<Vec<Arc<dyn WriteLog>>> {
        let logs = self.tracking().logs.lock()?.clone();
        Ok(logs.iter().filter_map(Weak::upgrade).collect())
    }

    /// Whether pages stay in all logs until they are forgotten.
    pub(super) fn keeps_logs(&self) -> Result<bool> {
        Ok(self.logs()?.iter().all(|log| log.keeps()))
    }

    /// Brings what was written up to now to those who follow the guest; in the logs it stays.
    pub(super) fn look_at_logs(&self) -> Result<()> {
        self.sync_ours()?;
        self.logs()?.iter().try_for_each(|log| log.look())
    }

    /// Forgets the pages of a part in the logs.
    pub(super) fn forget_in_logs(&self, part: Range) -> Result<()> {
        self.logs()?.iter().try_for_each(|log| log.forget(part))
    }

    /// Our own writes; memory that is leased for writing counts as written each time.
    fn sync_ours(&self) -> Result<()> {
        let Some(bitmap) = self.dirty() else { return Ok(()) };
        self.places().written()?.iter().for_each(|part| bitmap.mark(part.base(), part.size()));
        let followers = self.tracking().followers.lock()?;
        bitmap.drain(&mut |run| {
            let concerned = followers.iter().filter(|follower| sees_ours(follower.observer));
            concerned.for_each(|follower| follower.pages.mark(run.base(), run.size()));
        });
        Ok(())
    }

    fn sync_watch(&self, region: &SharedRegion) -> Result<()> {
        let Some(watch) = self.tracking().watch()? else { return Ok(()) };
        let mut absent = Gathered::default();
        let collected = watch.collect(&mut |run| match run.is_there {
            true => self.note_stores(self.part_at(run.start, run.size)),
            false => absent.add(run),
        });
        let mut absent = absent.finish()?.into_iter();
        let noted = collected.and_then(|()| absent.try_for_each(|run| self.note_absent(&watch, &run)));
        noted.map_err(|error| error.of(region))
    }
}

/// Brings what was written to the storage of some regions up to now to its consumers, and calls `found` with the pages of one of them, at
/// every address where they are seen; forgets them for it unless it only looks, or `found` refuses them.
pub fn written(
    windows: &[MappedRegion],
    id: ConsumerId,
    is_look: bool,
    found: &mut dyn FnMut(Range) -> Result<()>,
) -> Result<()> {
    let Some(region) = windows.first() else { return Ok(()) };
    let Some((observer, pages)) = region.storage().tracking().find(id)? else { return Ok(()) };
    region.storage().sync(region.desc(), observer)?;
    let mut result = Ok(());
    let mut at_all = |run: Range| {
        let mut seen = windows.iter().map(|region| region.window().guest_of(run)).filter(|seen| !seen.is_empty());
        if result.is_ok() {
            result = seen.try_for_each(&mut *found);
        }
        if result.is_err() {
            // They were not taken: the next time finds them.
            pages.mark(run.base(), run.size());
        }
    };
    if is_look {
        pages.peek(&mut at_all)
    } else {
        pages.drain(&mut at_all)
    }
    result
}

impl MappedRegion {
    /// Tells those who follow the guest of the pages that it wrote: a bit for each, from the start of the region on.
    pub fn note_guest_writes(&self, bitmap: &[u64]) -> Result<(), Forked> {
        let part = self.window().shown();
        self.storage().tracking().note(sees_guest, &|pages| {
            if part.base() == 0 {
                return pages.mark_words(bitmap);
            }
            let words = (part.base()..).step_by(usize_of(PAGE.saturating_mul(64))).zip(bitmap);
            for (first, word) in words.filter(|(_, word)| **word != 0) {
                let set = (0..64u64).filter(|bit| word >> bit & 1 != 0);
                set.for_each(|bit| pages.mark(first.saturating_add(bit.saturating_mul(PAGE)), PAGE));
            }
        })
    }

    /// Tells a consumer of the writes from now on only.
    pub fn follow_anew(&self, consumer: Consumer) -> Result<()> {
        self.storage().unfollow(consumer.id)?;
        self.storage().follow(self.desc(), consumer, false)
    }

    /// Gives pages back to a consumer that could not use them.
    pub fn put_back(&self, id: ConsumerId, part: Range) -> Result<(), Forked> {
        let found = self.storage().tracking().find(id)?;
        found.into_iter().for_each(|(_, pages)| pages.mark(part.base(), part.size()));
        Ok(())
    }

    /// Whether a consumer finds all pages that were written by whom its source sees, and no others.
    pub fn is_tracked_exactly(&self, id: ConsumerId) -> Result<bool, Forked> {
        let followers = self.storage().tracking().followers.lock()?;
        Ok(followers.iter().any(|follower| follower.id == id && follower.is_exact))
    }

    /// The observer of the writes to it for a consumer.
    pub fn observer(&self, id: ConsumerId) -> Result<Option<Observer>, Forked> {
        Ok(self.storage().tracking().find(id)?.map(|(observer, _)| observer))
    }
}
