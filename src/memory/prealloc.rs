//! Every page there before it is touched: in parallel, near its node, with progress, and to be stopped at any time.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::mapping::Mapping;
use super::source;
use super::topology;
use crate::model::error::{Errno, Interrupted};
use crate::model::error::{Error, Result};
use crate::model::format::size as size_text;
use crate::model::int::usize_of;
use crate::model::interrupt::Interrupt;
use crate::model::policy::PolicyMode;
use crate::model::region::{PROT_READ, PROT_WRITE, SharedRegion};
use crate::model::wait::{Deadline, Monitor};
use crate::sys::errno::{self, EFAULT, EINVAL, ENOMEM};
use crate::sys::host::Host;
use crate::sys::memory::{self, Advice};
use crate::sys::numa;

/// What a thread takes at a time: between two steps it sees that it should stop.
const PIECE: u64 = 16 << 20;
/// Less than this is not worth a thread.
const PER_THREAD: u64 = 64 << 20;
const MAX_THREADS: usize = 16;
/// Between two looks at the caller's [`Interrupt`].
const LOOK: Duration = Duration::from_millis(20);

/// What was done.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Bytes that are there now.
    pub size: u64,
    /// How many threads worked.
    pub threads: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// The kernel has no `MADV_POPULATE_WRITE`: pages were touched one by one.
    pub touched: bool,
}

/// Memory to be there.
#[derive(Clone, Debug)]
pub struct Target {
    region: SharedRegion,
    host: *mut u8,
    /// Bytes of whole pages.
    size: u64,
    page_size: u64,
    is_huge: bool,
    /// A touch may fault, so that only the kernel may do it.
    guarded: bool,
    cpus: BTreeSet<u32>,
}

// SAFETY: the pointer leads into a mapping that whoever has the target holds; only the kernel and atomics touch it.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// The whole of a mapping; `None` when its protection allows no access, and for memory that someone else made. The caller keeps the mapping meanwhile.
    #[must_use]
    pub fn of(region: &SharedRegion, mapping: &Mapping) -> Option<Self> {
        if region.prot_flags & (PROT_READ | PROT_WRITE) == 0 || mapping.backing().buffer.is_some() {
            return None;
        }
        let (host, size) = mapping.pages();
        Some(Self {
            region: SharedRegion::clone(region),
            host,
            size: u64::try_from(size).unwrap_or(u64::MAX),
            page_size: mapping.backing().page_size,
            is_huge: mapping.backing().is_huge,
            guarded: mapping.is_guarded(),
            cpus: cpus_near(region),
        })
    }

    /// The bytes of the region.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.region.size()
    }

    fn populate(&self, offset: u64, size: u64) -> io::Result<()> {
        let advice =
            if self.region.prot_flags & PROT_WRITE != 0 { Advice::PopulateWrite } else { Advice::PopulateRead };
        memory::advise(self.host.wrapping_add(usize_of(offset)), usize_of(size), advice)
    }

    /// For kernels before 5.14: a compare-and-exchange of each page's first byte with itself.
    fn touch(&self, offset: u64, size: u64) {
        let end = offset.saturating_add(size);
        let mut at = offset;
        while at < end {
            let byte = self.host.wrapping_add(usize_of(at));
            // SAFETY: the byte lies in a mapping that can't fault; others may access it, and do so with atomics or by the kernel.
            let byte = unsafe { std::sync::atomic::AtomicU8::from_ptr(byte) };
            let value = byte.load(Ordering::Relaxed);
            let _ = byte.compare_exchange(value, value, Ordering::Relaxed, Ordering::Relaxed);
            at = at.saturating_add(self.page_size);
        }
    }

    fn can_be_touched(&self) -> bool {
        !self.guarded && self.region.prot_flags & PROT_WRITE != 0
    }

    /// How many pages of the pool are missing, or what else the kernel had against it.
    fn failed(&self, error: &io::Error) -> Error {
        let pages = self.size.div_ceil(self.page_size);
        if self.is_huge && matches!(errno::of(error), EFAULT | ENOMEM) {
            let there = crate::sys::smaps::read(&[(self.host.addr(), usize_of(self.size))]).unwrap_or_default();
            let there = there.first().and_then(|sums| sums.resident.checked_div(self.page_size)).unwrap_or_default();
            let available = Host::default().available_huge_pages(self.page_size).unwrap_or_default();
            let missing = pages.saturating_sub(there).saturating_sub(available).max(1);
            let size = size_text(self.page_size);
            return Error::HugePagesShort {
                message: format!(
                    "cannot populate {}: {there} of its {pages} huge pages of {size} are there, {missing} are missing in the pool",
                    self.region
                ),
                missing,
                page_size: self.page_size,
                region: SharedRegion::clone(&self.region),
            };
        }
        source::failed(&self.region, "populating its pages (MADV_POPULATE_WRITE, Linux 5.14) failed", error)
    }
}

