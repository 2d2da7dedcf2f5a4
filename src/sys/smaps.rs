//! What the kernel says about mappings of this process.

use std::fs::File;
use std::io::{BufRead, BufReader, Result};

/// Sums over the parts of `/proc/self/smaps` that lie in a range.
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
    /// The two-letter flags that all parts have.
    pub flags: Vec<String>,
    /// A part reaches out of the range, because the kernel joined it with a neighbour: the sums are too large.
    pub reaches_out: bool,
    parts: u32,
}

/// The sums for each of some ranges of host addresses, given by start and size.
pub fn read(ranges: &[(usize, usize)]) -> Result<Vec<Smaps>> {
    read_from(BufReader::new(File::open("/proc/self/smaps")?), ranges)
}

fn read_from(lines: impl BufRead, ranges: &[(usize, usize)]) -> Result<Vec<Smaps>> {
    let mut sums = vec![Smaps::default(); ranges.len()];
    let mut here: Vec<usize> = Vec::new();
    for line in lines.lines() {
        let line = line?;
        match line.split_once(':').filter(|(name, _)| !name.contains('-')) {
            Some((name, value)) => {
                for index in &here {
                    if let Some(sum) = sums.get_mut(*index) {
                        sum.add(name, value.trim());
                    }
                }
            }
            None => here = begin_part(&line, ranges, &mut sums),
        }
    }
    Ok(sums)
}

/// The ranges that a part of the process lies in.
fn begin_part(line: &str, ranges: &[(usize, usize)], sums: &mut [Smaps]) -> Vec<usize> {
    let span = line.split_whitespace().next().and_then(|span| span.split_once('-'));
    let number = |text| usize::from_str_radix(text, 16).ok();
    let Some((low, end)) = span.and_then(|(low, end)| number(low).zip(number(end))) else { return Vec::new() };
    let mut here = Vec::new();
    for (index, ((start, size), sum)) in ranges.iter().zip(sums).enumerate() {
        let stop = start.saturating_add(*size);
        if low < stop && *start < end {
            sum.parts = sum.parts.saturating_add(1);
            sum.reaches_out |= low < *start || end > stop;
            here.push(index);
        }
    }
    here
}

impl Smaps {
    fn add(&mut self, name: &str, value: &str) {
        let bytes = || value.strip_suffix("kB").and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or_default();
        let bytes = || bytes().saturating_mul(1024);
        match name {
            "KernelPageSize" => self.page_size = self.page_size.max(bytes()),
            "Rss" => self.resident = self.resident.saturating_add(bytes()),
            "Shared_Hugetlb" | "Private_Hugetlb" => {
                self.resident = self.resident.saturating_add(bytes());
                self.huge = self.huge.saturating_add(bytes());
            }
            "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped" => self.huge = self.huge.saturating_add(bytes()),
            "Locked" => self.locked = self.locked.saturating_add(bytes()),
            "VmFlags" => self.join_flags(value),
            _ => {}
        }
    }

    fn join_flags(&mut self, value: &str) {
        let flags = value.split_whitespace().map(str::to_owned);
        if self.parts <= 1 {
            self.flags = flags.collect();
        } else {
            let flags: Vec<String> = flags.collect();
            self.flags.retain(|flag| flags.contains(flag));
        }
    }
}

/// The bytes of a range that are in memory (`mincore(2)`).
pub fn resident(host: *mut u8, size: usize, page_size: usize) -> Result<u64> {
    const PAGES: usize = 1 << 16;
    let mut pages = vec![0u8; PAGES];
    let (mut offset, mut count) = (0usize, 0u64);
    let step = PAGES.saturating_mul(page_size);
    while offset < size {
        let length = step.min(size.saturating_sub(offset));
        // SAFETY: the kernel writes a byte for each page of the range, of which there are at most as many as bytes.
        super::file::check(unsafe { libc::mincore(host.wrapping_add(offset).cast(), length, pages.as_mut_ptr()) })?;
        let here = pages.iter().take(length.div_ceil(page_size)).filter(|page| **page & 1 == 1).count();
        count = count.saturating_add(u64::try_from(here).unwrap_or_default());
        offset = offset.saturating_add(length);
    }
    Ok(count.saturating_mul(u64::try_from(page_size).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_summed_and_flags_joined() {
        let text = "\
1000-3000 rw-p 00000000 00:00 0 \nRss: 4 kB\nKernelPageSize: 4 kB\nVmFlags: rd wr hg \n\
3000-4000 rw-p 00000000 00:00 0 \nRss: 8 kB\nAnonHugePages: 8 kB\nVmFlags: rd hg dc \n\
8000-9000 rw-p 00000000 00:00 0 \nRss: 16 kB\nVmFlags: rd \n";
        let sums = read_from(text.as_bytes(), &[(0x1000, 0x3000), (0x8000, 0x800), (0x9000, 0x1000)]).unwrap();
        let [first, second, third] = sums.as_slice() else { panic!() };
        assert_eq!((first.resident, first.huge, first.page_size), (12 << 10, 8 << 10, 4 << 10));
        assert_eq!(first.flags, ["rd", "hg"]);
        assert!(!first.reaches_out && second.reaches_out);
        assert_eq!(third.resident, 0);
    }
}
