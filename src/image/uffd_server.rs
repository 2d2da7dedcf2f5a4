//! Memory of another process that is filled from an image while that uses it: a VMM has given us its userfaultfd.

use std::io;
use std::time::Duration;

use super::lazy::{FillState, ImageSource};
use super::pace::Pace;
use crate::memory::lazy::{Found, Haste, PART, PageSource, Wanted};
use crate::memory::present::PresentPages;
use crate::model::error::{Errno, Error, Result};
use crate::model::format::hex;
use crate::model::int::{index_sum, u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::journal::{self, Level};
use crate::model::range::Range;
use crate::model::room::{self, Room};
use crate::model::wait::SLICE;
use crate::sys::errno::{self, EAGAIN, EEXIST, ENOENT, ESRCH};
use crate::sys::host::page_size;
use crate::sys::userfault::{Event, Userfault};

/// How often poison is tried again where the VMM gives pages up meanwhile.
const AGAIN: usize = 100;

/// The memory of an image with its regions one behind the other, as the file of a VMM has it.
#[derive(Debug)]
pub struct Row {
    /// The image.
    pub source: ImageSource,
    /// The ranges of the row without gaps, and the place of the first byte of each in the data of the image.
    pub pieces: Vec<(Range, u64)>,
}

impl PageSource for Row {
    fn read(&self, at: u64, bytes: &mut [u8], haste: Haste) -> Result<Found> {
        let wanted = Range::at(at, u64_of(bytes.len()));
        let first = self.pieces.partition_point(|(range, _)| range.end() <= at);
        let (mut left, mut found) = (bytes, Found::Zeroes);
        for (range, place) in self.pieces.iter().skip(first) {
            let here = range.intersection(&wanted);
            let (part, rest) = left.split_at_mut(usize_of(here.size()).min(left.len()));
            if part.is_empty() {
                break;
            }
            match self.source.read(place.saturating_add(here.base().abs_diff(range.base())), part, haste)? {
                Found::NotYet => return Ok(Found::NotYet),
                Found::Data => found = Found::Data,
                Found::Zeroes => {}
            }
            left = rest;
        }
        Ok(found)
    }
}

/// Memory of the VMM.
#[derive(Debug)]
pub struct Mapping {
    host: Range,
    /// The place of its first byte in the row.
    at: u64,
    page: u64,
    /// Parts that have been brought in, or poisoned; not those of zeroes.
    filled: PresentPages,
    poisoned: PresentPages,
    /// Pages that the VMM gave up: they are zero from then on.
    removed: PresentPages,
}

impl Mapping {
    /// Memory at host addresses, in pages of a size, whose bytes begin at a place in the row.
    pub fn new(host: Range, at: u64, page: u64) -> Result<Self> {
        let count = |unit: u64| usize_of(host.size().checked_div(unit).unwrap_or_default().saturating_add(1));
        let parts = || PresentPages::new(count(PART.max(page)));
        Ok(Self { host, at, page, filled: parts()?, poisoned: parts()?, removed: PresentPages::new(count(page))? })
    }

    fn part(&self) -> u64 {
        self.page.max(PART)
    }

    fn parts(&self) -> u64 {
        self.host.size().div_ceil(self.part())
    }

    fn is_filled(&self, part: u64) -> bool {
        self.filled.has(bit(part))
    }

    /// Whether the page at an address could not be had, and was not given up since.
    fn is_poisoned(&self, address: u64) -> bool {
        let offset = address.abs_diff(self.host.base());
        let [part, page] = [self.part(), self.page].map(|unit| bit(offset.checked_div(unit).unwrap_or_default()));
        self.poisoned.has(part) && !self.removed.has(page)
    }

    /// The host addresses of a part.
    fn part_at(&self, part: u64) -> Range {
        self.host.skip(part.saturating_mul(self.part())).take(self.part())
    }

    /// The numbers of the pages that lie in a range whole.
    fn pages(&self, host: Range) -> std::ops::Range<usize> {
        let number = |address: u64| {
            let offset = address.clamp(self.host.base(), self.host.end()).abs_diff(self.host.base());
            usize_of(offset.checked_div(self.page).unwrap_or_default())
        };
        number(host.base())..number(host.end())
    }

    /// Does something to the runs of pages of a part that the VMM has not given up.
    fn each_kept(&self, part: Range, mut work: impl FnMut(Range) -> io::Result<()>) -> io::Result<()> {
        let is_kept = |page: usize| !self.removed.has(page..index_sum(page, 1));
        if self.pages(part).all(is_kept) {
            return work(part);
        }
        for page in self.pages(part).filter(|page| is_kept(*page)) {
            work(self.host.skip(u64_of(page).saturating_mul(self.page)).take(self.page))?;
        }
        Ok(())
    }
}

/// Why a step was not made.
enum Stop {
    /// The VMM gives pages up: what it tells of that comes first.
    Later,
    /// Its memory is no more.
    Gone,
    Failed(Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match errno::of(&error) {
            EAGAIN => Self::Later,
            ESRCH => Self::Gone,
            _ => Self::Failed(failed(format!("filling the VMM's memory failed: {error}"), Errno::from(&error))),
        }
    }
}

fn failed(message: String, errno: Errno) -> Error {
    Error::Backing { message, errno, region: None }
}

/// Answers a VMM until it ends.
#[derive(Debug)]
pub struct Server<'a> {
    userfault: Userfault,
    source: &'a dyn PageSource,
    mappings: &'a [Mapping],
    pace: Pace,
    /// Of the part that comes next in the background: its mapping, and its number.
    next: (usize, u64),
    in_background: u64,
    /// Touches that wait.
    waiting: Vec<usize>,
    buffer: Vec<u8>,
    state: FillState,
}

