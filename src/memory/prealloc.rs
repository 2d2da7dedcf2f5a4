//! Every page there before it is touched: in parallel, near its node, with progress, and to be stopped at any time.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::leased_sections::LeasedSections;
use super::region::MappedRegion;
use super::section::Section;
use super::source_error;
use super::team::{share_out, threads_for};
use super::topology;
use crate::model::error::{Error, Interrupted, Result};
use crate::model::format::size as size_text;
use crate::model::int::u64_of;
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::policy::PolicyMode;
use crate::model::region::{PROT_READ, PROT_WRITE, Region};
use crate::model::room;
use crate::model::wait::{Deadline, Monitor};
use crate::sys::errno::{self, EFAULT, ENOMEM};
use crate::sys::host::Host;
use crate::sys::memory;
use crate::sys::{numa, smaps};

/// The outcome of a population.
#[derive(Clone, Copy, Debug)]
pub struct PreallocReport {
    /// Bytes that are there now.
    pub size: u64,
    /// The number of threads that worked.
    pub threads: usize,
    /// The time that it took.
    pub elapsed: Duration,
    /// The kernel has no `MADV_POPULATE_WRITE`: pages were touched one by one.
    pub touched: bool,
}

/// Whether pages can be brought in: not where the protection allows no access, nor in memory that someone else made or brings in.
fn can_populate(section: &Section<'_>) -> bool {
    let (region, backing) = (section.region(), section.region().storage().backing());
    region.desc().prot_flags & (PROT_READ | PROT_WRITE) != 0
        && backing.buffer.is_none()
        && backing.reader.is_none()
        && !backing.has_fault_handler
}

/// The bytes of sections that can be populated.
pub fn size_of_all<'a>(sections: impl Iterator<Item = Section<'a>>) -> u64 {
    sections.filter(can_populate).map(|section| section.size()).sum()
}

/// The CPUs of the nodes that a region's memory should come from.
fn cpus_near(region: &Region) -> BTreeSet<u32> {
    let policy = region.numa_policy().filter(|policy| policy.mode != PolicyMode::Default);
    policy.into_iter().flat_map(|policy| policy.nodes).flat_map(topology::cpus_of).collect()
}

/// A step of the work: a part of one region.
struct Part<'a> {
    section: Section<'a>,
    /// The CPUs near the memory of its region; empty for any.
    cpus: &'a BTreeSet<u32>,
}

/// Brings the pages of a section in; whether they had to be touched for that.
fn bring_in(section: &Section<'_>) -> Result<bool> {
    let region = section.region();
    // A touch must not fault, so that elsewhere it is left to a kernel that can't do it, and says so.
    if !memory::has_populate() && section.path(PROT_WRITE).is_direct() {
        touch(section);
        return Ok(true);
    }
    region.storage().populate(section.part()).map_err(|error| failed(region, &error))?;
    Ok(false)
}

