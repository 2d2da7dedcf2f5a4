//! Putting the bytes of a storage back to what they were, in place: whoever has a pointer to them keeps it.
//!
//! A copy takes less time than a fault of a guest. So a page that was written stays unprotected and is compared each time, until it has
//! not differed in a number of resets: only then it is protected again, and the kernel tells of the next store to it.

use std::sync::{Arc, Weak};

use super::difference::{pages_in, put_back};
use super::dirty::{DirtyBitmap, PAGE};
use super::kept;
use super::live::whole_pages;
use super::quiet::QuietPages;
use super::region::MappedRegion;
use super::shadow::Expected;
use super::source_error::failed;
use super::storage::Storage;
use super::suspects::Suspects;
use super::watch::Watch;
use super::window::Window;
use crate::model::error::Result;
use crate::model::ids::{ConsumerId, StorageId};
use crate::model::int::usize_of;
use crate::model::interrupt::Interrupt;
use crate::model::range::{Range, joined};
use crate::model::region::{PROT_WRITE, SharedRegion};
use crate::model::region_map::RegionEntry;
use crate::model::room::{self, Room};
use crate::model::tracking::Observer;
use crate::sys::file;
use crate::sys::fork::Forked;
use crate::sys::host::page_size;
use crate::sys::lock::Lock;

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

/// The resets of one storage, for all checkpoints of it.
#[derive(Debug)]
pub struct Reset {
    consumer: ConsumerId,
    size: u64,
    storage: Lock<(StorageId, Weak<Storage>)>,
    quiet: QuietPages,
}

impl Reset {
    /// The resets of the storage of a region, whose writes a consumer follows.
    pub fn new(region: &MappedRegion, consumer: ConsumerId) -> Result<Self> {
        let storage = region.shared_storage();
        let size = storage.whole().size();
        let quiet = QuietPages::new(storage.page_size().max(page_size()), size)?;
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
        self.quiet.forget()
    }

    /// The names of those who see the writes.
    pub fn sources(&self, region: &MappedRegion) -> Result<&'static [&'static str]> {
        let is_logged = region.storage().has_log()?;
        Ok(region.observer(self.consumer)?.map_or(&[], |observer| observer.sources(is_logged)))
    }

    /// The pages that may differ from what is expected; a look keeps them for the next time.
    pub fn suspects(&self, region: &MappedRegion, expected: Expected<'_>, is_look: bool) -> Result<Suspects> {
        let storage = region.storage();
        let followed = storage.tracking().find(self.consumer)?;
        let Some((observer, pages)) = followed.filter(|(observer, _)| *observer != Observer::Compare) else {
            return Suspects::everything(region, expected);
        };
        if self.keeps_logs(storage, observer)? {
            storage.look_at_logs()?;
            // They stay in the logs, with the pages of our own writes.
            return Ok(Suspects { hot: taken(&pages, storage, is_look)?, ..Suspects::default() });
        }
        let hot = match self.lonely_watch(storage, observer)? {
            Some(watch) => storage.written_runs(&watch, region.desc())?,
            None => storage.sync(region.desc(), observer).map(|()| Vec::new())?,
        };
        Ok(Suspects { hot, others: taken(&pages, storage, is_look)?, is_all: false })
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

    /// Makes what is expected of the suspects, counts, and gives the pages that differed; when it fails, they are suspects again.
    pub fn restore(
        &self,
        windows: &[&MappedRegion],
        expected: Expected<'_>,
        suspects: &Suspects,
        counts: &mut ResetCounts,
        interrupt: &dyn Interrupt,
    ) -> Result<Vec<Range>> {
        let restored = put_back(windows, expected, &suspects.all()?, self.consumer, interrupt).and_then(|differing| {
            let found = pages_in(&suspects.hot).saturating_add(pages_in(&suspects.others));
            counts.found = counts.found.saturating_add(found);
            counts.copied = counts.copied.saturating_add(pages_in(&differing));
            self.settle(windows, expected, (&suspects.hot, &differing), counts, interrupt)?;
            Ok(differing)
        });
        restored.or_else(|error| self.put_back(suspects).and(Err(error)))
    }

    /// Has done with the hot pages that have not differed for long: those of zeroes are given back, the others protected again.
    fn settle(
        &self,
        windows: &[&MappedRegion],
        expected: Expected<'_>,
        (hot, differing): (&[Range], &[Range]),
        counts: &mut ResetCounts,
        interrupt: &dyn Interrupt,
    ) -> Result<()> {
        let Some((storage, region)) = self.storage()?.zip(windows.first()) else { return Ok(()) };
        let mut due = self.quiet.due(hot, differing)?;
        counts.hot = counts.hot.saturating_add(pages_in(hot).saturating_sub(pages_in(&due)));
        let is_ours = is_ours_to_free(&storage);
        let zeroes = room::collected(due.extract_if(.., |unit| is_ours && is_all_hole(expected, *unit)))?;
        for run in joined(zeroes) {
            free(&storage, region.desc(), run)?;
            // At once: they would be looked at, and so be there again.
            watch_again(&storage, region.desc(), run)?;
            counts.punched = counts.punched.saturating_add(pages_in(&[run]));
        }
        for run in joined(due) {
            watch_again(&storage, region.desc(), run)?;
            counts.protected = counts.protected.saturating_add(pages_in(&[run]));
            // Once more: a store since the first look is no longer told of.
            put_back(windows, expected, &[run], self.consumer, interrupt)?;
        }
        Ok(())
    }

    /// Gives pages back that could not be put back: they are found the next time.
    pub fn put_back(&self, suspects: &Suspects) -> Result<()> {
        if suspects.is_all {
            return Ok(());
        }
        self.suspect(&suspects.hot)?;
        self.suspect(&suspects.others)
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

/// The pages of a bitmap, which forgets them unless this is a look; without room for them it keeps all.
fn taken(pages: &DirtyBitmap, storage: &Storage, is_look: bool) -> Result<Vec<Range>> {
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
    room.inspect_err(|_| runs.iter().for_each(|run: &Range| pages.mark(run.base(), run.size())))?;
    Ok(runs)
}

/// Gives pages of zeroes back.
fn free(storage: &Storage, region: &SharedRegion, run: Range) -> Result<()> {
    // SAFETY: whole pages of our own storage, which were looked at just now: they are zero, and will be.
    let freed = unsafe { kept::free(storage, run) };
    freed.map_err(|error| failed(region, "giving pages of zeroes back failed", &error))
}

/// Lets the next store to pages be told of.
fn watch_again(storage: &Storage, region: &SharedRegion, run: Range) -> Result<()> {
    let Some(watch) = storage.tracking().watch()? else { return storage.forget_in_logs(run) };
    let protected = watch.protect_run(storage.pages_of(run));
    protected.map_err(|error| failed(region, "write-protecting its pages failed", &error))
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
