//! Memory whose bytes are kept elsewhere and come in when they are first used, or before that in the background.
//!
//! Our own verbs bring in what they are about to touch, and touch it as they always do. Everybody else, such as a guest or whoever has a
//! raw pointer, faults, and a thread answers (`userfaultfd(2)`). Bytes that can't be had are poisoned: a touch is an error, never a zero.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::present::PresentPages;
use super::protection::Pages;
use crate::model::error::{Errno, Error, Result};
use crate::model::int::{index_sum, u64_of, usize_of};
use crate::model::range::Range;
use crate::model::room;
use crate::sys::errno::{self, ETIMEDOUT};
use crate::sys::host::page_size;
use crate::sys::lock::Lock;
use crate::sys::memory::{self, Advice};
use crate::sys::once::Once;
use crate::sys::userfault::Userfault;

/// Bytes that come in together: one answer of so many takes no longer than one of a page.
pub const PART: u64 = 64 << 10;

/// Whether a read may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// It does not, and finds what is in memory.
    AtOnce,
    /// It waits for disks and servers.
    Waits,
}

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Bytes.
    Data,
    /// Nothing but zeroes.
    Zeroes,
    /// It would have to wait.
    NotYet,
}

/// The keeper of the bytes.
pub trait PageSource: std::fmt::Debug + Send + Sync {
    /// Reads bytes at a place, as many as there is room for.
    fn read(&self, at: u64, bytes: &mut [u8], haste: Haste) -> Result<Found>;
}

/// The reason for which bytes are brought in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Somebody who touches them, and is given them or an error.
    Now,
    /// Nobody yet: what is late is left for whoever touches it.
    Ahead,
}

impl Wanted {
    /// Whether bytes that could not be had are an error from then on.
    pub fn is_final(self, error: &Error) -> bool {
        self == Self::Now || !is_late(error)
    }
}

/// Whether a read was given up because nobody answered.
pub const fn is_late(error: &Error) -> bool {
    matches!(error, Error::File { errno: ETIMEDOUT, .. })
}

/// A storage that is not filled yet.
#[derive(Debug)]
pub struct Filling {
    userfault: Arc<Userfault>,
    source: Arc<dyn PageSource>,
    /// The place of the first byte in the source.
    at: u64,
    host: usize,
    size: u64,
    filled: PresentPages,
    left: AtomicU64,
    /// Why the first bytes that could not be had could not.
    broken: Once<String>,
    /// Parts that could not be had, and whose pages are errors for good.
    poisoned: PresentPages,
    is_over: AtomicBool,
    /// Whether its owner wants it in no forked child, also when all is there.
    is_dontfork: bool,
    /// Held from the look whether a part is there until it is: a part that comes twice would bring back what was discarded meanwhile.
    scratch: Lock<Vec<u8>>,
}

impl Filling {
    /// Begins with nothing there, for pages that nobody has touched; the first byte is at a place in the source.
    pub(super) fn new(
        userfault: Arc<Userfault>,
        source: Arc<dyn PageSource>,
        at: u64,
        (host, size): Pages,
        is_dontfork: bool,
    ) -> Result<Self> {
        let parts = size.div_ceil(usize_of(PART));
        // A forked child has nobody who answers, and would find zeroes.
        memory::advise(host, size, Advice::DontFork(true)).map_err(|error| cannot_register(&error))?;
        userfault.register_missing(host, size).map_err(|error| cannot_register(&error))?;
        Ok(Self {
            userfault,
            source,
            at,
            host: host.expose_provenance(),
            size: u64_of(size),
            filled: PresentPages::new(parts)?,
            left: AtomicU64::new(u64_of(parts)),
            broken: Once::new(),
            poisoned: PresentPages::new(parts)?,
            is_over: AtomicBool::new(false),
            is_dontfork,
            scratch: Lock::new(room::zeroed(usize_of(PART))?),
        })
    }