/// The CPUs of the nodes that a region's memory should come from.
fn cpus_near(region: &SharedRegion) -> BTreeSet<u32> {
    let policy = region.numa_policy().filter(|policy| policy.mode != PolicyMode::Default);
    policy.into_iter().flat_map(|policy| policy.nodes).flat_map(topology::cpus_of).collect()
}

/// How many threads are worth their while for so many bytes.
fn thread_count(total: u64) -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let worth = usize::try_from(total / PER_THREAD).unwrap_or(MAX_THREADS).max(1);
    cpus.min(MAX_THREADS).min(worth)
}

/// Work that threads share.
struct Work<'a> {
    targets: &'a [Target],
    steps: Vec<PopulateStep>,
    next: AtomicUsize,
    done: AtomicU64,
    stop: AtomicBool,
    touched: AtomicBool,
    failure: Monitor<Option<Error>>,
    /// Threads that have ended.
    ended: Monitor<usize>,
}

#[derive(Clone, Copy)]
struct PopulateStep {
    target: usize,
    offset: u64,
    size: u64,
}

impl<'a> Work<'a> {
    fn new(targets: &'a [Target]) -> Self {
        let mut steps = Vec::new();
        for (target, Target { size, page_size, .. }) in targets.iter().enumerate() {
            let step = PIECE.max(*page_size);
            let mut offset = 0u64;
            while offset < *size {
                steps.push(PopulateStep { target, offset, size: step.min(size.saturating_sub(offset)) });
                offset = offset.saturating_add(step);
            }
        }
        Self {
            targets,
            steps,
            next: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            touched: AtomicBool::new(false),
            failure: Monitor::default(),
            ended: Monitor::default(),
        }
    }

