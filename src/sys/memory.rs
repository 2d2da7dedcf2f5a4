//! Advice, protection, placement and population of mappings that are already there.

use std::io::{Error, Result};

use super::file::check;

const MPOL_DEFAULT: i64 = 0;
const MPOL_PREFERRED: i64 = 1;
const MPOL_MF_MOVE: i64 = 2;
const BITS: usize = 64;
/// The kernel refuses masks above a page's worth of bits; no host has as many nodes.
const MAX_NODES: usize = 4096 * 8;

/// What the kernel is asked to do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Back it with transparent huge pages, or not.
    HugePages(bool),
    /// Merge equal pages (KSM), or not.
    Mergeable(bool),
    /// Fault the pages in for writing, and report what fails.
    PopulateWrite,
    /// Fault the pages in for reading, and report what fails.
    PopulateRead,
}

impl Advice {
    const fn number(self) -> i32 {
        match self {
            Self::HugePages(true) => libc::MADV_HUGEPAGE,
            Self::HugePages(false) => libc::MADV_NOHUGEPAGE,
            Self::Mergeable(true) => libc::MADV_MERGEABLE,
            Self::Mergeable(false) => libc::MADV_UNMERGEABLE,
            Self::PopulateWrite => libc::MADV_POPULATE_WRITE,
            Self::PopulateRead => libc::MADV_POPULATE_READ,
        }
    }
}

/// `madvise(2)` on part of a live mapping.
pub fn advise(host: *mut u8, size: usize, advice: Advice) -> Result<()> {
    // SAFETY: none of these advices drops contents or changes what may be accessed; a bad range is ENOMEM.
    check(unsafe { libc::madvise(host.cast(), size, advice.number()) })
}

/// `mprotect(2)` on part of a live mapping.
///
/// # Safety
/// The range is a mapping of the caller's, and no one who relies on the old protection touches it meanwhile.
pub unsafe fn protect(host: *mut u8, size: usize, prot_flags: i32) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { libc::mprotect(host.cast(), size, prot_flags) })
}

/// Prefers a NUMA node for a mapping and moves what is already there (`MPOL_PREFERRED`, `MPOL_MF_MOVE`); `None`: no node more than others.
pub fn prefer_node(host: *mut u8, size: usize, node: Option<u32>) -> Result<()> {
    let Some(node) = node else { return bind(host, size, MPOL_DEFAULT, &[], 0) };
    let node = usize::try_from(node).map_err(Error::other)?;
    if node >= MAX_NODES {
        return Err(Error::from_raw_os_error(libc::EINVAL));
    }
    let mut mask = vec![0u64; (node / BITS).saturating_add(1)];
    if let Some(word) = mask.last_mut() {
        *word = 1 << (node % BITS);
    }
    bind(host, size, MPOL_PREFERRED, &mask, MPOL_MF_MOVE)
}

fn bind(host: *mut u8, size: usize, policy: i64, mask: &[u64], flags: i64) -> Result<()> {
    // The kernel reads one bit less than it is told.
    let bits = mask.len().saturating_mul(BITS).saturating_add(1);
    let mask = if mask.is_empty() { std::ptr::null() } else { mask.as_ptr() };
    // SAFETY: the mask has as many bits as it is said to have; a bad range or node is an error.
    let result = unsafe { libc::syscall(libc::SYS_mbind, host.addr(), size, policy, mask, bits, flags) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}
