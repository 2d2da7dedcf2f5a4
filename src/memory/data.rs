//! Which bytes of a region have data: pages of a file, or pages of memory.

use std::fs::File;
use std::sync::Arc;

use super::extent::{Extent, ExtentKind};
use super::protection::Pages;
use super::region::MappedRegion;
use super::section::Section;
use super::shadow::Shadow;
use super::source_error::failed;
use super::storage::Storage;
use super::watch::{self, NoWatch};
use crate::model::error::{Error, Result};
use crate::model::int::{u64_of, usize_of};
use crate::model::range::{Range, joined};
use crate::model::region::SharedRegion;
use crate::model::room::{self, Gathered};
use crate::sys::pagemap::Query;
use crate::sys::{copy, file, host, smaps};

/// The bytes in which own pages are looked for at a time: few enough that they have few runs.
const NEAR: u64 = 1 << 20;

impl Storage {
    /// Calls `found` with each run of bytes of a part that has data, by ascending start. All others read as zeroes.
    ///
    /// What a file has is what it shows, whoever wrote it; else it is what this process has pages of.
    pub(super) fn data_runs(&self, region: &SharedRegion, part: Range, found: &mut dyn FnMut(Range)) -> Result<()> {
        if self.filling().is_some() {
            // Neither the file nor the pages say what has yet to come.
            found(part);
            return Ok(());
        }
        if self.reader().is_some() {
            self.runs(part).for_each(found);
            return Ok(());
        }
        if self.file_runs(part, found) {
            return Ok(());
        }
        if let Some(shadow) = self.shadow() {
            return self.copied_runs(region, part, shadow, found);
        }
        if self.is_evictable() {
            // Without a file nobody knows what has left the page tables.
            found(part);
            return Ok(());
        }
        let Some(file) = self.backing().file.as_ref().filter(|_| self.backing().is_regular) else {
            return self.page_runs(region, part, Query::There, found);
        };
        // A private mapping shows the file where this process has no page of its own.
        let mut runs = Gathered::default();
        let mut add = |run| runs.add(run);
        self.runs_in_file(file, self.backing().offset, part, &mut add);
        self.page_runs(region, part, Query::Own, &mut add)?;
        let mut runs = runs.finish()?;
        runs.sort_unstable();
        joined(runs).into_iter().for_each(found);
        Ok(())
    }

    /// The pages of a shadow, and those of our own in their place.
    fn copied_runs(
        &self,
        region: &SharedRegion,
        part: Range,
        shadow: &Shadow,
        found: &mut dyn FnMut(Range),
    ) -> Result<()> {
        let mut runs = Gathered::default();
        shadow.stored(&mut |run| runs.add(run.intersection(&part)));
        self.own_runs(region, part, &mut |run| runs.add(run))?;
        let mut runs = runs.finish()?;
        runs.sort_unstable();
        joined(runs).into_iter().filter(|run| !run.is_empty()).for_each(found);
        Ok(())
    }

    /// Calls `found` with each run of pages of a part that are this process's own, in the place of a file's.
    pub(super) fn own_runs(&self, region: &SharedRegion, part: Range, found: &mut dyn FnMut(Range)) -> Result<()> {
        self.page_runs(region, part, Query::Own, found)
    }

    /// The bytes from the start of a part on that are alike: pages of a shadow and of our own, or neither. A read of those would bring pages
    /// into the shadow's file.
    pub(super) fn copied_extent(&self, region: &SharedRegion, part: Range, shadow: &Shadow) -> Extent {
        let near = part.take(NEAR);
        let (stored, mut own) = (shadow.first_stored(near), None);
        if self.own_runs(region, near, &mut |run| own = own.or(Some(run))).is_err() {
            return Extent { kind: ExtentKind::Unknown, size: near.size() };
        }
        let own = own.unwrap_or(Range::between(near.end(), near.end()));
        let first = if own.base() < stored.base() { own } else { stored };
        if first.base() > near.base() || first.is_empty() {
            return Extent { kind: ExtentKind::Hole, size: Range::between(near.base(), first.base()).size() };
        }
        Extent { kind: ExtentKind::Data, size: first.size() }
    }

    /// The runs of a shared file that have data; `false` for other memory, and nothing is called.
    pub(super) fn file_runs(&self, part: Range, found: &mut dyn FnMut(Range)) -> bool {
        let Some((file, start)) = self.backing().shown_file() else { return false };
        self.runs_in_file(file, start, part, found);
        true
    }

