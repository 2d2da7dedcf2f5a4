//! How long the pages of a storage that stay unprotected have not differed.

use crate::model::error::Result;
use crate::model::int::{u64_of, usize_of};
use crate::model::range::Range;
use crate::model::room::{self, Room};
use crate::sys::fork::Forked;
use crate::sys::lock::Lock;

/// Resets without a difference after which a page is protected again.
const QUIET: u8 = 8;

/// A number of resets for each unit, which are the bytes that the kernel protects together.
#[derive(Debug)]
pub(super) struct QuietPages {
    /// A power of two.
    unit: u64,
    size: u64,
    resets: Lock<Vec<u8>>,
}

impl QuietPages {
    pub(super) fn new(unit: u64, size: u64) -> Result<Self> {
        Ok(Self { unit, size, resets: Lock::new(room::zeroed(usize_of(size.div_ceil(unit)))?) })
    }

    /// All of them count anew.
    pub(super) fn forget(&self) -> Result<(), Forked> {
        self.resets.lock()?.fill(0);
        Ok(())
    }

    /// The units of hot pages that did not differ in many resets, up to this one; from here on they count anew.
    pub(super) fn due(&self, hot: &[Range], differing: &[Range]) -> Result<Vec<Range>> {
        let shift = self.unit.trailing_zeros();
        let units = |run: &Range| usize_of(run.base() >> shift)..usize_of(run.end().div_ceil(self.unit));
        let mut resets = self.resets.lock()?;
        for run in hot {
            resets.get_mut(units(run)).into_iter().flatten().for_each(|count| *count = count.saturating_add(1));
        }
        for run in differing {
            resets.get_mut(units(run)).into_iter().flatten().for_each(|count| *count = 0);
        }
        let mut due = Vec::new();
        for index in hot.iter().flat_map(units) {
            if let Some(count) = resets.get_mut(index).filter(|count| **count >= QUIET) {
                *count = 0;
                due.add(self.part(index))?;
            }
        }
        Ok(due)
    }

    fn part(&self, index: usize) -> Range {
        Range::at(u64_of(index).saturating_mul(self.unit), self.unit).intersection(&Range::between(0, self.size))
    }
}
