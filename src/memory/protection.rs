//! The protection that accesses need, and the protection that pages have.

use std::io;

use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::sys::fork::Forked;
use crate::sys::lock::Lock;
use crate::sys::memory;
use crate::sys::sync::{AtomicI32, Ordering};

/// The protection that an access needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `PROT_READ`.
    Read,
    /// `PROT_WRITE`.
    Write,
    /// Both: what is replaced is given back.
    ReadWrite,
    /// No protection: the access only asks for something, or lifts a protection that forbids it.
    Nothing,
    /// No protection, for the address itself is handed out: as much as the region allows may be done there at any time.
    Address,
}

impl Need {
    /// The protection bits that must be there.
    pub const fn bits(self) -> i32 {
        match self {
            Self::Read => PROT_READ,
            Self::Write => PROT_WRITE,
            Self::ReadWrite => PROT_READ | PROT_WRITE,
            Self::Nothing | Self::Address => 0,
        }
    }
}

/// Whole pages of a mapping: where they begin, and how many bytes they have.
pub(super) type Pages = (*mut u8, usize);

/// The protection of all pages of a mapping.
#[derive(Debug)]
pub(super) struct Protection {
    flags: AtomicI32,
    /// Held while the protection is changed, or lifted for a forced write: two that overlap would restore what neither found.
    changing: Lock<()>,
}

impl Protection {
    pub(super) fn new(flags: i32) -> Self {
        Self { flags: AtomicI32::new(flags), changing: Lock::default() }
    }

    pub(super) fn flags(&self) -> i32 {
        self.flags.load(Ordering::Acquire)
    }

    /// Notes the protection of pages that somebody else protects.
    pub(super) fn note(&self, flags: i32) {
        self.flags.store(flags, Ordering::Release);
    }

    /// Sets the protection of all pages of the mapping.
    ///
    /// # Safety
    /// The pages are those of the mapping, and no one touches them who relies on a protection that is taken away.
    pub(super) unsafe fn set(&self, (host, size): Pages, flags: i32) -> io::Result<()> {
        let _changing = self.changing.lock()?;
        // SAFETY: the caller's promise.
        unsafe { memory::protect(host, size, flags)? };
        // Noted behind the call: what an access reads here, the pages allow.
        self.note(flags);
        Ok(())
    }

    /// Runs `work` while some pages can be read and written, and restores their protection.
    ///
    /// # Safety
    /// The pages belong to the mapping.
    pub(super) unsafe fn lifted<T>(
        &self,
        (host, size): Pages,
        work: impl FnOnce() -> T,
    ) -> Result<io::Result<T>, Forked> {
        let _changing = self.changing.lock()?;
        let before = self.flags();
        // SAFETY: pages of the mapping; a protection is only added while others access them.
        let lifted = unsafe { memory::protect(host, size, before | PROT_READ | PROT_WRITE) };
        Ok(lifted.and_then(|()| {
            let result = work();
            // SAFETY: back to the protection that everyone else relies on.
            unsafe { memory::protect(host, size, before)? };
            Ok(result)
        }))
    }
}