impl<'a> Server<'a> {
    /// Serves memory by a userfaultfd for which all of it is registered.
    pub fn new(
        userfault: Userfault,
        source: &'a dyn PageSource,
        mappings: &'a [Mapping],
        rate: Option<u64>,
    ) -> Result<Self> {
        let largest = mappings.iter().map(Mapping::part).max().unwrap_or(PART);
        let (pace, state) = (Pace::begin(rate), FillState::default());
        let (waiting, buffer) = (Vec::new(), room::zeroed(usize_of(largest))?);
        Ok(Self { userfault, source, mappings, pace, next: (0, 0), in_background: 0, waiting, buffer, state })
    }

    /// Serves until the VMM ends. When this is ended before that, what is not there yet is poisoned: nobody waits for ever.
    pub fn run(mut self, interrupt: &dyn Interrupt) -> Result<FillState> {
        loop {
            let asked = interrupt.check().map_err(|stopped| Stop::Failed(stopped.into()));
            match asked.and_then(|()| self.step()) {
                Ok(()) | Err(Stop::Later) => {}
                Err(Stop::Gone) => return Ok(self.state),
                Err(Stop::Failed(error)) => {
                    self.give_up();
                    return Err(error);
                }
            }
        }
    }

    /// Hears of something, answers a touch, or brings in a part.
    fn step(&mut self) -> Result<(), Stop> {
        let pending = self.mappings.get(self.next.0);
        let pause = match pending {
            _ if !self.waiting.is_empty() => Duration::ZERO,
            Some(_) => self.pace.pause(self.in_background),
            None => SLICE,
        };
        // Before any answer, which the kernel does not take while the VMM waits to be heard.
        if let Some(event) = self.userfault.next_event(pause.min(SLICE))? {
            return self.hear(event);
        }
        if let Some(address) = self.waiting.last().copied() {
            self.answer(address)?;
            self.waiting.pop();
            return Ok(());
        }
        match pending {
            Some(mapping) if pause <= SLICE => self.fill_next(mapping),
            _ if self.userfault.is_gone() => Err(Stop::Gone),
            _ => Ok(()),
        }
    }

    fn hear(&mut self, event: Event) -> Result<(), Stop> {
        match event {
            Event::Missing(address) => self.waiting.add(address).map_err(Stop::Failed),
            Event::Removed(start, end) => {
                let range = Range::between(u64_of(start), u64_of(end));
                self.mappings.iter().for_each(|mapping| mapping.removed.mark(mapping.pages(range)));
                Ok(())
            }
            Event::Other => {
                let message = "the VMM waits for something other than a missing page (uffd_msg): its userfaultfd must be registered for missing pages only";
                Err(Stop::Failed(failed(message.into(), Errno::Refused(errno::EINVAL))))
            }
        }
    }

    fn answer(&mut self, address: usize) -> Result<(), Stop> {
        let mapping = self.mappings.iter().find(|mapping| mapping.host.contains(u64_of(address)));
        let Some(mapping) = mapping else {
            let _ = self.userfault.poison_missing(
                page_of(address, page_size()),
                usize_of(page_size()),
                usize_of(page_size()),
            );
            let message =
                format!("the VMM touched {}, which is in none of the mappings that it sent", hex(u64_of(address)));
            return Err(Stop::Failed(failed(message, Errno::Refused(errno::EFAULT))));
        };
        let offset = mapping.host.offset_of(u64_of(address)).unwrap_or_default();
        self.fill(mapping, offset.checked_div(mapping.part()).unwrap_or_default(), Wanted::Now)?;
        let page = page_of(address, mapping.page);
        if mapping.is_poisoned(u64_of(address)) {
            // Also where it is by now: of shared memory, a page of zeroes would take its place.
            let size = usize_of(mapping.page);
            or_unmapped(self.userfault.poison_missing(page, size, size))?;
        } else {
            self.zero(page, mapping.page)?;
        }
        self.state.served = self.state.served.saturating_add(1);
        self.state.to_first_touch.get_or_insert_with(|| self.pace.elapsed());
        Ok(())
    }