/// A compare-and-exchange of a byte of each page with itself, where no touch can fault.
fn touch(section: &Section<'_>) {
    let last = section.skip(section.size().saturating_sub(1));
    for page in section.chunks(section.region().storage().page_size()).chain([last]) {
        // SAFETY: the byte lies in a mapping that can't fault meanwhile; others access it with atomics or by the kernel.
        let byte = unsafe { AtomicU8::from_ptr(page.host()) };
        let value = byte.load(Ordering::Relaxed);
        let _ = byte.compare_exchange(value, value, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The error of a population that the kernel refused; it tells how many pages the pool is short of.
fn failed(region: &MappedRegion, error: &io::Error) -> Error {
    let (desc, backing) = (region.desc(), region.storage().backing());
    if !backing.is_huge || !matches!(errno::of(error), EFAULT | ENOMEM) {
        return source_error::failed(desc, "populating its pages (MADV_POPULATE_WRITE, Linux 5.14) failed", error);
    }
    let (page_size, (host, size)) = (backing.page_size, region.pages());
    let pages = u64_of(size).div_ceil(page_size);
    let there = smaps::read(&[(host.addr(), size)]).unwrap_or_default();
    let there = there.first().and_then(|sums| sums.resident.checked_div(page_size)).unwrap_or_default();
    // Pages may have come and gone since the kernel refused: at least one was missing.
    let available = Host::default().available_huge_pages(page_size).unwrap_or_default();
    let missing = pages.saturating_sub(there).saturating_sub(available).max(1);
    let of_size = size_text(page_size);
    Error::HugePagesShort {
        message: format!(
            "cannot populate {desc}: {there} of its {pages} huge pages of {of_size} are there, {missing} are missing in the pool"
        ),
        missing,
        page_size,
        region: Arc::clone(desc),
    }
}

/// Is told how many bytes are done, and says whether to go on.
type ReportDone<'a> = dyn FnMut(u64) -> Result<(), Interrupted> + 'a;

/// Populates sections, by `threads` or as many as are worth their while. Present pages are left as they are.
///
/// When it fails or is stopped, what was populated stays: the caller decides whether to unmap it.
pub fn populate(
    sections: &[Section<'_>],
    threads: Option<usize>,
    report: &mut ReportDone<'_>,
) -> Result<PreallocReport> {
    let begun = Instant::now();
    let sections = room::collected(sections.iter().copied().filter(can_populate))?;
    let cpus = room::collected(sections.iter().map(|section| cpus_near(section.region().desc())))?;
    let parts = room::collected(sections.iter().zip(&cpus).flat_map(|(section, cpus)| {
        let size = STEP.max(section.region().storage().page_size());
        section.chunks(size).map(move |section| Part { section, cpus })
    }))?;
    let total = size_of_all(sections.iter().copied());
    let threads = threads_for(total, threads).clamp(1, parts.len().max(1));
    let (caller, done, touched) = (thread::current().id(), AtomicU64::new(0), AtomicBool::new(false));
    let step = |index: usize, _: &dyn Interrupt| {
        let Some(Part { section, cpus }) = parts.get(index) else { return Ok(ControlFlow::Continue(())) };
        // The caller's thread would stay pinned. One that can't be pinned works all the same: the policy places the pages.
        if !cpus.is_empty() && thread::current().id() != caller {
            let _ = numa::pin_thread(cpus);
        }
        touched.fetch_or(bring_in(section)?, Ordering::Relaxed);
        done.fetch_add(section.size(), Ordering::Relaxed);
        Ok(ControlFlow::Continue(()))
    };
    share_out(parts.len(), threads, step, &mut || report(done.load(Ordering::Relaxed)))?;
    let touched = touched.load(Ordering::Relaxed);
    Ok(PreallocReport { size: total, threads, elapsed: begun.elapsed(), touched })
}

fn no_thread(what: &str, error: &io::Error) -> Error {
    Error::Backing { message: format!("cannot start {what}"), errno: error.into(), region: None }
}

/// Population that goes on by itself, and that whoever started it can watch, stop and wait for.
#[derive(Debug, Default)]
pub struct PreallocJob {
    stop: AtomicBool,
    done: AtomicU64,
    total: u64,
    result: Monitor<Option<Result<PreallocReport>>>,
}

impl PreallocJob {
    /// Asks it to stop, which it does within a moment.
    pub fn cancel(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Bytes done, and bytes to do.
    pub fn progress(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total)
    }

    /// Its outcome; `None` while it runs.
    pub fn result(&self) -> Result<Option<Result<PreallocReport>>> {
        Ok(self.result.lock()?.clone())
    }

    /// Waits for its end, up to a time (`None`: for ever); whether it has ended.
    pub fn wait(&self, timeout: Option<Duration>, interrupt: &dyn Interrupt) -> Result<bool> {
        Ok(self.result.wait_until(Deadline::after(timeout), interrupt, |result| result.is_none())?.is_some())
    }

    /// Starts it; the leases are held until it has ended.
    pub fn start(leased: LeasedSections, threads: Option<usize>) -> Result<Arc<Self>> {
        let job = Arc::new(Self { total: size_of_all(leased.sections()), ..Self::default() });
        let shared = Arc::clone(&job);
        let spawned = std::thread::Builder::new().name("prealloc".into()).spawn(move || shared.run(leased, threads));
        spawned.map_err(|error| no_thread(&format!("a thread to populate memory: {error}"), &error))?;
        Ok(job)
    }

    fn run(&self, leased: LeasedSections, threads: Option<usize>) {
        let result = populate(&leased.sections().collect::<Vec<_>>(), threads, &mut |done| {
            self.done.store(done, Ordering::Relaxed);
            if self.stop.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
        });
        // Let go first: a waiter may remove the regions at once.
        drop(leased);
        // Refused only in a forked child, which has no such thread.
        let _ = self.result.change(|ended| *ended = Some(result));
    }
}
