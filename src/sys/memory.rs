//! Advice, protection, locking, population and discarding of mappings that are already there.

use std::io::Result;

use super::errno::{self, check};

/// An advice to the kernel (`madvise(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Back it with transparent huge pages, or not.
    HugePages(bool),
    /// Merge equal pages (KSM), or not.
    Mergeable(bool),
    /// Leave it out of core dumps, or not.
    DontDump(bool),
    /// Leave it out of forked children, or not.
    DontFork(bool),
    /// Fault the pages in for writing, and report what fails.
    PopulateWrite,
    /// Fault the pages in for reading, and report what fails.
    PopulateRead,
}

impl Advice {
    /// Whether it forbids what the kernel might not be able to do anyway.
    #[must_use]
    pub const fn forbids(self) -> bool {
        matches!(self, Self::HugePages(false) | Self::Mergeable(false))
    }

    const fn number(self) -> i32 {
        match self {
            Self::HugePages(true) => libc::MADV_HUGEPAGE,
            Self::HugePages(false) => libc::MADV_NOHUGEPAGE,
            Self::Mergeable(true) => libc::MADV_MERGEABLE,
            Self::Mergeable(false) => libc::MADV_UNMERGEABLE,
            Self::DontDump(true) => libc::MADV_DONTDUMP,
            Self::DontDump(false) => libc::MADV_DODUMP,
            Self::DontFork(true) => libc::MADV_DONTFORK,
            Self::DontFork(false) => libc::MADV_DOFORK,
            Self::PopulateWrite => libc::MADV_POPULATE_WRITE,
            Self::PopulateRead => libc::MADV_POPULATE_READ,
        }
    }
}

/// `madvise(2)` on part of a live mapping.
pub fn advise(host: *mut u8, size: usize, advice: Advice) -> Result<()> {
    // SAFETY: none of these drops contents or changes what may be accessed; a bad range is ENOMEM.
    check(unsafe { libc::madvise(host.cast(), size, advice.number()) }).map(drop)
}

/// Whether the kernel can populate pages by advice, as it can since 5.14: an `EINVAL` of pages that are there has other reasons, too.
pub fn has_populate() -> bool {
    // The kernel looks at the advice before it looks at the pages, of which there are none.
    advise(std::ptr::null_mut(), 0, Advice::PopulateWrite).map_err(|error| errno::of(&error)) != Err(errno::EINVAL)
}

/// `mprotect(2)` on part of a live mapping.
///
/// # Safety
/// The range is a mapping of the caller's, and no one who relies on the old protection touches it meanwhile.
pub unsafe fn protect(host: *mut u8, size: usize, prot_flags: i32) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { libc::mprotect(host.cast(), size, prot_flags) }).map(drop)
}

/// `mlock(2)`.
pub fn lock(host: *mut u8, size: usize) -> Result<()> {
    // SAFETY: takes addresses, and changes neither contents nor access.
    check(unsafe { libc::mlock(host.cast(), size) }).map(drop)
}

/// Locks what is there, and all else once it is there (`mlock2(2)`).
pub fn lock_on_fault(host: *mut u8, size: usize) -> Result<()> {
    const MLOCK_ONFAULT: u32 = 1;
    // SAFETY: as above.
    check(unsafe { libc::mlock2(host.cast(), size, MLOCK_ONFAULT) }).map(drop)
}

/// `munlock(2)`.
pub fn unlock(host: *mut u8, size: usize) -> Result<()> {
    // SAFETY: takes addresses, and changes neither contents nor access.
    check(unsafe { libc::munlock(host.cast(), size) }).map(drop)
}

/// Drops private anonymous pages, locked ones too; what is read there afterwards is zero.
///
/// # Safety
/// The range lies in a private anonymous mapping of the caller's, who does not need the contents.
pub unsafe fn drop_pages(host: *mut u8, size: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    let drop_with = |advice| check(unsafe { libc::madvise(host.cast(), size, advice) }).map(drop);
    match drop_with(libc::MADV_DONTNEED) {
        // Locked pages have an advice of their own.
        Err(error) if errno::of(&error) == errno::EINVAL => drop_with(libc::MADV_DONTNEED_LOCKED),
        result => result,
    }
}

/// Frees pages of shared anonymous memory; what is read there afterwards is zero.
///
/// # Safety
/// The range lies in a shared anonymous mapping of the caller's, who does not need the contents.
pub unsafe fn remove_pages(host: *mut u8, size: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { libc::madvise(host.cast(), size, libc::MADV_REMOVE) }).map(drop)
}
