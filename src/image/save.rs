//! Saving the memory of a space.

use std::ops::ControlFlow;
use std::path::Path;

use super::assemble::{ChunkSink, assemble};
use super::chain::Image;
use super::chunk::{self, Buffer, CHUNK, Digest};
use super::part::fault;
use super::plan::Plan;
use super::writer::{Description, Stored, Writer};
use crate::memory::scan;
use crate::memory::section::Section;
use crate::memory::tracking::Consumer;
use crate::model::error::{Error, ImageFault, Result};
use crate::model::format;
use crate::model::ids::{ConsumerId, Incarnation};
use crate::model::interrupt::{Interrupt, Uninterrupted};
use crate::model::range::Range;
use crate::model::room::{self, Room};
use crate::model::tracking::TrackingMode;
use crate::space::AddressSpace;

/// How often pages are saved again that were written meanwhile.
const AGAIN: usize = 2;
const STAGE: &str = "save";

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
    /// How many threads work; `None` for as many as help.
    pub threads: Option<usize>,
}

impl Job<'_> {
    /// Writes the file, and gives its root digest. With a watch, a guest that runs meanwhile is noticed.
    pub fn run(mut self, watch: Option<&Watch<'_>>, interrupt: &dyn Interrupt) -> Result<Digest> {
        let mut writer = Writer::create(self.path, self.parent, &self.plan.files()?)?;
        let mut stored = self.store(&writer, &self.plan.to_read(self.dirty)?, interrupt)?;
        if let Some(parent) = self.parent {
            stored.add_all(self.vanished(parent, &stored)?)?;
            stored.sort_unstable_by_key(Stored::number);
        }
        writer.note(stored)?;
        if let Some(watch) = watch {
            self.repeat(&mut writer, watch, interrupt)?;
        }
        self.description.is_watched = watch.is_some();
        interrupt.check()?;
        writer.finish(&self.description, self.is_synced)
    }

    /// Stores sections, whose chunks differ, in several threads.
    fn store(&self, writer: &Writer<'_>, sections: &[Section<'_>], interrupt: &dyn Interrupt) -> Result<Vec<Stored>> {
        let stored = scan::together(sections, (STAGE, CHUNK), self.threads, interrupt, |part, interrupt| {
            let mut store = Store { writer, old: Image::buffer()?, stored: Vec::new() };
            assemble(part, STAGE, &mut store, interrupt)?;
            Ok(ControlFlow::Continue(store.stored))
        })?;
        room::collected(stored.into_iter().flatten())
    }

    /// Of what the parent has and nobody has looked at, all is zero that is not known to be as it was.
    fn vanished(&self, parent: &Image, seen: &[Stored]) -> Result<Vec<Stored>> {
        let kept = if self.dirty.is_some() { self.plan.known_places()? } else { Vec::new() };
        let is_kept = |at: u64| {
            let index = kept.partition_point(|place| place.end() <= at);
            kept.get(index).is_some_and(|place| place.contains(at))
        };
        let is_seen = |number: &u64| seen.binary_search_by_key(number, Stored::number).is_ok();
        let numbers = parent.chunks().iter().map(|(number, _)| number);
        let vanished = numbers.filter(|number| !is_seen(number) && !is_kept(number.saturating_mul(CHUNK)));
        room::collected(vanished.map(|number| Stored::zeroes(*number)))
    }

    /// Saves what was written meanwhile, until nothing is.
    fn repeat(&self, writer: &mut Writer<'_>, watch: &Watch<'_>, interrupt: &dyn Interrupt) -> Result<()> {
        for round in 0..=AGAIN {
            let again = self.plan.again(&watch.written(interrupt)?)?;
            let Some(first) = again.first() else { break };
            if round == AGAIN {
                let (at, desc) = (format::hex(first.address()), first.region().desc());
                let message =
                    format!("{desc} was written at {at} while it was saved: pause the guest's processors first");
                return Err(fault(self.path, ImageFault::Refused, message, None));
            }
            let stored = self.store(writer, &again, interrupt)?;
            writer.note(stored)?;
        }
        Ok(())
    }
}

/// Stores chunks in a file, in which no other thread stores the same.
struct Store<'a> {
    writer: &'a Writer<'a>,
    /// The bytes that the parent has.
    old: Buffer,
    stored: Vec<Stored>,
}

impl ChunkSink for Store<'_> {
    fn put(&mut self, number: u64, bytes: &[u8], fed: u16) -> Result<()> {
        self.stored.add(self.writer.store(number, bytes, fed, &mut self.old)?)
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
