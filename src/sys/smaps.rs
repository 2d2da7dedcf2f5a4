//! The mappings of this process as the kernel describes them (`/proc/self/smaps`, `mincore(2)`).

use std::fs::File;
use std::io::{BufRead, BufReader, Error, Result};
use std::ops::Range;

use super::errno::check;
use super::file;
use super::host::kilobytes;

/// Sums over the mappings that lie in a range of host addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Smaps {
    /// Bytes a page, as the kernel manages them.
    pub page_size: u64,
    /// Bytes that are there.
    pub resident: u64,
    /// Of these, bytes in huge pages, transparent or not.
    pub huge: u64,
    /// Bytes that are locked.
    pub locked: u64,
    /// The two-letter flags that all of them have.
    pub flags: Vec<String>,
    /// One reaches out of the range, because the kernel joined it with a neighbour: the sums are too large.
    pub reaches_out: bool,
}

/// One mapping of the process.
struct Vma {
    range: Range<usize>,
    /// Device and inode of the file, if it shows one that somebody could have a descriptor of.
    file: Option<(u64, u64)>,
    /// The offset in the file at which it begins.
    offset: u64,
    /// Whether it can be read, and whether it can be written.
    access: (bool, bool),
    counts: Smaps,
}

/// The facts of some bytes of this process, which one mapping shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Device and inode of the file; `None` of anonymous memory.
    pub file: Option<(u64, u64)>,
    /// Where the bytes end in the file.
    pub end_in_file: u64,
    /// The number of bytes.
    pub size: usize,
    /// Whether they can be read, and whether they can be written.
    pub access: (bool, bool),
    /// Whether they are in pages of the pool.
    pub is_huge: bool,
    /// Whether a forked child does not get them.
    pub is_dontfork: bool,
    /// Whether a userfaultfd is registered: then a touch may wait for its handler.
    pub has_fault_handler: bool,
}

impl Shown {
    fn of(vma: &Vma, start: usize, end: usize) -> Self {
        let end = end.min(vma.range.end);
        let bytes = end.abs_diff(vma.range.start);
        let has = |flags: &[&str]| vma.counts.flags.iter().any(|flag| flags.contains(&flag.as_str()));
        Self {
            file: vma.file,
            end_in_file: vma.offset.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)),
            size: end.abs_diff(start.max(vma.range.start)),
            access: vma.access,
            is_huge: has(&["ht"]),
            is_dontfork: has(&["dc"]),
            // Registered for missing pages, for write protection, for minor faults.
            has_fault_handler: has(&["um", "uw", "ui"]),
        }
    }
}

/// The sums for each of some ranges of host addresses, given by start and size.
pub fn read(ranges: &[(usize, usize)]) -> Result<Vec<Smaps>> {
    sums(open()?, ranges)
}

/// The parts of some bytes that one mapping each shows, by ascending address.
pub fn shown(address: usize, size: usize) -> Result<Vec<Shown>> {
    let end = address.saturating_add(size);
    // The kernel writes the mappings by ascending address, and each costs it a walk over the pages.
    let ahead = vmas(open()?).take_while(|vma| vma.as_ref().map_or(true, |vma| vma.range.start < end));
    let inside = ahead.filter(|vma| vma.as_ref().map_or(true, |vma| address < vma.range.end));
    inside.map(|vma| Ok(Shown::of(&vma?, address, end))).collect()
}

fn open() -> Result<BufReader<File>> {
    File::open("/proc/self/smaps").map(BufReader::new)
}

/// The mappings of a process by ascending address.
fn vmas(text: impl BufRead) -> impl Iterator<Item = Result<Vma>> {
    let mut lines = text.lines().peekable();
    std::iter::from_fn(move || {
        let first = lines.next()?;
        Some(first.map(|line| {
            let (file, offset) = file_of(&line).unwrap_or_default();
            let (range, access) = (range_of(&line).unwrap_or_default(), access_of(&line));
            let mut vma = Vma { range, file, offset, access, counts: Smaps::default() };
            while let Some(Ok(line)) = lines.next_if(|line| line.as_ref().is_ok_and(|line| range_of(line).is_none())) {
                if let Some((name, value)) = line.split_once(':') {
                    vma.counts.read(name, value);
                }
            }
            vma
        }))
    })
}

