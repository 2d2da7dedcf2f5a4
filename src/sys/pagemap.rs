//! `/proc/self/pagemap`: which pages of this process are there, and which were stored to since they were protected.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;

use rustix::ioctl::{Opcode, opcode};

use super::errno::{self, check};
use super::fork::{Forked, Process};
use super::ioctl::request;

/// The argument of `PAGEMAP_SCAN`, as the kernel lays it out (`linux/fs.h`).
#[repr(C)]
#[derive(Debug, Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// Pages that are alike.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct PageRun {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGEMAP_SCAN: Opcode = opcode::read_write::<ScanArgument>(b'f', 16);
const PM_SCAN_WP_MATCHING: u64 = 1;
const PM_SCAN_CHECK_WPASYNC: u64 = 2;
const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
const THERE: u64 = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
/// Runs that one call returns.
const RUNS: usize = 256;

/// A question about pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// They are in memory or in swap, and not the kernel's page of zeroes.
    There,
    /// They are there, and are not pages of a file: of a private mapping, those that were written.
    Own,
    /// They are in memory.
    Present,
}

impl Query {
    fn argument(self) -> ScanArgument {
        let (mask, any_of) = match self {
            Self::There => (PAGE_IS_PFNZERO, THERE),
            // Asked for only where it must be: it makes the kernel look at each page.
            Self::Own => (PAGE_IS_PFNZERO | PAGE_IS_FILE, THERE),
            Self::Present => (PAGE_IS_PFNZERO, PAGE_IS_PRESENT),
        };
        ScanArgument {
            size: 96,
            category_inverted: mask,
            category_mask: mask,
            category_anyof_mask: any_of,
            return_mask: PAGE_IS_WRITTEN,
            ..ScanArgument::default()
        }
    }
}

/// Pages that are not protected.
#[derive(Clone, Copy, Debug)]
pub struct Unprotected {
    /// Their address.
    pub start: usize,
    /// Their bytes.
    pub size: usize,
    /// Whether they are in memory or in swap: then they were stored to. Else they are in no page table: they were never touched, or they
    /// are shared, and were evicted since they were stored to.
    pub is_there: bool,
}

impl Unprotected {
    fn of(run: &PageRun) -> Result<Option<Self>> {
        if run.categories & PAGE_IS_WRITTEN == 0 || run.categories & PAGE_IS_PFNZERO != 0 {
            return Ok(None);
        }
        let (start, end) = (address(run.start)?, address(run.end)?);
        let is_there = run.categories & THERE != 0;
        Ok(Some(Self { start, size: end.saturating_sub(start), is_there }))
    }

    /// The first address behind them.
    pub const fn end(&self) -> usize {
        self.start.saturating_add(self.size)
    }
}

/// The page tables of the process that opened it.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
    process: Process,
}

impl Pagemap {
    /// Opens it; `ENOTTY` where the kernel can't scan, as before 6.7.
    pub fn open() -> Result<Self> {
        let pagemap = Self { file: File::open("/proc/self/pagemap")?, process: Process::current() };
        // An empty range: only whether the kernel knows the request.
        pagemap.call(&mut Query::There.argument())?;
        Ok(pagemap)
    }

    /// Whether the running process is the one that opened it.
    pub fn is_ours(&self) -> bool {
        self.process.is_current()
    }

    /// Calls `found` with the start and the size of each run of pages, by ascending address.
    pub fn scan(&self, host: *mut u8, size: usize, query: Query, found: &mut dyn FnMut(usize, usize)) -> Result<()> {
        self.each_run(host, size, || query.argument(), &mut |run| found_at(run, found))
    }

    /// Calls `found` with the start and the size of each run of pages of watched memory that are not protected, whether they are there or a
    /// page table has an empty entry for them. Of all questions the kernel answers this one in less than half of the time.
    pub fn touched(&self, host: *mut u8, size: usize, found: &mut dyn FnMut(usize, usize)) -> Result<()> {
        let argument = || ScanArgument {
            category_mask: PAGE_IS_WRITTEN,
            return_mask: PAGE_IS_WRITTEN,
            ..unprotected_argument(0, true)
        };
        self.each_run(host, size, argument, &mut |run| found_at(run, found))
    }