    /// The runs of a file that have data, in which the storage begins at an offset.
    fn runs_in_file(&self, file: &File, start: u64, part: Range, found: &mut dyn FnMut(Range)) {
        // A description of its own: the search moves the position.
        let Ok(file) = file::reopen(file) else { return found(part) };
        let (from, to) = (start.saturating_add(part.base()), start.saturating_add(part.end()));
        let mut reached = from;
        file::data_runs(&file, from, to, &mut |from, to| {
            reached = to;
            found(Range::between(from.abs_diff(start), to.abs_diff(start)))
        });
        // Behind the last page of a file that was cut lies no hole, but a fault.
        let pages_end = copy::length(&file).ok().and_then(|length| length.checked_next_multiple_of(host::page_size()));
        let lost = pages_end.unwrap_or(u64::MAX).max(reached);
        if lost < to {
            found(Range::between(lost.abs_diff(start), to.abs_diff(start)));
        }
    }

    /// Whether the kernel may take pages from the page tables and keep their bytes elsewhere.
    pub(super) fn is_evictable(&self) -> bool {
        !self.backing().is_private() && !self.backing().is_huge
    }

    /// Calls `found` with each run of pages of a part that a query asks for, by ascending start.
    fn page_runs(&self, region: &SharedRegion, part: Range, query: Query, found: &mut dyn FnMut(Range)) -> Result<()> {
        let pages = self.small_pages_of(part);
        let scanned = watch::scan(pages, query, &mut |start, run| found(self.part_at(start, run).intersection(&part)));
        let refused = |error: std::io::Error| failed(region, "looking for its pages (PAGEMAP_SCAN) failed", &error);
        scanned.map_err(|why| cannot_scan(region, why))?.map_err(refused)
    }

    /// The part of the storage that lies at a host address.
    pub(super) fn part_at(&self, start: usize, size: usize) -> Range {
        let first = self.host(0).addr();
        let (from, to) = (start.saturating_sub(first), start.saturating_add(size).saturating_sub(first));
        Range::between(u64_of(from), u64_of(to)).intersection(&self.whole())
    }

    /// The small pages that a part lies in; a buffer begins and ends anywhere.
    fn small_pages_of(&self, part: Range) -> Pages {
        let page = usize_of(host::page_size());
        let start = self.host(part.base());
        let lead = start.addr().checked_rem(page).unwrap_or_default();
        let size = usize_of(part.size()).saturating_add(lead).checked_next_multiple_of(page).unwrap_or(usize::MAX);
        (start.wrapping_sub(lead), size)
    }

    /// Calls `found` with each run of bytes of a part that is in memory now, not in swap or on disk.
    fn resident_runs(&self, region: &SharedRegion, part: Range, found: &mut dyn FnMut(Range)) -> Result<()> {
        if self.backing().file.is_none() || self.backing().is_private() {
            return self.page_runs(region, part, Query::Present, found);
        }
        let (host, size) = self.small_pages_of(part);
        let mut in_part = |start, run| found(self.part_at(start, run).intersection(&part));
        let counted =
            smaps::resident_runs(host, size, &mut |offset, run| in_part(host.addr().saturating_add(offset), run));
        counted.map_err(|error| failed(region, "asking which of its pages are in memory (mincore) failed", &error))
    }
}

impl<'a> Section<'a> {
    /// The sections of it that have data, ascending. All other bytes read as zeroes.
    pub fn with_data(&self) -> Result<Vec<Section<'a>>> {
        let mut runs = Gathered::default();
        let (region, part) = (self.region(), self.part());
        match region.storage().data_runs(region.desc(), part, &mut |run| runs.add(self.within_part(run))) {
            // The kernel can't say: all of it may have.
            Err(Error::Unsupported { .. }) => room::collected([*self]),
            found => found.and_then(|()| runs.finish()),
        }
    }
}

impl MappedRegion {
    /// The pages of its storage that are this process's own, in the place of those of a shadow.
    pub fn own_runs(&self) -> Result<Vec<Range>> {
        let mut runs = Gathered::default();
        self.storage().own_runs(self.desc(), self.storage().whole(), &mut |run| runs.add(run))?;
        runs.finish()
    }

    /// Calls `found` with each range of its addresses that has data, ascending. All others read as zeroes.
    pub fn data_ranges(&self, found: &mut dyn FnMut(Range)) -> Result<()> {
        let mut at = |run| found(self.window().guest_of(run));
        self.storage().data_runs(self.desc(), self.window().shown(), &mut at)
    }

    /// Calls `found` with each range of its addresses whose bytes are in memory now, not in swap or on disk.
    pub fn resident_ranges(&self, found: &mut dyn FnMut(Range)) -> Result<()> {
        let mut at = |run| found(self.window().guest_of(run));
        self.storage().resident_runs(self.desc(), self.window().shown(), &mut at)
    }
}

fn cannot_scan(region: &SharedRegion, why: NoWatch) -> Error {
    let how = why.how();
    let message = format!("the kernel can't say which pages of {region} are there: it needs {how}");
    Error::Unsupported { message, feature: "PAGEMAP_SCAN", how, region: Some(Arc::clone(region)) }
}
