//! Memory that is filled from an image while it is used.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::chain::Image;
use super::chunk::CHUNK;
use super::pace::Pace;
use super::patient::Patient;
use super::restore::Piece;
use crate::memory::lazy::{Filling, Found, Haste, PageSource, Wanted, is_late};
use crate::memory::storage::Storage;
use crate::model::error::{Errno, Error, Result};
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::room::Room;
use crate::model::wait::{Deadline, Monitor, SLICE};
use crate::sys::userfault::{Event, Userfault};

/// The image as a keeper of bytes.
#[derive(Debug)]
pub struct ImageSource(pub Arc<Image>);

impl PageSource for ImageSource {
    fn read(&self, at: u64, bytes: &mut [u8], haste: Haste) -> Result<Found> {
        let wanted = Range::at(at, u64_of(bytes.len()));
        bytes.fill(0);
        let chunks = self.0.chunks_in(wanted.base(), wanted.end());
        for (number, _) in chunks {
            let chunk = Range::at(number.saturating_mul(CHUNK), CHUNK);
            if chunk == wanted {
                return self.0.read_in(*number, bytes, haste).map(found);
            }
            // A region that was cut inside a chunk.
            let mut buffer = Image::buffer()?;
            if !self.0.read_in(*number, &mut buffer, haste)? {
                return Ok(Found::NotYet);
            }
            let part = chunk.intersection(&wanted);
            let to = bytes.iter_mut().skip(usize_of(part.base().abs_diff(at)));
            let from = buffer.iter().skip(usize_of(part.base().abs_diff(chunk.base())));
            to.zip(from).take(usize_of(part.size())).for_each(|(to, from)| *to = *from);
        }
        Ok(if chunks.is_empty() { Found::Zeroes } else { Found::Data })
    }
}

const fn found(is_read: bool) -> Found {
    if is_read { Found::Data } else { Found::NotYet }
}

/// How far the filling is.
#[derive(Clone, Debug, Default)]
pub struct FillState {
    /// The faults that were answered.
    pub served: u64,
    /// The parts that were brought in in the background.
    pub filled: u64,
    /// The bytes that were read for both.
    pub moved: u64,
    /// The time from the start to the first fault.
    pub to_first_touch: Option<Duration>,
    /// The time until all was there.
    pub to_all: Option<Duration>,
    /// The first failure.
    pub error: Option<Error>,
}

/// Fills storages in the background, and answers those who are faster.
#[derive(Debug)]
pub struct Filler {
    userfault: Arc<Userfault>,
    storages: Vec<Weak<Storage>>,
    state: Monitor<FillState>,
    /// That of the background.
    pace: Pace,
}

