//! Storing what a storage has at a moment in a shadow.

use std::sync::Arc;

use super::live::{LOOK, Live, whole_pages};
use super::region::MappedRegion;
use super::shadow::{Shadow, ShadowWriter, is_zero};
use super::source_error::failed;
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::room::Gathered;
use crate::sys::copy::Stopped;

/// Stores all pages that the windows of a region's storage show and that are not zero; `progress` is told how far it is.
pub fn all(
    region: &MappedRegion,
    windows: &[&MappedRegion],
    interrupt: &dyn Interrupt,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Shadow> {
    let writer = writer_for(region)?;
    for run in data_of(region)? {
        add(&writer, windows, run, false, interrupt)?;
        progress(run.end())?;
    }
    writer.seal(None).map_err(|error| refused(region, &error))
}

/// Stores the pages of some runs; all others are those of an earlier moment.
pub fn above(
    parent: &Arc<Shadow>,
    (region, windows): (&MappedRegion, &[&MappedRegion]),
    runs: &[Range],
    interrupt: &dyn Interrupt,
) -> Result<Shadow> {
    let writer = writer_for(region)?;
    runs.iter().try_for_each(|run| add(&writer, windows, *run, true, interrupt))?;
    writer.seal(Some(Arc::clone(parent))).map_err(|error| refused(region, &error))
}

/// The runs of the storage of a region that have data, in whole pages.
pub(super) fn data_of(region: &MappedRegion) -> Result<Vec<Range>> {
    let (storage, mut runs) = (region.storage(), Gathered::default());
    // It is compared and put back without a look whether all is there.
    storage.ensure(storage.whole())?;
    storage.data_runs(region.desc(), storage.whole(), &mut |run| runs.add(whole_pages(run, storage)))?;
    runs.finish()
}

fn writer_for(region: &MappedRegion) -> Result<ShadowWriter> {
    ShadowWriter::new(region.storage().whole().size())?.map_err(|error| refused(region, &error))
}

fn refused(region: &MappedRegion, error: &std::io::Error) -> Error {
    failed(region.desc(), "making a memfd for its shadow failed", error)
}

/// Stores the pages of a run, also those that are zero if `zeroes`; those that touch each other together.
fn add(
    writer: &ShadowWriter,
    windows: &[&MappedRegion],
    run: Range,
    zeroes: bool,
    interrupt: &dyn Interrupt,
) -> Result<()> {
    let store = |run: Option<(Range, *const u8)>| -> Result<(), Stopped> {
        run.map_or(Ok(()), |(run, bytes)| writer.store(run, bytes))
    };
    Live::new(windows, LOOK).each(&[run], interrupt, &mut |live| {
        let mut next: Option<(Range, *const u8)> = None;
        for (page, bytes) in live.pages(0).filter(|(page, bytes)| zeroes || !is_zero(*page, *bytes)) {
            next = match next {
                Some((run, first)) if run.end() == page.base() => Some((Range::between(run.base(), page.end()), first)),
                before => {
                    store(before)?;
                    Some((page, bytes))
                }
            };
        }
        store(next)
    })
}
