//! The host's page sizes and huge page pools, and other things that /proc and /sys tell.

use std::fs;
use std::io;
use std::sync::LazyLock;

const POOLS: &str = "/sys/kernel/mm/hugepages";

/// The host's page size in bytes.
#[must_use]
pub fn page_size() -> u64 {
    static SIZE: LazyLock<u64> = LazyLock::new(|| {
        // SAFETY: takes an integer, gives an integer.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(size).unwrap_or(4096)
    });
    *SIZE
}

/// The default huge page size in bytes; `None` where the kernel has no huge pages.
#[must_use]
pub fn default_huge_page_size() -> Option<u64> {
    meminfo("Hugepagesize:").ok().flatten()
}

/// The huge page sizes of the host in bytes, ascending.
#[must_use]
pub fn huge_page_sizes() -> Vec<u64> {
    let entries = fs::read_dir(POOLS).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut sizes: Vec<u64> = names
        .filter_map(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()?.checked_mul(1024))
        .collect();
    sizes.sort_unstable();
    sizes
}

/// The pages of a size that a new mapping can still get: free, less reserved, plus what may be allocated on demand.
#[must_use]
pub fn available_huge_pages(page_size: u64) -> u64 {
    let read = |name: &str| -> u64 {
        let path = format!("{POOLS}/hugepages-{}kB/{name}", page_size / 1024);
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    };
    let free = read("free_hugepages").saturating_sub(read("resv_hugepages"));
    free.saturating_add(read("nr_overcommit_hugepages").saturating_sub(read("surplus_hugepages")))
}

/// The bytes behind a line of /proc/meminfo.
fn meminfo(label: &str) -> io::Result<Option<u64>> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kilobytes =
        text.lines().find_map(|line| line.strip_prefix(label)?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kilobytes.and_then(|kilobytes| kilobytes.checked_mul(1024)))
}

/// The last byte of the host's memory as a number, as the original computes `USABLE_END`: MemTotal in bytes, less one.
pub fn usable_end() -> io::Result<u64> {
    let total = meminfo("MemTotal:")?;
    total.and_then(|bytes| bytes.checked_sub(1)).ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))
}

/// Whether the kernel refuses memory that it can't promise (`vm.overcommit_memory=2`), so that a touch may fail.
#[must_use]
pub fn strict_overcommit() -> bool {
    fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|text| text.trim() == "2")
}
