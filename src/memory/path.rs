//! How memory may be touched: every rule of "directly, or through the kernel", on one page.
//!
//! A load or store that meets a page which can't be had ends the process with SIGBUS or SIGSEGV. When the kernel makes the same copy,
//! it answers EFAULT. So memory is touched directly only where no touch can fault: `Touch::of` decides when that is, from what
//! [`source`](super::source) knows of the backing. [`Storage::path`] says what follows for one copy, and whoever copies matches it.

use std::fs::File;

use super::gate::Permit;
use super::judge::Why;
use super::source::Backing;
use super::storage::Storage;
use crate::model::range::Range;
use crate::model::region::PROT_READ;
use crate::model::source::UserReader;

/// The time for which memory may be touched directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// For as long as it is mapped.
    Always,
    /// In the process that mapped it; a forked child does not have it.
    InItsProcess,
    /// In the process that mapped it, page by page from the moment on when they were brought in, until somebody else may take them away.
    FromPopulatedToExported,
    /// Part by part from the moment on when it was brought in.
    FromFilled,
    /// Never.
    Never(Why),
}

impl Touch {
    /// The rules. The first one that fits decides.
    const fn of(backing: &Backing) -> Self {
        match backing {
            // No host address has its bytes.
            Backing { reader: Some(_), .. } => Self::Never(Why::InDump),
            // Whoever must answer the fault may want the interpreter's lock, or be gone.
            Backing { has_fault_handler: true, .. } => Self::Never(Why::FaultHandler),
            // The owner of a file that is mapped into a DAX window may cut it.
            Backing { is_window: true, .. } => Self::Never(Why::DaxWindow),
            // Whoever has the file or buffer may cut or move it: see `judge.rs`.
            Backing { judged: Some(why), .. } => Self::Never(*why),
            // Huge pages that are not reserved: the pool may be empty at the first touch.
            Backing { is_huge: true, .. } if !backing.is_reserved() => Self::Never(Why::NotReserved),
            // A reservation is not a page: a control group, a bind policy or a cpuset may refuse it at the first touch. A process that
            // is given the descriptor may punch pages out, and then the pool may be empty at the next touch. A forked child may find
            // no pages for its copies of private ones.
            Backing { is_huge: true, .. } => Self::FromPopulatedToExported,
            // With vm.overcommit_memory=2 the kernel may refuse a page at the first touch.
            Backing { is_overcommit_strict: true, .. } => Self::Never(Why::StrictOvercommit),
            // MADV_DONTFORK.
            Backing { is_dontfork: true, .. } => Self::InItsProcess,
            Backing { .. } => Self::Always,
        }
    }
}

