//! Integers that somebody waits for: a look at one, and the words that the kernel lets a thread sleep on until it changes.

use super::access::Access;
use super::atomic::Cell;
use super::buffer::Output;
use super::region::MappedRegion;
use super::section::Section;
use crate::model::error::Result;
use crate::model::int::usize_of;
use crate::model::range::Range;
use crate::sys::futex::{self, Word};

/// The size of a word that the kernel lets a thread sleep on.
const WORD: u64 = 4;

/// The result of a look at an integer.
#[derive(Debug)]
pub struct Seen {
    /// The value: the low bytes, little-endian.
    pub value: u64,
    /// The words that change when it does. None where the kernel has none for it: then only another look tells.
    pub words: [Option<Word>; 2],
}

/// Refuses what is not a naturally aligned integer of 1, 2, 4 or 8 bytes in memory that can be read; else its region.
pub fn region_of<'a>(access: &Access<'a>) -> Result<&'a MappedRegion> {
    Ok(Cell::new(access)?.section().region())
}

/// Looks at an integer that [`region_of`] lets pass.
pub fn look(region: &MappedRegion, range: Range) -> Result<Seen> {
    if range.size() >= WORD {
        return Seen::of(region, range);
    }
    // Less than a word changes with the word around it.
    let around = Range::between(range.base() & !(WORD - 1), u64::MAX).take(WORD);
    match region.part(around).size() {
        WORD => Seen::of(region, around).map(|seen| seen.part(range)),
        // The region ends inside the word.
        _ => Ok(Seen { words: [None, None], ..Seen::of(region, range)? }),
    }
}

impl Seen {
    fn of(region: &MappedRegion, range: Range) -> Result<Self> {
        let section = Section::new(region, range, Range::between(0, range.size()));
        let value = Cell::of(section).loaded().map_or_else(|| copied(&section), Ok)?;
        let (low, high) = (section.host(), section.host().wrapping_add(usize_of(WORD)));
        let upper = (section.size() > WORD).then(|| Word::new(high, low_half(value >> 32))).flatten();
        // The kernel's look would wait for whoever answers faults.
        let is_answered = region.storage().backing().has_fault_handler;
        let words = if is_answered { [None, None] } else { [Word::new(low, low_half(value)), upper] };
        Ok(Self { value, words })
    }

    /// The same of a part of the word.
    fn part(self, range: Range) -> Self {
        let (at, size) = (usize_of(range.base() % WORD), usize_of(range.size()));
        let mut value = [0; size_of::<u64>()];
        value
            .iter_mut()
            .zip(self.value.to_le_bytes().into_iter().skip(at).take(size))
            .for_each(|(to, byte)| *to = byte);
        Self { value: u64::from_le_bytes(value), ..self }
    }

    /// Wakes all who sleep until it changes, in any process: how many.
    #[must_use]
    pub fn wake(&self) -> u64 {
        // Nobody sleeps where the kernel can't find the word. Who waits for 8 bytes sleeps on both halves, and may be counted at each.
        self.words.iter().flatten().filter_map(|word| futex::wake_shared(word).ok()).max().unwrap_or(0)
    }
}

/// The value where memory may fault. In one copy: the bytes of an aligned integer are of one moment.
fn copied(section: &Section<'_>) -> Result<u64> {
    let mut bytes = [0; size_of::<u64>()];
    section.read(&Output::from(bytes.as_mut_slice()))?;
    Ok(u64::from_le_bytes(bytes))
}

#[allow(clippy::cast_possible_truncation, reason = "the low half is what is meant")]
const fn low_half(value: u64) -> u32 {
    value as u32
}
