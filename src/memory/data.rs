//! Which bytes of a region have data: pages of a file, or pages of memory.

use std::fs::File;
use std::sync::Arc;

use super::mapping::Mapping;
use super::protection::Pages;
use super::source::failed;
use super::watch::{self, NoWatch};
use crate::model::error::{Error, Result};
use crate::model::int::{u64_of, usize_of};
use crate::model::range::{Range, joined};
use crate::model::region::SharedRegion;
use crate::model::room::Room;
use crate::sys::pagemap::Query;
use crate::sys::{file, host, smaps};

impl Mapping {
    /// Calls `found` with each run of bytes of the region that has data, as offsets by ascending start. All others read as zeroes.
    ///
    /// What a file has is what it shows, whoever wrote it; else it is what this process has pages of.
    pub fn data_runs(&self, region: &SharedRegion, found: &mut dyn FnMut(Range)) -> Result<()> {
        if self.file_runs(found) {
            return Ok(());
        }
        let Some(file) = self.backing().file.as_ref().filter(|_| self.backing().is_regular) else {
            return self.page_runs(region, Query::There, found);
        };
        // A private mapping shows the file where this process has no page of its own.
        let (mut runs, mut room) = (Vec::new(), Ok(()));
        let mut add = |run| room = std::mem::replace(&mut room, Ok(())).and_then(|()| runs.add(run));
        self.runs_in_file(file, self.backing().offset, &mut add);
        self.page_runs(region, Query::Own, &mut add)?;
        room?;
        runs.sort_unstable();
        joined(runs).into_iter().for_each(found);
        Ok(())
    }

    /// The runs of a shared file that have data; `false` for other memory, and nothing is called.
    pub(super) fn file_runs(&self, found: &mut dyn FnMut(Range)) -> bool {
        let Some((file, start)) = self.backing().shown_file() else { return false };
        self.runs_in_file(file, start, found);
        true
    }

    /// The runs of a file that have data, from the region's start in it on.
    fn runs_in_file(&self, file: &File, start: u64, found: &mut dyn FnMut(Range)) {
        let whole = Range::between(start, start.saturating_add(self.whole().size()));
        // A description of its own: the search moves the position.
        let Ok(file) = file::reopen(file) else {
            return found(self.whole());
        };
        file::data_runs(&file, whole.base(), whole.end(), &mut |from, to| {
            found(Range::between(from.abs_diff(start), to.abs_diff(start)));
        });
    }

    /// Calls `found` with each run of pages of the region that this process has, as offsets by ascending start.
    pub(super) fn page_runs(&self, region: &SharedRegion, query: Query, found: &mut dyn FnMut(Range)) -> Result<()> {
        let (pages, whole) = (self.small_pages(), self.whole());
        let (first, lead) = (pages.0.addr(), u64_of(self.host(0).addr().abs_diff(pages.0.addr())));
        let scanned = watch::scan(pages, query, &mut |start, run| {
            let offset = u64_of(start.abs_diff(first));
            let end = offset.saturating_add(u64_of(run)).saturating_sub(lead);
            found(Range::between(offset.saturating_sub(lead), end.min(whole.end())));
        });
        let refused = |error: std::io::Error| failed(region, "looking for its pages (PAGEMAP_SCAN) failed", &error);
        scanned.map_err(|why| cannot_scan(region, why))?.map_err(refused)
    }

    /// The small pages that the region lies in; a buffer begins and ends anywhere.
    fn small_pages(&self) -> Pages {
        let ((host, size), page) = (self.pages(), usize_of(host::page_size()));
        let lead = host.addr().checked_rem(page).unwrap_or_default();
        let end = size.saturating_add(lead).checked_next_multiple_of(page).unwrap_or(usize::MAX);
        (host.wrapping_sub(lead), end)
    }

    /// Calls `found` with each run of bytes of the region that is in memory now, not in swap or on disk.
    pub fn resident_runs(&self, region: &SharedRegion, found: &mut dyn FnMut(Range)) -> Result<()> {
        if self.backing().file.is_none() || self.backing().is_private() {
            return self.page_runs(region, Query::Present, found);
        }
        let ((host, size), lead, whole) = (self.pages(), self.backing().lead(), self.whole());
        let counted = smaps::resident_runs(host, size, &mut |offset, run| {
            let end = u64_of(offset.saturating_add(run)).saturating_sub(lead);
            found(Range::between(u64_of(offset).saturating_sub(lead), end.min(whole.end())));
        });
        counted.map_err(|error| failed(region, "asking which of its pages are in memory (mincore) failed", &error))
    }
}

fn cannot_scan(region: &SharedRegion, why: NoWatch) -> Error {
    let how = why.how();
    let message = format!("the kernel can't say which pages of {region} are there: it needs {how}");
    Error::Unsupported { message, feature: "PAGEMAP_SCAN", how, region: Some(Arc::clone(region)) }
}