/// The addresses in a mapping's first line; the other lines have a name and a colon.
fn range_of(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

/// The permissions in a mapping's first line: `rw-p`.
fn access_of(line: &str) -> (bool, bool) {
    let permissions = line.split(' ').nth(1).unwrap_or_default();
    (permissions.starts_with('r'), permissions.get(1..2) == Some("w"))
}

/// The file in a mapping's first line, behind addresses and permissions, and the offset in it.
fn file_of(line: &str) -> Option<(Option<(u64, u64)>, u64)> {
    let mut words = line.splitn(6, ' ').skip(2);
    let offset = u64::from_str_radix(words.next()?, 16).ok()?;
    let (major, minor) = words.next()?.split_once(':')?;
    let device = libc::makedev(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode: u64 = words.next()?.parse().ok()?;
    // Shared anonymous memory is a file of the kernel's own, which has no name and which nobody opened.
    let is_anonymous = inode == 0 || words.next()?.trim() == "/dev/zero (deleted)" && is_kernels(device);
    Some(((!is_anonymous).then_some((device, inode)), offset))
}

/// Whether a device is the one on which the kernel keeps memfds and shared anonymous memory, where no file has a name.
fn is_kernels(device: u64) -> bool {
    let identity = file::memfd("", None).and_then(|memfd| file::identity(&memfd));
    identity.is_ok_and(|(kernels, _)| kernels == device)
}

fn sums(text: impl BufRead, ranges: &[(usize, usize)]) -> Result<Vec<Smaps>> {
    let mut sums = vec![Smaps::default(); ranges.len()];
    for vma in vmas(text) {
        let Vma { range, counts, .. } = vma?;
        for ((start, size), sum) in ranges.iter().zip(&mut sums) {
            let end = start.saturating_add(*size);
            if range.start < end && *start < range.end {
                sum.join(&counts);
                sum.reaches_out |= range.start < *start || end < range.end;
            }
        }
    }
    Ok(sums)
}

impl Smaps {
    /// Takes over one line of a mapping.
    fn read(&mut self, name: &str, value: &str) {
        let bytes = || kilobytes(value).unwrap_or_default();
        match name {
            "KernelPageSize" => self.page_size = bytes(),
            "Rss" => add(&mut self.resident, bytes()),
            // Pages of hugetlbfs are not in Rss.
            "Shared_Hugetlb" | "Private_Hugetlb" => {
                add(&mut self.resident, bytes());
                add(&mut self.huge, bytes());
            }
            "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped" => add(&mut self.huge, bytes()),
            "Locked" => self.locked = bytes(),
            "VmFlags" => self.flags = value.split_whitespace().map(str::to_owned).collect(),
            _ => {}
        }
    }

    /// Adds what the kernel counts of one more mapping.
    fn join(&mut self, vma: &Self) {
        let is_first = self.page_size == 0;
        if is_first {
            self.flags.clone_from(&vma.flags);
        } else {
            self.flags.retain(|flag| vma.flags.contains(flag));
        }
        self.page_size = self.page_size.max(vma.page_size);
        add(&mut self.resident, vma.resident);
        add(&mut self.huge, vma.huge);
        add(&mut self.locked, vma.locked);
    }
}

/// A process has fewer than 2^64 bytes, so that nothing is cut off.
fn add(sum: &mut u64, bytes: u64) {
    *sum = sum.saturating_add(bytes);
}

/// The bytes of whole pages that are in memory (`mincore(2)`).
pub fn resident(host: *mut u8, size: usize, page_size: usize) -> Result<usize> {
    const PAGES: usize = 1 << 16;
    let mut pages = vec![0u8; PAGES];
    let step = PAGES.saturating_mul(page_size);
    let resident_from = |offset: usize| {
        let pages = residency(host.wrapping_add(offset), size.saturating_sub(offset), page_size, &mut pages)?;
        Ok(pages.filter(|is_resident| *is_resident).map(|_| page_size).sum::<usize>())
    };
    (0..size).step_by(step).map(resident_from).sum()
}

/// Calls `found` with the offset and the size of each run of small pages that are in memory (`mincore(2)`).
pub fn resident_runs(host: *mut u8, size: usize, found: &mut dyn FnMut(usize, usize)) -> Result<()> {
    let page_size = usize::try_from(super::host::page_size()).map_err(Error::other)?;
    let mut pages = [0u8; 4096];
    let step = pages.len().saturating_mul(page_size);
    let mut run: Option<Range<usize>> = None;
    for offset in (0..size).step_by(step) {
        let states = residency(host.wrapping_add(offset), size.saturating_sub(offset), page_size, &mut pages)?;
        for (page, _) in (offset..).step_by(page_size).zip(states).filter(|(_, is_resident)| *is_resident) {
            run = match run {
                Some(run) if run.end == page => Some(run.start..page.saturating_add(page_size)),
                other => {
                    other.into_iter().for_each(|run| found(run.start, run.len()));
                    Some(page..page.saturating_add(page_size))
                }
            };
        }
    }
    run.into_iter().for_each(|run| found(run.start, run.len()));
    Ok(())
}

/// Whole pages, one after the other, that are in memory, or that are not.
#[derive(Debug)]
pub struct Run {
    /// Whether they are.
    pub is_resident: bool,
    /// The bytes.
    pub size: usize,
    /// All pages that were asked about are alike in this.
    pub is_all: bool,
}

/// Of the pages of a range, those that are alike from the one numbered `first` on. At most 64 pages are looked at.
pub fn run_of(host: *mut u8, size: usize, page_size: usize, first: usize) -> Result<Run> {
    let mut pages = [0u8; 64];
    let mut states = residency(host, size, page_size, &mut pages)?;
    let is_resident = states.clone().nth(first).unwrap_or_default();
    let alike = states.clone().skip(first).take_while(|page| *page == is_resident).count();
    Ok(Run { is_resident, size: alike.saturating_mul(page_size), is_all: states.all(|page| page == is_resident) })
}

/// Whether each page of a range is in memory (`mincore(2)`), up to as many pages as there are bytes for them.
fn residency(
    host: *mut u8,
    size: usize,
    page_size: usize,
    pages: &mut [u8],
) -> Result<impl Iterator<Item = bool> + Clone> {
    let size = size.min(pages.len().saturating_mul(page_size));
    // SAFETY: the kernel writes a byte for each page of the range, of which there are at most as many.
    check(unsafe { libc::mincore(host.cast(), size, pages.as_mut_ptr()) })?;
    // Only the lowest bit has a meaning; the others are reserved.
    Ok(pages.iter().take(size.div_ceil(page_size)).map(|page| page & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
1000-3000 rw-p 00000000 00:00 0 \nRss: 4 kB\nKernelPageSize: 4 kB\nVmFlags: rd wr hg \n\
3000-4000 rw-p 00000000 00:00 0 [heap]\nRss: 8 kB\nKernelPageSize: 4 kB\nAnonHugePages: 8 kB\nVmFlags: rd hg dc \n\
8000-9000 rw-p 00000000 00:00 0 \nRss: 16 kB\nKernelPageSize: 4 kB\nLocked: 16 kB\nVmFlags: rd \n\
a000-c000 rw-s 00000000 00:0f 7 /dev/hugepages/x: y\nRss: 0 kB\nKernelPageSize: 2048 kB\nShared_Hugetlb: 4096 kB\nVmFlags: rd ht \n";

    #[test]
    fn mappings_in_a_range_are_summed_and_their_flags_joined() {
        let ranges = [(0x1000, 0x3000), (0x8000, 0x800), (0x9000, 0x1000), (0xa000, 0x2000)];
        let sums = sums(TEXT.as_bytes(), &ranges).unwrap();
        let [first, second, third, fourth] = sums.as_slice() else { panic!() };
        assert_eq!((first.resident, first.huge, first.page_size), (12 << 10, 8 << 10, 4 << 10));
        assert_eq!(first.flags, ["rd", "hg"]);
        assert!(!first.reaches_out && second.reaches_out);
        assert_eq!((second.locked, third.resident), (16 << 10, 0));
        assert_eq!((fourth.resident, fourth.huge, fourth.page_size), (4 << 20, 4 << 20, 2 << 20));
    }

    #[test]
    fn the_first_line_of_a_mapping_is_told_from_the_others() {
        assert_eq!(range_of("7f00-7fff rw-p 00000000 00:00 0"), Some(0x7f00..0x7fff));
        assert_eq!(range_of("Size:                  4 kB"), None);
    }

    #[test]
    fn a_mapping_tells_its_file() {
        let file = (libc::makedev(0xfd, 1), 7);
        assert_eq!(
            file_of("1000-3000 rw-s 00002000 fd:01 7                  /some file: 1"),
            Some((Some(file), 0x2000))
        );
        assert_eq!(file_of("1000-3000 rw-p 00000000 00:00 0 "), Some((None, 0)));
        // Of another file system, a file may have any name.
        let other = "1000-3000 rw-s 00000000 fd:01 7                  /dev/zero (deleted)";
        assert_eq!(file_of(other), Some((Some(file), 0)));
    }

    #[test]
    fn ordinary_memory_has_no_fault_handler() {
        let value = 0u8;
        let shown = shown((&raw const value).addr(), 1).unwrap();
        assert!(matches!(shown.as_slice(), [only] if !only.has_fault_handler && only.file.is_none()), "{shown:?}");
    }
}
