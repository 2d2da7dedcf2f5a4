//! Whether a touch of memory that was not made here can fault: the memory is judged by what it is, not by where it came from.

use std::fmt::{self, Display};
use std::fs::File;

use crate::model::int::usize_of;
use crate::model::source::UserBuffer;
use crate::sys::file::{self, SEAL_SEAL, SEAL_SHRINK};
use crate::sys::smaps::Shown;

/// The reason why memory is not touched directly, with what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its file has no seals.
    NoMemfd,
    /// Its memfd lacks `F_SEAL_SHRINK`.
    NotSealed {
        /// Whether it can still be sealed.
        can_be: bool,
    },
    /// Its huge pages can be taken away, and the pool may have no others.
    HugePages,
    /// Its file ends before it does.
    TooShort,
    /// `vm.overcommit_memory=2`.
    StrictOvercommit,
    /// The exporter of the buffer may move it.
    Exporter,
    /// The file of the buffer can't be asked for its seals.
    NoDescriptor,
    /// The buffer's own pages forbid what the buffer allows.
    Protected,
    /// Somebody answers its page faults.
    FaultHandler,
    /// Files are mapped over it.
    DaxWindow,
    /// `MAP_NORESERVE` of huge pages.
    NotReserved,
    /// Nobody saw to it that its huge pages are there.
    NotPresent,
    /// Somebody else has the descriptor of its huge pages.
    Exported,
    /// A forked child does not have it.
    NotInherited,
    /// Its bytes come in from an image when they are used.
    NotFilled,
    /// Its bytes lie in a dump in many pieces, or packed.
    InDump,
}

impl Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NoMemfd => {
                "its file is not a memfd, so that others may cut it: use a memfd with F_SEAL_SHRINK, or vouch for it with trusted=True"
            }
            Self::NotSealed { can_be: true } => {
                "its file can be cut: seal it with F_ADD_SEALS F_SEAL_SHRINK before it is mapped, or vouch for it with trusted=True"
            }
            Self::NotSealed { can_be: false } => {
                "its file can be cut and takes no seals: make it with MFD_ALLOW_SEALING and add F_SEAL_SHRINK, or vouch for it with trusted=True"
            }
            Self::HugePages => {
                "others may take its huge pages away, and the pool may have no more: use a memfd of small pages, or let the space make it"
            }
            Self::TooShort => "its file ends before it does: lengthen the file before it is mapped",
            Self::StrictOvercommit => {
                "the host refuses pages under vm.overcommit_memory=2: set it to 0 or 1 before the memory is mapped"
            }
            Self::Exporter => {
                "its owner may move the buffer under us: give a bytearray, an array.array or an mmap, or vouch for it with trusted=True"
            }
            Self::NoDescriptor => {
                "no descriptor of this process tells the seals of its file: give the file to from_file, or vouch for it with trusted=True"
            }
            Self::Protected => {
                "its pages are protected in this process from what the buffer allows: lift that (mprotect) before it is mapped"
            }
            Self::FaultHandler => {
                "somebody answers its page faults, and may not: map it without may_block=True and before a userfaultfd is registered"
            }
            Self::DaxWindow => "the owners of the files in the window may cut them: map a memfd as a region of its own",
            Self::NotReserved => "the pool may have no huge pages for it: leave MAP_NORESERVE (reserve=False) out",
            Self::NotPresent => "its huge pages are not known to be there: bring them in with prealloc()",
            Self::Exported => {
                "others have its descriptor and may take its huge pages away: use small pages where it is shared"
            }
            Self::NotFilled => "its bytes come in from an image as they are used: wait_restored() waits for all of them",
            Self::InDump => "its bytes lie in a dump in many pieces, or packed: load it with copy=True",
            Self::NotInherited => "a forked child does not have its pages: use it in the process that mapped it",
        })
    }
}

/// The facts beside the file: whether the user vouches for the memory, and whether the host has `vm.overcommit_memory=2`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    pub(super) is_trusted: bool,
    pub(super) is_overcommit_strict: bool,
}

/// Judges a file that is mapped up to `end`: `None` when no touch can fault.
pub(super) fn judge(file: &File, end: u64, facts: Facts) -> Option<Why> {
    let seals = file::seals(file);
    // Seals first, length second: the other way round, a holder could cut it in between and seal it then.
    let is_long_enough = file::length(file).is_ok_and(|length| length >= end);
    let is_small = file::hugetlbfs_page_size(file).is_ok_and(|size| size.is_none());
    match seals {
        None if !facts.is_trusted => Some(Why::NoMemfd),
        Some(seals) if !facts.is_trusted && seals & SEAL_SHRINK == 0 => {
            Some(Why::NotSealed { can_be: seals & SEAL_SEAL == 0 })
        }
        _ if !is_small => Some(Why::HugePages),
        _ if !facts.is_trusted && !is_long_enough => Some(Why::TooShort),
        _ => facts.is_overcommit_strict.then_some(Why::StrictOvercommit),
    }
}

/// Judges a buffer that the process has already, by the mappings that show it.
pub(super) fn judge_buffer(buffer: &UserBuffer, shown: Option<&[Shown]>, facts: Facts) -> Option<Why> {
    if !buffer.is_steady && !facts.is_trusted {
        return Some(Why::Exporter);
    }
    let Some(shown) = shown else { return Some(Why::NoDescriptor).filter(|_| !facts.is_trusted) };
    let is_there = usize_of(buffer.size) == shown.iter().map(|part| part.size).sum::<usize>();
    let is_allowed = |part: &Shown| part.access.0 && (part.access.1 || !buffer.is_writable);
    if !is_there || !shown.iter().all(is_allowed) {
        return Some(Why::Protected);
    }
    let verdict = shown.iter().find_map(|part| judge_shown(part, facts));
    verdict.or_else(|| facts.is_overcommit_strict.then_some(Why::StrictOvercommit))
}

fn judge_shown(part: &Shown, facts: Facts) -> Option<Why> {
    if part.is_huge {
        return Some(Why::HugePages);
    }
    match file::open_here(part.file?) {
        Some(file) => judge(&file, part.end_in_file, facts),
        None => Some(Why::NoDescriptor).filter(|_| !facts.is_trusted),
    }
}
