//! The protection that accesses need, and the protection that pages have.

use std::io;

use crate::model::range::Range;
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

/// The protection of the pages of a storage, part by part.
#[derive(Debug)]
pub(super) struct Protection {
    /// The bits that all pages have, so that most questions need no lock.
    common: AtomicI32,
    /// The parts by ascending base, which together are the storage.
    parts: Lock<Vec<(Range, i32)>>,
    /// Held while the protection is changed, or lifted for a forced write: two that overlap would restore what neither found.
    changing: Lock<()>,
}

impl Protection {
    pub(super) fn new(whole: Range, flags: i32) -> Self {
        Self { common: AtomicI32::new(flags), parts: Lock::new(vec![(whole, flags)]), changing: Lock::default() }
    }

    /// Whether all pages of a part have the bits.
    pub(super) fn has(&self, part: Range, bits: i32) -> bool {
        self.common.load(Ordering::Acquire) & bits == bits || self.flags(part).is_ok_and(|flags| flags & bits == bits)
    }

    /// The bits that all pages of a part have.
    fn flags(&self, part: Range) -> Result<i32, Forked> {
        let parts = self.parts.lock()?;
        Ok(parts.iter().filter(|(other, _)| other.overlaps(&part)).fold(!0, |all, (_, flags)| all & flags))
    }

    /// Notes the protection of a part.
    pub(super) fn note(&self, part: Range, flags: i32) {
        // Refused only in a forked child, which changes no protection.
        let Ok(mut parts) = self.parts.lock() else { return };
        let outside = |(other, kept): &(Range, i32)| {
            let below = Range::between(other.base(), other.end().min(part.base()));
            let above = Range::between(other.base().max(part.end()), other.end());
            [(below, *kept), (above, *kept)]
        };
        let mut next: Vec<(Range, i32)> = parts.iter().flat_map(outside).chain([(part, flags)]).collect();
        next.retain(|(part, _)| !part.is_empty());
        next.sort_unstable_by_key(|(part, _)| part.base());
        next.dedup_by(|(later, flags), (part, before)| {
            let is_one = flags == before;
            if is_one {
                *part = Range::between(part.base(), later.end());
            }
            is_one
        });
        self.common.store(next.iter().fold(!0, |all, (_, flags)| all & flags), Ordering::Release);
        *parts = next;
    }

    /// Sets the protection of the pages of a part.
    ///
    /// # Safety
    /// The pages are those of the storage, and no one touches them who relies on a protection that is taken away.
    pub(super) unsafe fn set(&self, part: Range, (host, size): Pages, flags: i32) -> io::Result<()> {
        let _changing = self.changing.lock()?;
        // SAFETY: the caller's promise.
        unsafe { memory::protect(host, size, flags)? };
        // Noted behind the call: what an access reads here, the pages allow.
        self.note(part, flags);
        Ok(())
    }

    /// Runs `work` while the pages of a part, which are protected alike, can be read and written, and restores their protection.
    ///
    /// # Safety
    /// The pages belong to the storage.
    pub(super) unsafe fn lifted<T>(
        &self,
        part: Range,
        (host, size): Pages,
        work: impl FnOnce() -> T,
    ) -> Result<io::Result<T>, Forked> {
        let _changing = self.changing.lock()?;
        let before = self.flags(part)?;
        // SAFETY: pages of the storage; a protection is only added while others access them.
        let lifted = unsafe { memory::protect(host, size, before | PROT_READ | PROT_WRITE) };
        Ok(lifted.and_then(|()| {
            let result = work();
            // SAFETY: back to the protection that everyone else relies on.
            unsafe { memory::protect(host, size, before)? };
            Ok(result)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_own_protection() {
        let protection = Protection::new(Range::at(0, 0x4000), PROT_READ | PROT_WRITE);
        let writable = || [0, 0x1000, 0x2000, 0x3000].map(|at| protection.has(Range::at(at, 0x1000), PROT_WRITE));
        protection.note(Range::at(0x1000, 0x2000), PROT_READ);
        assert_eq!(writable(), [true, false, false, true]);
        assert!(protection.has(Range::at(0, 0x4000), PROT_READ) && !protection.has(Range::at(0, 0x4000), PROT_WRITE));
        protection.note(Range::at(0x2000, 0x1000), PROT_READ | PROT_WRITE);
        assert_eq!(writable(), [true, false, true, true]);
        protection.note(Range::at(0x1000, 0x1000), PROT_READ | PROT_WRITE);
        assert_eq!(protection.parts.lock().unwrap().len(), 1);
        assert!(protection.has(Range::at(0, 0x4000), PROT_WRITE));
    }
}