    /// Does the next step; `false` when there is none, or it should stop.
    fn step(&self, pinned: &mut Option<usize>) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            return false;
        }
        let Some(step) = self.steps.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return false };
        let Some(target) = self.targets.get(step.target) else { return false };
        if *pinned != Some(step.target) && !target.cpus.is_empty() {
            // A thread that can't be pinned works all the same: the policy places the pages.
            let _ = numa::pin_thread(&target.cpus);
            *pinned = Some(step.target);
        }
        if let Err(error) = self.populate(target, *step) {
            self.stop.store(true, Ordering::Relaxed);
            self.failure.lock().get_or_insert(error);
            return false;
        }
        self.done.fetch_add(step.size, Ordering::Relaxed);
        true
    }

    fn populate(&self, target: &Target, step: PopulateStep) -> Result<()> {
        match target.populate(step.offset, step.size) {
            Err(error) if errno::of(&error) == EINVAL && target.can_be_touched() => {
                self.touched.store(true, Ordering::Relaxed);
                target.touch(step.offset, step.size);
                Ok(())
            }
            result => result.map_err(|error| target.failed(&error)),
        }
    }

    fn work(&self) {
        let mut pinned = None;
        while self.step(&mut pinned) {}
        let mut ended = self.ended.lock();
        *ended = ended.saturating_add(1);
        drop(ended);
        self.ended.notify();
    }

    /// Waits for the threads and tells how far they are; asks them to stop when `tell` says so.
    fn watch(&self, threads: usize, report: &mut ReportDone<'_>) -> std::result::Result<(), Interrupted> {
        loop {
            let ended = self.ended.lock();
            let ended = self.ended.wait(ended, LOOK, |ended| *ended < threads);
            let all = *ended >= threads;
            drop(ended);
            let told = report(self.done.load(Ordering::Relaxed));
            if told.is_err() {
                self.stop.store(true, Ordering::Relaxed);
                return told;
            }
            if all {
                return Ok(());
            }
        }
    }

    /// Does all of it on this thread.
    fn alone(&self, report: &mut ReportDone<'_>) -> std::result::Result<(), Interrupted> {
        while self.step(&mut None) {
            report(self.done.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}

/// Is told how many bytes are done, and says whether to go on.
type ReportDone<'a> = dyn FnMut(u64) -> std::result::Result<(), Interrupted> + 'a;

/// Populates all targets, by `threads` or as many as are worth their while. What is there already is left as it is.
///
/// When it fails or is stopped, what was populated stays: the caller decides whether to unmap it.
pub fn populate(targets: &[Target], threads: Option<usize>, report: &mut ReportDone<'_>) -> Result<Report> {
    let begun = Instant::now();
    let total = targets.iter().fold(0u64, |sum, target| sum.saturating_add(target.size()));
    let report = &mut |done: u64| report(done.min(total));
    let work = Work::new(targets);
    let threads = threads.unwrap_or_else(|| thread_count(total)).clamp(1, work.steps.len().max(1));
    let is_anywhere = targets.iter().all(|target| target.cpus.is_empty());
    let told = if threads == 1 && is_anywhere { work.alone(report) } else { in_threads(&work, threads, report)? };
    if let Some(failure) = work.failure.lock().take() {
        return Err(failure);
    }
    told?;
    Ok(Report { size: total, threads, elapsed: begun.elapsed(), touched: work.touched.load(Ordering::Relaxed) })
}

fn in_threads(
    work: &Work<'_>,
    threads: usize,
    report: &mut ReportDone<'_>,
) -> Result<std::result::Result<(), Interrupted>> {
    std::thread::scope(|scope| {
        for index in 0..threads {
            let spawned =
                std::thread::Builder::new().name(format!("prealloc-{index}")).spawn_scoped(scope, || work.work());
            if let Err(error) = spawned {
                work.stop.store(true, Ordering::Relaxed);
                return Err(Error::Backing {
                    message: format!(
                        "cannot start thread {index} of {threads} to populate memory: {error}; give threads="
                    ),
                    errno: Errno::from(&error),
                    region: None,
                });
            }
        }
        Ok(work.watch(threads, report))
    })
}

/// A job that runs on its own, and that whoever started it can watch, stop and wait for.
#[derive(Debug, Default)]
pub struct Background {
    stop: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
    result: Monitor<Option<Result<Report>>>,
}

impl Background {
    /// Asks it to stop, which it does within a moment.
    pub fn cancel(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Bytes done, and bytes to do.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// How it ended; `None` while it runs.
    #[must_use]
    pub fn result(&self) -> Option<Result<Report>> {
        self.result.lock().clone()
    }

    /// Waits for its end, up to a time (`None`: for ever); whether it has ended.
    pub fn wait(&self, timeout: Option<Duration>, interrupt: &dyn Interrupt) -> Result<bool> {
        Ok(self.result.wait_until(Deadline::after(timeout), interrupt, |result| result.is_none())?.is_some())
    }

    /// AddressIndex it; `keep` is dropped when it has ended, and keeps the memory until then.
    pub fn start<T: Send + 'static>(
        targets: Vec<Target>,
        threads: Option<usize>,
        keep: T,
    ) -> Result<std::sync::Arc<Self>> {
        let job = std::sync::Arc::new(Self::default());
        let total = targets.iter().fold(0u64, |sum, target| sum.saturating_add(target.size()));
        job.total.store(total, Ordering::Relaxed);
        let shared = std::sync::Arc::clone(&job);
        let run = move || {
            let result = populate(&targets, threads, &mut |done| {
                shared.done.store(done, Ordering::Relaxed);
                if shared.stop.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
            });
            drop(keep);
            *shared.result.lock() = Some(result);
            shared.result.notify();
        };
        let spawned = std::thread::Builder::new().name("prealloc".into()).spawn(run);
        spawned.map(|_| job).map_err(|error| Error::Backing {
            message: format!("cannot start a thread to populate memory: {error}"),
            errno: Errno::from(&error),
            region: None,
        })
    }
}
