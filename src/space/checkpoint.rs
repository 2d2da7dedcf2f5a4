//! Checkpoints of a space: its map and the bytes of its memory at one moment, and what was written since.
//!
//! Those of one memory are a stack with one consumer of its writes. One that is taken while others are there stores only what differs
//! from the last of them; pages that it stores are suspects for all before it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::point::{CheckpointOptions, Kept, Point, PointRegion};
use super::space::AddressSpace;
use super::state::SpaceState;
use crate::memory::capture;
use crate::memory::difference;
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region::MappedRegion;
use crate::memory::reset::Reset;
use crate::memory::shadow::Expected;
use crate::memory::tracking::Consumer;
use crate::model::error::{Error, Result};
use crate::model::ids::{ConsumerId, Incarnation};
use crate::model::interrupt::Interrupt;
use crate::model::invalid::Invalid;
use crate::model::region::SharedRegion;
use crate::model::room::{self, Gathered, Room};
use crate::model::tracking::TrackingMode;
use crate::sys::lock::Lock;

impl AddressSpace {
    /// Stores what the memory is; its writers are paused by the caller.
    pub fn checkpoint(
        &self,
        incarnation: Incarnation,
        options: CheckpointOptions,
        interrupt: &dyn Interrupt,
    ) -> Result<Arc<Point>> {
        let turn = self.take_turn(interrupt)?;
        // Two loads, and one snapshot: nobody else has the turn.
        self.load().memory_of(incarnation)?;
        let outer = self.checkpoints()?.open().rfind(|point| point.incarnation == incarnation);
        let options = inherited(options, outer.as_deref())?;
        self.refuse_unseen(options)?;
        let consumer = match &outer {
            Some(outer) => outer.consumer,
            None => self.follow_for_checkpoints(incarnation, options)?,
        };
        // Behind the protection: what is written while bytes are stored is found by the first restore.
        let before = self.load_full();
        let taken = self.take_point(&before, (consumer, options), outer.as_deref(), &*turn);
        match taken {
            Ok(point) => {
                let point = Arc::new(point);
                self.checkpoints()?.open.push(Arc::downgrade(&point));
                Ok(point)
            }
            Err(error) if outer.is_none() => {
                drop(before);
                self.stop_following(incarnation).and(Err(error))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn refuse_unseen(&self, options: CheckpointOptions) -> Result<()> {
        if options.is_trusting || options.mode == Some(TrackingMode::Compare) {
            return Ok(());
        }
        self.refuse_unseen_writers(|name| {
            format!("mode=\"compare\", which finds them, or trust=(\"{name}\",) if it writes nothing until the restore")
        })
    }

    /// Begins to follow the writes for the first checkpoint.
    fn follow_for_checkpoints(&self, incarnation: Incarnation, options: CheckpointOptions) -> Result<ConsumerId> {
        let mode = match options.mode {
            Some(TrackingMode::Kvm) => TrackingMode::Kvm,
            Some(TrackingMode::Compare) => TrackingMode::Compare,
            _ => TrackingMode::Restore,
        };
        self.check_logs(incarnation, mode)?;
        let last = self.checkpoints()?.following.take();
        let id = ConsumerId::unique();
        if let Some((_, last)) = last.filter(|(last, _)| *last == incarnation) {
            // Dropped, not closed: its pages are of another moment.
            self.set_consumers(incarnation, |consumers| consumers.retain(|consumer| consumer.id != last))?;
            self.forget(incarnation, last);
        }
        let consumer = Consumer { id, mode, is_exact: false };
        let started = self.set_consumers(incarnation, |consumers| consumers.push(consumer));
        started.inspect_err(|_| self.forget(incarnation, id))?;
        self.checkpoints()?.following = Some((incarnation, id));
        Ok(id)
    }

    /// Ends it, with the last checkpoint; called with the turn.
    fn stop_following(&self, incarnation: Incarnation) -> Result<()> {
        let last = self.checkpoints()?.following.take();
        let Some((_, id)) = last.filter(|(last, _)| *last == incarnation) else { return Ok(()) };
        self.set_consumers(incarnation, |consumers| consumers.retain(|consumer| consumer.id != id))?;
        self.forget(incarnation, id);
        Ok(())
    }

    fn take_point(
        &self,
        before: &SpaceState,
        (consumer, options): (ConsumerId, CheckpointOptions),
        outer: Option<&Point>,
        interrupt: &dyn Interrupt,
    ) -> Result<Point> {
        let Some(memory) = before.memory() else { return Err(Error::CheckpointClosed) };
        let mut kept = Vec::new();
        let taken = take_all(memory, (consumer, options), outer, &mut kept, interrupt);
        let (regions, excluded, sources) = taken.or_else(|error| {
            // What was stored is no longer told of; the checkpoint before still wants to know.
            kept.iter().try_for_each(hand_down)?;
            Err(error)
        })?;
        Ok(Point {
            incarnation: memory.incarnation(),
            agrees: Lock::new(before.map.generation()),
            map: Arc::clone(&before.map),
            reservations: self.reservation_list()?,
            consumer,
            options,
            kept,
            regions,
            excluded,
            sources,
            stats: Lock::default(),
        })
    }

    /// Closes a checkpoint; a second time does nothing.
    pub fn close_checkpoint(&self, point: &Arc<Point>, interrupt: &dyn Interrupt) -> Result<()> {
        let _turn = self.take_turn(interrupt)?;
        self.abandon_checkpoint(point)?;
        let is_last = !self.checkpoints()?.open().any(|other| other.incarnation == point.incarnation);
        if is_last && self.has_incarnation(point.incarnation) {
            self.stop_following(point.incarnation)?;
        }
        Ok(())
    }

    /// Forgets a checkpoint, for whoever may not wait for the turn: its writes are followed until another is taken.
    pub fn abandon_checkpoint(&self, point: &Arc<Point>) -> Result<()> {
        let mut checkpoints = self.checkpoints()?;
        let mut open = checkpoints.open().rev();
        // First: a restore of the one before it that does not find it any more finds its pages.
        if let (Some(last), Some(before)) = (open.next(), open.next())
            && Arc::ptr_eq(&last, point)
        {
            before.kept.iter().try_for_each(|kept| kept.reset.suspect(&last.stored_since(kept)?))?;
        }
        drop(open);
        checkpoints.retain(|other| !std::ptr::eq(other, &**point));
        Ok(())
    }

    /// Refuses a checkpoint that is closed, or whose memory is; gives those that were taken after it.
    pub(super) fn later_than(&self, point: &Arc<Point>) -> Result<Vec<Arc<Point>>> {
        self.load().memory_of(point.incarnation)?;
        let mut open = Vec::new();
        open.add_all(self.checkpoints()?.open())?;
        let at = open.iter().position(|other| Arc::ptr_eq(other, point)).ok_or(Error::CheckpointClosed)?;
        open.drain(..=at);
        Ok(open)
    }

    /// Closes all that were taken after one.
    pub(super) fn close_later(&self, later: &[Arc<Point>]) -> Result<()> {
        self.checkpoints()?.retain(|point| !later.iter().any(|other| std::ptr::eq(&**other, point)));
        Ok(())
    }
}

/// The options of a checkpoint on top of another, whose mode it has.
fn inherited(options: CheckpointOptions, outer: Option<&Point>) -> Result<CheckpointOptions> {
    let Some(outer) = outer else { return Ok(options) };
    if options.mode.is_some() && options.mode != outer.options.mode {
        let message = "a checkpoint on top of another has its mode: give mode=\"auto\", or close the other first";
        return Err(Invalid::argument(message).into());
    }
    Ok(CheckpointOptions { mode: outer.options.mode, ..options })
}

/// Lets the pages that a checkpoint stores be found by the one before it.
fn hand_down(kept: &Kept) -> Result<()> {
    let mut runs = Gathered::default();
    if kept.shadow.parent().is_some() {
        kept.shadow.stored(&mut |run| runs.add(run));
    }
    kept.reset.suspect(&runs.finish()?)
}

type Taken = (Vec<PointRegion>, Vec<SharedRegion>, BTreeSet<&'static str>);

/// Stores all storages of a memory, each once whatever the number of its windows.
fn take_all(
    memory: &MappedRegions,
    (consumer, options): (ConsumerId, CheckpointOptions),
    outer: Option<&Point>,
    kept: &mut Vec<Kept>,
    interrupt: &dyn Interrupt,
) -> Result<Taken> {
    let (mut regions, mut excluded, mut sources) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut all = room::collected(memory.regions())?;
    all.sort_unstable_by_key(|region| region.storage().id());
    let total = all.iter().map(|region| region.range().size()).sum();
    let mut done = 0u64;
    for windows in all.chunk_by(|one, next| one.storage().id() == next.storage().id()) {
        let Some(region) = windows.first() else { continue };
        let index = if region.can_be_reset() {
            let mut progress =
                |bytes: u64| Ok(interrupt.progress("checkpoint", done.saturating_add(bytes).min(total), total)?);
            let new = keep(region, windows, (consumer, options), outer, interrupt, &mut progress)?;
            sources.extend(new.reset.sources(region)?);
            kept.push(new);
            kept.len().checked_sub(1)
        } else {
            excluded.extend(windows.iter().map(|region| Arc::clone(region.desc())));
            None
        };
        regions.extend(windows.iter().map(|region| PointRegion::of(region, index)));
        done = done.saturating_add(windows.iter().map(|region| region.range().size()).sum());
        interrupt.progress("checkpoint", done, total)?;
    }
    regions.sort_unstable_by_key(|region| region.range.base());
    Ok((regions, excluded, sources))
}

fn position_of(kept: &[Kept], region: &MappedRegion) -> Result<Option<usize>> {
    for (index, kept) in kept.iter().enumerate() {
        if kept.reset.is_of(region)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Stores a storage: what differs from an earlier checkpoint that has it, or all.
fn keep(
    region: &MappedRegion,
    windows: &[&MappedRegion],
    (consumer, options): (ConsumerId, CheckpointOptions),
    outer: Option<&Point>,
    interrupt: &dyn Interrupt,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Kept> {
    let before = outer.map_or(Ok(None), |outer| position_of(&outer.kept, region))?;
    if let Some(before) = before.and_then(|index| outer?.kept.get(index)) {
        let expected = Expected::all(&before.shadow);
        let suspects = before.reset.suspects(region, expected, false)?;
        let stored = difference::differing(windows, expected, &suspects, interrupt)
            .and_then(|differing| capture::above(&before.shadow, (region, windows), &differing, interrupt));
        let shadow = stored.or_else(|error| before.reset.put_back(&suspects).and(Err(error)))?;
        return Ok(Kept::new(Arc::clone(&before.reset), Arc::new(shadow)));
    }
    if outer.is_some() {
        // It was plugged since, and is followed since then: from here on it is from now on.
        region.follow_anew(Consumer { id: consumer, mode: mode_of(options), is_exact: false })?;
    }
    let reset = Reset::new(region, consumer)?;
    if options.mode == Some(TrackingMode::Pagemap) && reset.sources(region)? != ["pagemap"] {
        return Err(unwatchable(region.desc()));
    }
    let shadow = match region.storage().shadow() {
        // Of copies of a shadow, only the pages that were written are not in it.
        Some(shadow) => capture::above(shadow, (region, windows), &region.own_runs()?, interrupt)?,
        None => capture::all(region, windows, interrupt, progress)?,
    };
    Ok(Kept::new(Arc::new(reset), Arc::new(shadow)))
}

/// The mode of the consumer of a checkpoint's.
fn mode_of(options: CheckpointOptions) -> TrackingMode {
    match options.mode {
        Some(mode @ (TrackingMode::Kvm | TrackingMode::Compare)) => mode,
        _ => TrackingMode::Restore,
    }
}

fn unwatchable(region: &SharedRegion) -> Error {
    let how = "mode=\"auto\", which compares what the kernel can't watch";
    Error::Unsupported {
        message: format!("the kernel can't watch the writes to {region}: give {how}"),
        feature: "pagemap",
        how: how.into(),
        region: Some(Arc::clone(region)),
    }
}
