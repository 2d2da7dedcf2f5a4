//! Waiting until a value in memory changes: asleep, on the map of the moment, and without a lease.

use std::sync::Arc;
use std::time::Duration;

use super::space::AddressSpace;
use super::state::SpaceState;
use crate::memory::access::{Access, Shape, Verb};
use crate::memory::protection::Need;
use crate::memory::region::MappedRegion;
use crate::memory::value::{self, Seen};
use crate::model::error::{Error, Result};
use crate::model::ids::Incarnation;
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::room::Room;
use crate::model::wait::Deadline;
use crate::sys::futex::{self, Bell, Ended, MOST_WORDS, Word};

/// A value that is waited for.
#[derive(Debug)]
pub struct WaitedValue<'a> {
    /// The verb, for messages.
    pub verb: &'static str,
    /// The space.
    pub space: &'a AddressSpace,
    /// Its memory.
    pub incarnation: Incarnation,
    /// The place of the integer.
    pub range: Range,
    /// The value that it is to lose.
    pub expected: u64,
}

/// The number of a value, and the value that is there instead of the expected one, or why none can be had.
pub type Found = (usize, Result<u64>);

impl WaitedValue<'_> {
    const fn verb(&self) -> Verb {
        Verb::new(self.verb, Need::Read).shaped(Shape::Single)
    }

    /// Looks without a wait; `None` where a look may block.
    pub fn look(&self) -> Result<Option<Seen>> {
        let snapshot = self.space.load();
        let region = self.region_in(&snapshot)?;
        (!region.storage().may_block()).then(|| value::look(region, self.range)).transpose()
    }

    /// Must be called without the interpreter's lock.
    pub fn look_patiently(&self) -> Result<Seen> {
        if let Some(seen) = self.look()? {
            return Ok(seen);
        }
        let region = {
            let snapshot = self.space.load();
            let base = self.region_in(&snapshot)?.range().base();
            // Kept mapped, without a lease: who waits vetoes no removal, and holds up no writer.
            snapshot.memory.as_ref().and_then(|memory| memory.for_participant(base)).map(Arc::clone)
        };
        // The region is one of the memory's.
        let region = region.ok_or(Error::Interrupted)?;
        value::look(&region, self.range)
    }

    fn region_in<'a>(&self, snapshot: &'a SpaceState) -> Result<&'a MappedRegion> {
        let (map, memory) = (&snapshot.map, snapshot.memory_of(self.incarnation)?);
        value::region_of(&Access { map, memory, verb: self.verb(), range: self.range })
    }
}

/// Sleeps until a value is not what was expected, or none can be had; without any when the time is up or the bell rings.
///
/// It looks at least once in `poll`, for not all who write wake anybody. Must be called without the interpreter's lock.
pub fn wait_any(
    values: &[WaitedValue<'_>],
    bell: Option<&Bell>,
    poll: Duration,
    deadline: Deadline,
    interrupt: &dyn Interrupt,
) -> Result<Vec<Found>> {
    loop {
        let mut words = Vec::new();
        words.add_all(bell.and_then(Bell::word))?;
        let found = look_at_all(values, &mut words)?;
        let Some(slice) = deadline.slice().filter(|_| found.is_empty() && !bell.is_some_and(Bell::is_rung)) else {
            return Ok(found);
        };
        match futex::wait_any(&words, slice.min(poll)) {
            Ended::Awake => interrupt.check()?,
            Ended::Signal => interrupt.check_now()?,
        }
    }
}

/// Finds the values that are not what was expected; of the others it adds the words to sleep on, as far as there is room.
fn look_at_all(values: &[WaitedValue<'_>], words: &mut Vec<Word>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (index, value) in values.iter().enumerate() {
        match value.look_patiently() {
            Err(error) => found.add((index, Err(error)))?,
            Ok(seen) if seen.value != value.expected => found.add((index, Ok(seen.value)))?,
            Ok(seen) => {
                let room = MOST_WORDS.saturating_sub(words.len());
                words.add_all(seen.words.into_iter().flatten().take(room))?;
            }
        }
    }
    Ok(found)
}
