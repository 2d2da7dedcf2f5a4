//! Comparing what windows show of a storage with what is expected, and making it the same.

use super::dirty::{DirtyBitmap, PAGE};
use super::live::{LOOK, Live, LivePart};
use super::region::MappedRegion;
use super::shadow::Expected;
use super::suspects::Suspects;
use crate::model::error::Result;
use crate::model::ids::ConsumerId;
use crate::model::int::usize_of;
use crate::model::interrupt::Interrupt;
use crate::model::range::{Range, joined};
use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::model::room::Gathered;
use crate::sys::copy::{self as kernel, Stopped};

/// The pages among the suspects that differ from what is expected, in the storage of the windows.
pub fn differing(
    windows: &[&MappedRegion],
    expected: Expected<'_>,
    suspects: &Suspects,
    interrupt: &dyn Interrupt,
) -> Result<Vec<Range>> {
    let mut found = Gathered::default();
    Live::new(windows, LOOK).each(&suspects.all()?, interrupt, &mut |live| {
        each_difference(live, expected, &mut |page| {
            found.add(page);
            Ok(())
        })
    })?;
    found.finish().map(joined)
}

/// Makes what is expected of all that windows show of their storage, and gives the pages that differed.
pub fn put_everything_back(
    windows: &[&MappedRegion],
    expected: Expected<'_>,
    consumer: ConsumerId,
    interrupt: &dyn Interrupt,
) -> Result<Vec<Range>> {
    let Some(region) = windows.first() else { return Ok(Vec::new()) };
    let all = Suspects::everything(region, expected)?.all()?;
    put_back(windows, expected, &all, consumer, interrupt)
}

/// Puts the pages of some runs back for a consumer of the writes, and gives those that differed.
pub(super) fn put_back(
    windows: &[&MappedRegion],
    expected: Expected<'_>,
    runs: &[Range],
    consumer: ConsumerId,
    interrupt: &dyn Interrupt,
) -> Result<Vec<Range>> {
    let mut found = Gathered::default();
    Live::new(windows, PROT_READ | PROT_WRITE).each(runs, interrupt, &mut |live| {
        each_difference(live, expected, &mut |page| {
            found.add(page);
            // SAFETY: a page that is expected can be read.
            unsafe { live.put(page, expected.bytes(page.base())) }
        })
    })?;
    let found = joined(found.finish()?);
    if let Some(region) = windows.first() {
        let mark = |pages: &DirtyBitmap| found.iter().for_each(|run| pages.mark(run.base(), run.size()));
        region.storage().tracking().note_restored(consumer, &mark)?;
    }
    Ok(found)
}

/// Calls `found` with each page of a part that differs from what is expected.
fn each_difference(
    live: &LivePart<'_>,
    expected: Expected<'_>,
    found: &mut dyn FnMut(Range) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    for (page, bytes) in live.pages(expected.shift()) {
        // SAFETY: both can be read, the live part for as long as it is there.
        if !unsafe { kernel::are_equal(bytes, expected.bytes(page.base()), usize_of(page.size())) } {
            found(page)?;
        }
    }
    Ok(())
}

/// The number of pages in some runs.
pub fn pages_in(runs: &[Range]) -> u64 {
    runs.iter().map(|run| run.size().div_ceil(PAGE)).sum()
}