    /// Calls `found` with each run of pages of watched memory that are not protected, by ascending address; with `all`, also those that
    /// are not there, where a page table has an entry for them.
    pub fn unprotected(&self, host: *mut u8, size: usize, all: bool, found: &mut dyn FnMut(Unprotected)) -> Result<()> {
        let argument = || ScanArgument {
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_WRITTEN | PAGE_IS_PFNZERO,
            ..unprotected_argument(0, all)
        };
        self.each_unprotected(host, size, argument, found)
    }

    /// Protects pages of memory that is watched, and calls `found` with those that were not before: what is stored to them from then on is
    /// found by a scan. The kernel looks at a page and protects it in one step, so that no store comes between.
    ///
    /// `all` also protects those that are not there; of shared memory, one of them then does not count as written once it is read.
    pub fn protect(&self, host: *mut u8, size: usize, all: bool, found: &mut dyn FnMut(Unprotected)) -> Result<()> {
        self.each_unprotected(host, size, || unprotected_argument(PM_SCAN_WP_MATCHING, all), found)
    }

    fn each_unprotected(
        &self,
        host: *mut u8,
        size: usize,
        argument: impl Fn() -> ScanArgument,
        found: &mut dyn FnMut(Unprotected),
    ) -> Result<()> {
        self.each_run(host, size, argument, &mut |run| {
            Unprotected::of(run)?.into_iter().for_each(&mut *found);
            Ok(())
        })
    }

    fn each_run(
        &self,
        host: *mut u8,
        size: usize,
        argument: impl Fn() -> ScanArgument,
        found: &mut dyn FnMut(&PageRun) -> Result<()>,
    ) -> Result<()> {
        let mut runs = [PageRun::default(); RUNS];
        let (mut start, end) = (host.addr(), host.addr().saturating_add(size));
        while start < end {
            let count = self.runs(start, end, argument(), &mut runs)?;
            let there = runs.get(..count).unwrap_or_default();
            there.iter().try_for_each(&mut *found)?;
            // Not from `walk_end` on: it is stale where the runs did not fit.
            start = match there.last() {
                Some(last) if count == RUNS => address(last.end)?,
                _ => end,
            };
        }
        Ok(())
    }

    fn runs(&self, start: usize, end: usize, argument: ScanArgument, runs: &mut [PageRun]) -> Result<usize> {
        let vec = number(runs.as_mut_ptr().expose_provenance())?;
        let mut argument =
            ScanArgument { start: number(start)?, end: number(end)?, vec, vec_len: number(runs.len())?, ..argument };
        self.call(&mut argument)
    }

    fn call(&self, argument: &mut ScanArgument) -> Result<usize> {
        // In a forked child the descriptor still shows the parent's tables.
        if !self.process.is_current() {
            return Err(Forked.into());
        }
        // SAFETY: the argument is the kernel's layout, and its vector is empty or the caller's for the call.
        let count =
            check(unsafe { libc::ioctl(self.file.as_raw_fd(), request(PAGEMAP_SCAN), std::ptr::from_mut(argument)) })?;
        usize::try_from(count).map_err(Error::other)
    }
}

fn unprotected_argument(flags: u64, all: bool) -> ScanArgument {
    ScanArgument {
        flags: flags | PM_SCAN_CHECK_WPASYNC,
        category_inverted: 0,
        category_mask: 0,
        category_anyof_mask: if all { 0 } else { THERE },
        return_mask: PAGE_IS_WRITTEN | PAGE_IS_PFNZERO | THERE,
        ..Query::There.argument()
    }
}

fn found_at(run: &PageRun, found: &mut dyn FnMut(usize, usize)) -> Result<()> {
    let (from, to) = (address(run.start)?, address(run.end)?);
    found(from, to.saturating_sub(from));
    Ok(())
}

fn number(value: usize) -> Result<u64> {
    u64::try_from(value).map_err(Error::other)
}

fn address(value: u64) -> Result<usize> {
    usize::try_from(value).map_err(|_| errno::refusal(errno::EOVERFLOW, "the kernel named an address that is not one"))
}
