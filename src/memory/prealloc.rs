//! Every page there before it is touched: in parallel, near its node, with progress, and to be stopped at any time.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::leased_sections::LeasedSections;
use super::region::MappedRegion;
use super::section::Section;
use super::source_error;
use super::topology;
use crate::model::error::{Error, Interrupted, Result};
use crate::model::format::size as size_text;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::policy::PolicyMode;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE, Region};
use crate::model::room;
use crate::model::wait::{Deadline, Monitor};
use crate::sys::errno::{self, EFAULT, ENOMEM};
use crate::sys::fork::Forked;
use crate::sys::host::Host;
use crate::sys::lock::Lock;
use crate::sys::memory;
use crate::sys::{numa, smaps};

/// Less than this is not worth a thread.
const PER_THREAD: u64 = 64 << 20;
const MAX_THREADS: usize = 16;
/// Between two looks at the caller's [`Interrupt`].
const LOOK: Duration = Duration::from_millis(20);

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

/// The number of threads that are worth their while for so many bytes.
fn thread_count(total: u64) -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cpus.min(MAX_THREADS).min(usize_of(total / PER_THREAD).max(1))
}

/// One step of the work.
struct Step {
    range: Range,
    /// The index of the region that it is part of, to pin a thread once for all its steps.
    index: usize,
}

/// Work that threads share. It owns its regions: in a child that a report forks, those threads are missing, and nothing may wait for them
/// as the end of a scope does.
struct PreallocWork {
    steps: Vec<Step>,
    regions: Vec<MappedRegion>,
    /// The CPUs near each of them.
    cpus: Vec<BTreeSet<u32>>,
    next: AtomicUsize,
    done: AtomicU64,
    stop: AtomicBool,
    has_populate: bool,
    touched: AtomicBool,
    failure: Lock<Option<Error>>,
    /// Threads that have ended.
    ended: Monitor<usize>,
}

impl PreallocWork {
    fn new(sections: &[Section<'_>]) -> Result<Self> {
        let steps = sections.iter().enumerate().flat_map(|(index, section)| {
            let size = STEP.max(section.region().storage().page_size());
            section.chunks(size).map(move |part| Step { range: part.range(), index })
        });
        Ok(Self {
            steps: room::collected(steps)?,
            regions: sections.iter().map(|section| section.region().share()).collect(),
            cpus: sections.iter().map(|section| cpus_near(section.region().desc())).collect(),
            next: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            has_populate: memory::has_populate(),
            touched: AtomicBool::new(false),
            failure: Lock::default(),
            ended: Monitor::default(),
        })
    }

    /// Does the next step; `false` when there is none, or it should stop.
    fn step(&self, pinned: &mut Option<usize>) -> bool {
        // Relaxed: a late look costs one more step and no more.
        if self.stop.load(Ordering::Relaxed) {
            return false;
        }
        // Relaxed: the steps were there before the threads, and the addition gives each of them out once.
        let Some(step) = self.steps.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return false };
        if *pinned != Some(step.index)
            && let Some(cpus) = self.cpus.get(step.index).filter(|cpus| !cpus.is_empty())
        {
            // A thread that can't be pinned works all the same: the policy places the pages.
            let _ = numa::pin_thread(cpus);
            *pinned = Some(step.index);
        }
        let Some(region) = self.regions.get(step.index) else { return false };
        if let Err(error) = self.populate(&Section::new(region, step.range, Range::between(0, step.range.size()))) {
            self.stop.store(true, Ordering::Relaxed);
            // The first failure is told: those of the other threads follow from the same want.
            // Refused only in a forked child, which has no such thread.
            if let Ok(mut failure) = self.failure.lock() {
                failure.get_or_insert(error);
            }
            return false;
        }
        self.done.fetch_add(step.range.size(), Ordering::Relaxed);
        true
    }

    fn populate(&self, section: &Section<'_>) -> Result<()> {
        let region = section.region();
        // A touch must not fault, so that elsewhere it is left to a kernel that can't do it, and says so.
        if !self.has_populate && section.path(PROT_WRITE).is_direct() {
            self.touched.store(true, Ordering::Relaxed);
            touch(section);
            return Ok(());
        }
        region.storage().populate(section.part()).map_err(|error| failed(region, &error))
    }

    fn work(&self) {
        let mut pinned = None;
        while self.step(&mut pinned) {}
        let _ = self.ended.change(|ended| *ended = ended.saturating_add(1));
    }

    /// Waits for the threads and tells how far they are; asks them to stop when `report` says so.
    fn watch(&self, threads: usize, report: &mut ReportDone<'_>) -> Result<Result<(), Interrupted>, Forked> {
        let mut told = Ok(());
        loop {
            let ended = self.ended.wait(self.ended.lock()?, LOOK, |ended| *ended < threads)?;
            let all = *ended >= threads;
            drop(ended);
            if told.is_ok() {
                told = report(self.done.load(Ordering::Relaxed));
                self.stop.fetch_or(told.is_err(), Ordering::Relaxed);
            }
            // The report may have come back in a child that it forked.
            if !self.ended.is_in_its_process() {
                return Err(Forked);
            }
            if all {
                return Ok(told);
            }
        }
    }

    /// Does all of it on this thread.
    fn alone(&self, report: &mut ReportDone<'_>) -> Result<()> {
        while self.step(&mut None) {
            report(self.done.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
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
    let (total, work) = (size_of_all(sections.iter().copied()), Arc::new(PreallocWork::new(&sections)?));
    let threads = threads.unwrap_or_else(|| thread_count(total)).clamp(1, work.steps.len().max(1));
    // A thread that is pinned stays so: that must be one of ours, never the caller's.
    let is_anywhere = work.cpus.iter().all(BTreeSet::is_empty);
    let told = if threads == 1 && is_anywhere { work.alone(report) } else { in_threads(&work, threads, report)? };
    // A failure comes before an interruption: it says why the work had ended.
    if let Some(failure) = work.failure.lock()?.take() {
        return Err(failure);
    }
    told?;
    let touched = work.touched.load(Ordering::Relaxed);
    Ok(PreallocReport { size: total, threads, elapsed: begun.elapsed(), touched })
}

fn in_threads(work: &Arc<PreallocWork>, threads: usize, report: &mut ReportDone<'_>) -> Result<Result<()>> {
    let mut running = Vec::new();
    let mut failure = None;
    for index in 0..threads {
        let shared = Arc::clone(work);
        match std::thread::Builder::new().name(format!("prealloc-{index}")).spawn(move || shared.work()) {
            Ok(thread) => running.push(thread),
            Err(error) => {
                // Those that run already are waited for: told to stop, they end after a step.
                work.stop.store(true, Ordering::Relaxed);
                let what = format!("thread {index} of {threads} to populate memory: {error}; give threads=");
                failure = Some(no_thread(&what, &error));
                break;
            }
        }
    }
    let told = work.watch(running.len(), report)?;
    // They have ended but for their shares in the memory, which nobody is to find mapped later.
    running.into_iter().for_each(|thread| drop(thread.join()));
    failure.map_or(Ok(told.map_err(Error::from)), Err)
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