    /// A page that the image does not have, or that was given up; where it is there by now, whoever waits is woken.
    fn zero(&mut self, host: *mut u8, page: u64) -> io::Result<()> {
        let zeroed = if page == page_size() {
            self.userfault.zero(host, usize_of(page))
        } else {
            // The kernel has no page of zeroes of that size.
            let bytes = self.buffer.get_mut(..usize_of(page)).unwrap_or_default();
            bytes.fill(0);
            self.userfault.copy(host, bytes)
        };
        zeroed.or_else(|error| match errno::of(&error) {
            EEXIST => self.userfault.wake(host, usize_of(page)),
            // Unmapped meanwhile.
            ENOENT => Ok(()),
            _ => Err(error),
        })
    }

    fn fill_next(&mut self, mapping: &Mapping) -> Result<(), Stop> {
        let (index, part) = self.next;
        if part == mapping.parts() {
            self.next = (index.saturating_add(1), 0);
            if self.next.0 == self.mappings.len() && self.state.error.is_none() {
                self.state.to_all = Some(self.pace.elapsed());
            }
            return Ok(());
        }
        let moved = self.fill(mapping, part, Wanted::Ahead)?;
        self.next.1 = part.saturating_add(1);
        self.in_background = self.in_background.saturating_add(moved);
        self.state.filled = self.state.filled.saturating_add(u64::from(moved > 0));
        Ok(())
    }

    /// Brings in a part; the bytes that were read for it.
    fn fill(&mut self, mapping: &Mapping, part: u64, wanted: Wanted) -> Result<u64, Stop> {
        if mapping.is_filled(part) {
            return Ok(0);
        }
        let here = mapping.part_at(part);
        let bytes = self.buffer.get_mut(..usize_of(here.size())).unwrap_or_default();
        let at = mapping.at.saturating_add(here.base().abs_diff(mapping.host.base()));
        let moved = match self.source.read(at, bytes, Haste::Waits) {
            // Given page by page to who touches them.
            Ok(Found::Zeroes | Found::NotYet) => return Ok(0),
            Ok(Found::Data) => {
                let (userfault, page) = (&self.userfault, usize_of(mapping.page));
                or_unmapped(mapping.each_kept(here, |run| {
                    let from = usize_of(run.base().abs_diff(here.base()));
                    let bytes = bytes.get(from..index_sum(from, usize_of(run.size()))).unwrap_or_default();
                    userfault.copy_missing(host_at(run.base()), bytes, page)
                }))?;
                here.size()
            }
            Err(error) if !wanted.is_final(&error) => {
                // The rest is left for whoever touches it.
                self.state.error.get_or_insert(error);
                self.next = (self.mappings.len(), 0);
                return Ok(0);
            }
            Err(error) => {
                self.poison(mapping, here)?;
                mapping.poisoned.mark(bit(part));
                journal::note(Level::Warning, || format!("a VMM's memory at {here} is poisoned: {error}"));
                self.state.error.get_or_insert(error);
                0
            }
        };
        mapping.filled.mark(bit(part));
        self.state.moved = self.state.moved.saturating_add(moved);
        Ok(moved)
    }

    fn poison(&self, mapping: &Mapping, here: Range) -> io::Result<()> {
        or_unmapped(mapping.each_kept(here, |run| {
            self.userfault.poison_missing(host_at(run.base()), usize_of(run.size()), usize_of(mapping.page))
        }))
    }

    /// Poisons what is not there, and leaves the memory to the kernel again.
    fn give_up(&mut self) {
        for mapping in self.mappings {
            let mut missing = (0..mapping.parts()).filter(|part| !mapping.is_filled(*part));
            // A page that is not poisoned must not become one of zeroes.
            if missing.all(|part| self.is_poisoned(mapping, part)) {
                let (host, size) = (host_at(mapping.host.base()), usize_of(mapping.host.size()));
                let _ = self.userfault.unregister(host, size);
            }
        }
        // Who gives pages up waits to be heard.
        self.hear_all();
    }

    fn is_poisoned(&mut self, mapping: &Mapping, part: u64) -> bool {
        for _ in 0..AGAIN {
            match self.poison(mapping, mapping.part_at(part)).map_err(Stop::from) {
                Err(Stop::Later) => self.hear_all(),
                poisoned => return poisoned.is_ok(),
            }
        }
        false
    }

    fn hear_all(&mut self) {
        while let Ok(Some(event)) = self.userfault.next_event(Duration::ZERO) {
            let _ = self.hear(event);
        }
    }
}

fn bit(number: u64) -> std::ops::Range<usize> {
    usize_of(number)..index_sum(usize_of(number), 1)
}

/// The outcome for memory that may be unmapped meanwhile.
fn or_unmapped(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if errno::of(&error) == ENOENT { Ok(()) } else { Err(error) })
}

/// An address of the other process.
fn host_at(address: u64) -> *mut u8 {
    std::ptr::without_provenance_mut(usize_of(address))
}

fn page_of(address: usize, page: u64) -> *mut u8 {
    host_at(u64_of(address) & !page.saturating_sub(1))
}