/// The way on which one copy reaches its bytes.
#[derive(Debug)]
pub enum Path<'a> {
    /// By a plain copy.
    Direct,
    /// By a plain copy, for as long as the permit is held.
    DirectUntilExported(#[allow(dead_code, reason = "held, not read")] Permit<'a>),
    /// Reads by `pread(2)` from the file, in which the storage begins at an offset: holes stay holes. Writes as for [`Self::Kernel`]:
    /// `pwrite(2)` would grow a file that was cut.
    File(&'a File, u64),
    /// Reads by the reader of a dump, in whose places the storage begins at one.
    Reader(&'a UserReader),
    /// By `process_vm_readv(2)` and `process_vm_writev(2)` on this process.
    Kernel,
    /// As for [`Self::Kernel`], on a thread that is left behind if the userfaultfd handler that must answer does not.
    Thread,
}

impl Path<'_> {
    /// Whether plain copies reach the bytes.
    pub const fn is_direct(&self) -> bool {
        match self {
            Self::Direct | Self::DirectUntilExported(_) => true,
            Self::File(..) | Self::Reader(_) | Self::Kernel | Self::Thread => false,
        }
    }
}

impl Storage {
    /// The time for which the memory may be touched directly.
    pub fn touch(&self) -> Touch {
        if self.filling().is_some() { Touch::FromFilled } else { Touch::of(self.backing()) }
    }

    /// The path of a copy of a part that needs these bits of protection, at this moment.
    ///
    /// Pages that have to be there are brought in, as a touch would do.
    pub fn path(&self, part: Range, bits: i32) -> Path<'_> {
        match self.touch() {
            // A touch would be SIGSEGV, while the kernel refuses what a protection forbids.
            _ if !self.has_protection(part, bits) => self.guarded_path(),
            Touch::FromFilled if self.ensure(part).is_ok() => match Touch::of(self.backing()) {
                Touch::Always => Path::Direct,
                _ => Path::Kernel,
            },
            // Poisoned, or in a child that has nobody who answers: an error, never a zero.
            Touch::FromFilled => Path::Kernel,
            Touch::Always => Path::Direct,
            Touch::InItsProcess if self.gate().is_in_its_process() => Path::Direct,
            Touch::FromPopulatedToExported => {
                let permit = self.gate().pass().filter(|_| self.is_present(part) || self.populate(part).is_ok());
                permit.map_or_else(|| self.guarded_path(), Path::DirectUntilExported)
            }
            Touch::InItsProcess | Touch::Never(_) => self.guarded_path(),
        }
    }

    /// The path of a read that allocates no page of a shared file.
    pub fn scan_path(&self, part: Range) -> Path<'_> {
        // Where a part is not there yet, the file shows zeroes.
        let is_filled = self.ensure(part).is_ok();
        if is_filled && self.backing().shown_file().is_some() {
            self.guarded_path()
        } else {
            self.path(part, PROT_READ)
        }
    }

    /// Why not all of a part can be touched directly at this moment; `None` when it can.
    pub(super) fn guarded_because(&self, part: Range) -> Option<Why> {
        let is_inherited = self.gate().is_in_its_process();
        match self.touch() {
            Touch::Always => None,
            Touch::Never(why) => Some(why),
            Touch::FromFilled => Some(Why::NotFilled),
            Touch::InItsProcess | Touch::FromPopulatedToExported if !is_inherited => Some(Why::NotInherited),
            Touch::InItsProcess => None,
            Touch::FromPopulatedToExported if !self.gate().is_open() => Some(Why::Exported),
            Touch::FromPopulatedToExported => (!self.is_present(part)).then_some(Why::NotPresent),
        }
    }

    fn guarded_path(&self) -> Path<'_> {
        if let Some(reader) = self.reader() {
            return Path::Reader(reader);
        }
        match self.backing().shown_file() {
            _ if self.filling().is_some() => Path::Kernel,
            _ if self.backing().has_fault_handler => Path::Thread,
            Some((file, offset)) => Path::File(file, offset),
            None => Path::Kernel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::region::MAP_NORESERVE;

    #[test]
    fn memory_is_touched_directly_only_where_no_touch_can_fault() {
        let small = Backing::default();
        let huge = Backing { is_huge: true, ..Backing::default() };
        let strict = Backing { is_overcommit_strict: true, ..Backing::default() };
        let table = [
            (small.clone(), Touch::Always),
            (Backing { is_dontfork: true, ..small.clone() }, Touch::InItsProcess),
            (Backing { judged: Some(Why::TooShort), ..small.clone() }, Touch::Never(Why::TooShort)),
            (Backing { has_fault_handler: true, ..small.clone() }, Touch::Never(Why::FaultHandler)),
            // What matters is what it is, not whose.
            (Backing { is_foreign: true, ..small.clone() }, Touch::Always),
            (Backing { is_window: true, ..small }, Touch::Never(Why::DaxWindow)),
            (strict.clone(), Touch::Never(Why::StrictOvercommit)),
            (Backing { is_dontfork: true, ..strict.clone() }, Touch::Never(Why::StrictOvercommit)),
            // Overcommit is not a question for reserved huge pages.
            (Backing { is_huge: true, ..strict }, Touch::FromPopulatedToExported),
            (huge.clone(), Touch::FromPopulatedToExported),
            (Backing { is_dontfork: true, ..huge.clone() }, Touch::FromPopulatedToExported),
            (Backing { flags: MAP_NORESERVE, ..huge.clone() }, Touch::Never(Why::NotReserved)),
            (Backing { judged: Some(Why::HugePages), ..huge.clone() }, Touch::Never(Why::HugePages)),
            // A file that is mapped over reserved huge pages is not reserved.
            (Backing { is_window: true, ..huge }, Touch::Never(Why::DaxWindow)),
        ];
        for (backing, expected) in table {
            assert_eq!(Touch::of(&backing), expected, "{backing:?}");
        }
    }
}