    /// Whether all of it is there, and nobody answers faults any more.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// The number of parts that are not there yet.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Acquire)
    }

    /// The number of parts.
    pub const fn parts(&self) -> u64 {
        self.size.div_ceil(PART)
    }

    /// Whether some bytes can't be had.
    pub fn is_broken(&self) -> bool {
        self.broken.get().is_some()
    }

    /// Why the byte at an offset can't be had, if others could not either.
    pub(super) fn damage(&self, offset: u64) -> Option<&str> {
        let part = usize_of(offset / PART);
        let is_poisoned = self.poisoned.has(part..index_sum(part, 1));
        self.broken.get().map(String::as_str).filter(|_| is_poisoned)
    }

    fn host_of(&self, offset: u64) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(index_sum(self.host, usize_of(offset)))
    }

    /// Brings a range in, which counts from the start of the storage.
    pub(super) fn ensure(&self, range: Range) -> Result<()> {
        if !self.userfault.is_in_its_process() {
            return Err(Error::Forked);
        }
        let parts = range.base() / PART..range.end().div_ceil(PART).min(self.parts());
        parts.into_iter().try_for_each(|part| self.fill(part, Wanted::Now).map(drop))
    }

    /// Brings a part in; the bytes that were read for it.
    pub fn fill(&self, part: u64, wanted: Wanted) -> Result<u64> {
        let mut scratch = self.scratch.lock()?;
        let bit = usize_of(part)..index_sum(usize_of(part), 1);
        if self.filled.has(bit.clone()) {
            return Ok(0);
        }
        let here = Range::between(part.saturating_mul(PART), self.size).take(PART);
        let bytes = scratch.get_mut(..usize_of(here.size())).unwrap_or_default();
        let place = self.at.saturating_add(here.base());
        let (is_poisoned, page) = (self.poisoned.has(bit.clone()), usize_of(page_size()));
        let moved = match self.source.read(place, bytes, Haste::Waits) {
            // Pages that are errors can't be filled any more: taken for filled, a touch of them would be a signal.
            Ok(_) if is_poisoned => {
                return Err(cannot_fill(&errno::refusal(errno::EIO, "they could not be read before")));
            }
            Err(error) if is_poisoned => return Err(error),
            Ok(Found::Data) => {
                let host = self.host_of(here.base());
                self.userfault.copy_missing(host, bytes, page).map_err(|error| cannot_fill(&error))?;
                here.size()
            }
            // A hole: who touches it is given a page of zeroes.
            Ok(_) => 0,
            Err(error) if !wanted.is_final(&error) => return Err(error),
            Err(error) => {
                self.broken.get_or_init(|| error.to_string());
                self.userfault
                    .poison_missing(self.host_of(here.base()), usize_of(here.size()), page)
                    .map_err(|error| cannot_fill(&error))?;
                self.poisoned.mark(bit);
                return Err(error);
            }
        };
        // Behind the pages: who finds it marked touches them.
        self.filled.mark(bit);
        self.left.fetch_sub(1, Ordering::AcqRel);
        Ok(moved)
    }

    /// Answers a fault at a host address, if it lies in here; the bytes that were read for it.
    pub fn answer(&self, address: usize) -> Option<u64> {
        let offset = u64_of(address.checked_sub(self.host)?);
        if offset >= self.size {
            return None;
        }
        let page = page_size();
        let host = self.host_of(offset & !page.saturating_sub(1));
        let Ok(moved) = self.fill(offset / PART, Wanted::Now) else {
            // Most often all of the part is, by now.
            let _ = self.userfault.poison_missing(host, usize_of(page), usize_of(page));
            return Some(0);
        };
        // A page of zeroes, or one that was discarded; where it is there by now, whoever waits is woken.
        if self.userfault.zero(host, usize_of(page)).is_err() {
            let _ = self.userfault.wake(host, usize_of(page));
        }
        Some(moved)
    }

    /// Ends it, when all is there.
    pub fn end_if_filled(&self) -> Result<bool> {
        if self.is_over() {
            return Ok(true);
        }
        if self.left() > 0 || self.is_broken() {
            return Ok(false);
        }
        let (host, size) = (self.host_of(0), usize_of(self.size));
        self.userfault.unregister(host, size).map_err(|error| cannot_fill(&error))?;
        if !self.is_dontfork {
            // Before it is over: from then on a forked child touches it.
            memory::advise(host, size, Advice::DontFork(false)).map_err(|error| cannot_fill(&error))?;
        }
        self.is_over.store(true, Ordering::Release);
        Ok(true)
    }
}

fn cannot_register(error: &io::Error) -> Error {
    cannot("userfaultfd can't have its pages", error)
}

fn cannot_fill(error: &io::Error) -> Error {
    cannot("bringing its pages in (UFFDIO_COPY) failed", error)
}

fn cannot(what: &str, error: &io::Error) -> Error {
    Error::Backing { message: format!("{what}: {error}"), errno: Errno::from(error), region: None }
}