impl Filler {
    /// Begins to fill memory that nobody has touched; the thread ends when all is there, or the memory has gone.
    ///
    /// A read of the image may take up to `timeout`.
    pub fn start(
        image: &Arc<Image>,
        pieces: &[Piece<'_>],
        rate: Option<u64>,
        timeout: Option<Duration>,
    ) -> Result<Arc<Self>> {
        let userfault = Arc::new(Userfault::open_missing().map_err(|error| unavailable(&error))?);
        let (source, path) = (ImageSource(Arc::clone(image)), image.newest().path().to_path_buf());
        let source: Arc<dyn PageSource> = Arc::new(Patient::new(Arc::new(source), path, timeout));
        let mut storages = Vec::new();
        for piece in pieces {
            let region = piece.section.region();
            if piece.section.part().base() != 0 || region.storage().any_filling().is_some() {
                // A window on memory that another one shows from its first byte on.
                continue;
            }
            if !region.storage().fill_from(&userfault, &source, piece.at)? {
                return Err(huge(region.desc()));
            }
            storages.add(region.weak_storage())?;
        }
        let state = Monitor::new(FillState::default());
        let filler = Arc::new(Self { userfault, storages, state, pace: Pace::begin(rate) });
        let thread = Arc::clone(&filler);
        let spawned = std::thread::Builder::new().name("restore".into()).spawn(move || thread.run());
        spawned.map_err(|error| Error::Backing {
            message: format!("starting a thread that fills memory failed: {error}"),
            errno: Errno::from(&error),
            region: None,
        })?;
        Ok(filler)
    }

    /// How far it is.
    pub fn state(&self) -> Result<FillState> {
        Ok(self.state.lock()?.clone())
    }

    /// Waits until all is there; `false` when the time is up, an error when some can't be had.
    pub fn wait(&self, deadline: Deadline, interrupt: &dyn Interrupt) -> Result<bool> {
        let is_going_on = |state: &mut FillState| state.to_all.is_none() && state.error.is_none();
        let Some(state) = self.state.wait_until(deadline, interrupt, is_going_on)? else { return Ok(false) };
        state.error.clone().map_or(Ok(true), Err)
    }

    fn run(&self) {
        let mut parts = self.parts();
        let mut next = parts.next();
        let mut moved = 0u64;
        while self.storages.iter().any(|storage| storage.strong_count() > 0) {
            // Whoever waits comes first.
            let pause = if next.is_some() { self.pace.pause(moved) } else { SLICE };
            if let Ok(Some(Event::Missing(address))) = self.userfault.next_event(pause.min(SLICE)) {
                self.answer(address);
            } else if let Some(part) = next.filter(|_| pause <= SLICE) {
                // Where nobody answers, the rest is left for whoever touches it.
                next = self.fill(part).and_then(|read| {
                    moved = moved.saturating_add(read);
                    parts.next()
                });
            } else if next.is_none() && self.has_ended() {
                return;
            }
        }
    }

    /// Each part of each storage.
    fn parts(&self) -> impl Iterator<Item = (usize, u64)> {
        let parts = self.storages.iter().map(|storage| with(storage, Filling::parts).unwrap_or_default());
        parts.enumerate().flat_map(|(index, parts)| (0..parts).map(move |part| (index, part)))
    }

    fn answer(&self, address: usize) {
        let answers = self.storages.iter().filter_map(|storage| with(storage, |filling| filling.answer(address))?);
        let moved = answers.take(1).fold(0, u64::saturating_add);
        self.note(|state| {
            state.served = state.served.saturating_add(1);
            state.moved = state.moved.saturating_add(moved);
            state.to_first_touch.get_or_insert(self.pace.elapsed());
        });
    }

    /// Brings in a part; the bytes that were read for it, or `None` where it is late.
    fn fill(&self, (index, part): (usize, u64)) -> Option<u64> {
        let storage = self.storages.get(index);
        let filled = storage.and_then(|storage| with(storage, |filling| filling.fill(part, Wanted::Ahead)));
        let (moved, error) = match filled {
            Some(Err(error)) => (0, Some(error)),
            Some(Ok(moved)) => (moved, None),
            None => (0, None),
        };
        let is_late = error.as_ref().is_some_and(is_late);
        if moved > 0 || error.is_some() {
            self.note(|state| {
                state.filled = state.filled.saturating_add(u64::from(!is_late));
                state.moved = state.moved.saturating_add(moved);
                state.error = state.error.take().or(error);
            });
        }
        (!is_late).then_some(moved)
    }

    /// Whether all is there; storages that have gone count.
    fn has_ended(&self) -> bool {
        let ended = |storage: &Weak<Storage>| with(storage, Filling::end_if_filled).unwrap_or(Ok(true));
        let has_ended = self.storages.iter().all(|storage| ended(storage).unwrap_or(false));
        if has_ended {
            self.note(|state| state.to_all = Some(self.pace.elapsed()));
        }
        has_ended
    }

    fn note(&self, change: impl FnOnce(&mut FillState)) {
        // Refused in a forked child only, where this does not run.
        let _ = self.state.change(change);
    }
}

/// Runs `work` on a storage that is kept mapped meanwhile, if it is there.
fn with<T>(storage: &Weak<Storage>, work: impl FnOnce(&Filling) -> T) -> Option<T> {
    storage.upgrade()?.any_filling().map(work)
}

fn unavailable(error: &std::io::Error) -> Error {
    let how =
        "root, CAP_SYS_PTRACE, a /dev/userfaultfd that may be opened, or vm.unprivileged_userfaultfd=1, and Linux 6.6";
    Error::Unsupported {
        message: format!("memory can't be filled while it is used (userfaultfd: {error}): it needs {how}"),
        feature: "userfaultfd",
        how: how.into(),
        region: None,
    }
}

fn huge(region: &SharedRegion) -> Error {
    Error::Unsupported {
        message: format!("{region} has huge pages, which are not filled while they are used: restore by mode=\"copy\""),
        feature: "filling huge pages",
        how: "mode=\"copy\"".into(),
        region: Some(Arc::clone(region)),
    }
}
