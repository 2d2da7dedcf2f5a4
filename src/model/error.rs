//! The errors of all rooms, each with the data that explains it.
//!
//! Every variant is pure data, and the binding maps each to one Python class.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

use super::ids::Generation;
use super::invalid::Invalid;
use super::region::Region;
use crate::sys::fork::Forked;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Something that vetoes the removal of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// `"view"`, or the verb in flight.
    pub what: &'static str,
    /// The first guest physical address that is held.
    pub address: u64,
    /// The number of bytes that are held.
    pub size: u64,
    /// Whether they may be written for as long as they are held, unseen.
    pub is_writable: bool,
    /// The process that holds them, where it is another one.
    pub pid: Option<u32>,
}

/// The exception of a client, in the form that its language has for it.
#[derive(Clone)]
pub struct ClientException(Arc<dyn Any + Send + Sync>);

impl ClientException {
    /// Carries anything.
    pub fn new(raised: impl Any + Send + Sync) -> Self {
        Self(Arc::new(raised))
    }

    /// The exception, when it is a `T`.
    #[must_use]
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl std::fmt::Debug for ClientException {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ClientException(..)")
    }
}

/// The numbers behind a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The bytes asked for.
    pub size: u64,
    /// The free bytes in the bounds.
    pub free: u64,
    /// The bytes of the largest hole.
    pub largest: u64,
    /// The alignment asked for.
    pub align: u64,
}

/// The error number that an error has in Python, whose `OSError` asks for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// A system call failed with it, so it is part of the message.
    Failed(i32),
    /// No call failed: it only tells programs what the message tells people.
    Refused(i32),
}

/// The kinds of faults of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFault {
    /// It can't be made, or not be used so.
    Refused,
    /// It is damaged.
    Corrupt,
    /// It does not belong to the image, the machine or the memory that it is used with.
    Mismatch,
    /// A later version of this package wrote it.
    TooNew,
}

/// The work was asked to stop; the caller's `Interrupt` knows why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

/// The reason why a request was refused or failed; messages say what was asked, what is in the way and what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// An argument that can't be.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A region where the layout does not allow it.
    #[error("{region} {reason}")]
    Layout {
        /// The region refused.
        region: Arc<Region>,
        /// The rule that it breaks.
        reason: String,
    },
    /// Two regions share addresses.
    #[error("cannot insert {region}: overlaps {conflict}")]
    Overlap {
        /// The region refused.
        region: Arc<Region>,
        /// The region in the way.
        conflict: Arc<Region>,
    },
    /// Two regions have one name.
    #[error("cannot insert {region}: the name is taken by {conflict}")]
    DuplicateName {
        /// The region refused.
        region: Arc<Region>,
        /// The region that has the name.
        conflict: Arc<Region>,
    },
    /// A base, size or offset that is not a multiple of what it must be.
    #[error("{message}")]
    Misaligned {
        /// The number, and what it must be a multiple of.
        message: String,
        /// The address asked for.
        address: Option<u64>,
        /// The size asked for.
        size: Option<u64>,
        /// The region, when one is being mapped.
        region: Option<Arc<Region>>,
    },
    /// No region, or no memory, at an address.
    #[error("{message}")]
    Unmapped {
        /// The request, and what is there instead.
        message: String,
        /// The first bad address.
        address: Option<u64>,
        /// The size asked for.
        size: Option<u64>,
        /// The region that is in the way or next to it.
        region: Option<Arc<Region>>,
    },
    /// No region has a name.
    #[error("no region is named {}", super::quote::quoted(.name))]
    UnknownName {
        /// The name asked for.
        name: String,
    },
    /// A protection is in the way.
    #[error("{message}")]
    AccessDenied {
        /// The request, and the protection that forbids it.
        message: String,
        /// The first bad address.
        address: u64,
        /// The size asked for.
        size: u64,
        /// The protected region.
        region: Arc<Region>,
    },
    /// The kernel reported a fault of the memory itself.
    #[error("{message} (done before it: {} bytes)", super::format::hex(*.completed))]
    Fault {
        /// The work that was under way.
        message: String,
        /// The first address that could not be reached.
        address: u64,
        /// The size asked for.
        size: u64,
        /// The region that faulted.
        region: Arc<Region>,
        /// The number of bytes done before the fault.
        completed: u64,
        /// The failure of the backing, as far as the kernel tells.
        cause: String,
        /// The position in the backing file.
        file_offset: Option<u64>,
    },
    /// The kernel refused the backing of a region.
    #[error("{message}")]
    Backing {
        /// The request to the kernel, and the way out.
        message: String,
        /// The kernel's error number, or one that says the same.
        errno: Errno,
        /// The region to be mapped.
        region: Option<Arc<Region>>,
    },
    /// The huge page pool is too small.
    #[error("{message}")]
    HugePagesShort {
        /// The pages needed and free, and the way to get more.
        message: String,
        /// Pages that are missing.
        missing: u64,
        /// Bytes a page.
        page_size: u64,
        /// The region to be mapped.
        region: Arc<Region>,
    },
    /// A NUMA node that the host does not have.
    #[error("{message}")]
    Numa {
        /// The node and the nodes there are.
        message: String,
        /// The kernel's error number, or one that says the same.
        errno: Errno,
        /// The region to be mapped.
        region: Arc<Region>,
    },
    /// Less room than asked for.
    #[error("{message}")]
    NoSpace {
        /// The request, and the free bytes.
        message: String,
        /// The numbers.
        shortage: Shortage,
    },
    /// Room enough, but in holes that are too small.
    #[error("{message}")]
    Fragmented {
        /// The request, and the largest hole.
        message: String,
        /// The numbers.
        shortage: Shortage,
    },
    /// Room enough, but not at the alignment.
    #[error("{message}")]
    AlignmentImpossible {
        /// The request, and the largest hole.
        message: String,
        /// The numbers.
        shortage: Shortage,
    },
    /// Addresses that someone has reserved.
    #[error("{message}")]
    Reserved {
        /// The request, and the owner of the addresses.
        message: String,
        /// The first address asked for.
        address: u64,
        /// The size asked for.
        size: u64,
        /// The region refused.
        region: Option<Arc<Region>>,
        /// The region in the way of a reservation.
        conflict: Option<Arc<Region>>,
    },
    /// A plan that can't be built.
    #[error("the plan can't be built: {}", .problems.join("; "))]
    InvalidPlan {
        /// All its problems.
        problems: Vec<String>,
    },
    /// Leases veto the change.
    #[error("{message}")]
    Busy {
        /// The region and its holders.
        message: String,
        /// The region.
        region: Arc<Region>,
        /// Its holders.
        leases: Vec<LeaseInfo>,
    },
    /// A view would cross from one mapping into another.
    #[error("{message}")]
    NotContiguous {
        /// The range and the joint in it.
        message: String,
        /// The joint.
        address: u64,
        /// The size asked for.
        size: u64,
        /// The region before the joint.
        region: Arc<Region>,
        /// The region behind it.
        conflict: Option<Arc<Region>>,
    },
    /// A transfer between a file and memory ended early.
    #[error("{message}")]
    Partial {
        /// The reason of its end, and how far it got.
        message: String,
        /// The kernel's error number; `EIO` when the file ended.
        errno: Errno,
        /// Bytes that were transferred.
        done: u64,
        /// The size asked for.
        size: u64,
    },
    /// The space has no memory, or this handle was closed.
    #[error("{message}")]
    NotMapped {
        /// The call that helps.
        message: String,
    },
    /// The memory or the kernel can't do this.
    #[error("{message}")]
    Unsupported {
        /// The request, and why it can't be met.
        message: String,
        /// The feature.
        feature: &'static str,
        /// Another way to the same effect.
        how: String,
        /// The region.
        region: Option<Arc<Region>>,
    },
    /// The space moved on since the caller looked.
    #[error("the address space is at generation {actual}, not at {expected}: look again and retry the transaction")]
    GenerationChanged {
        /// The generation that the caller expected.
        expected: Generation,
        /// The generation that the space has.
        actual: Generation,
    },
    /// A transaction that is not open, or that is entered again.
    #[error("{message}")]
    TransactionClosed {
        /// The request, and what would do.
        message: &'static str,
    },
    /// A checkpoint that is not there any more.
    #[error(
        "this checkpoint is closed: by close(), at the end of its with block, or by the restore of one that was taken before it"
    )]
    CheckpointClosed,
    /// A change from inside a change.
    #[error("{message}")]
    Reentrant {
        /// The phase that called back.
        message: String,
    },
    /// A change in a forked child, or something that a thread of its parent had locked.
    #[error(
        "this belongs to the parent process: a forked child can use the memory, but neither change the space nor wait for it"
    )]
    Forked,
    /// A client refused, failed or does not come back.
    #[error("{message}")]
    Client {
        /// The client, the phase, and the failure there.
        message: String,
        /// Its exception.
        raised: Option<ClientException>,
    },
    /// The connection between a leader and a follower ended, or never came about.
    #[error("{message}")]
    Share {
        /// The one that ended it, and why.
        message: String,
    },
    /// An image that can't be made or used.
    #[error("{}: {message}", .path.display())]
    Image {
        /// The kind of fault.
        fault: ImageFault,
        /// The fault, and what to do.
        message: String,
        /// The file.
        path: PathBuf,
        /// The chunk of its data.
        chunk: Option<u64>,
    },
    /// The kernel refused to open, read or write a file of the caller's.
    #[error("{message}")]
    File {
        /// The kernel's words.
        message: String,
        /// The kernel's error number.
        errno: i32,
        /// The file.
        path: PathBuf,
    },
    /// The allocator refused room for a result or a buffer.
    #[error("{message}")]
    NoRoom {
        /// About how much was asked for.
        message: String,
    },
    /// The caller's `Interrupt` said stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// A fault in a part of the work, when `done` bytes of other parts were done before it.
    #[must_use]
    pub fn after(mut self, done: u64) -> Self {
        if let Self::Fault { completed, .. } = &mut self {
            *completed = completed.saturating_add(done);
        }
        self
    }

    /// The number of bytes done before a fault.
    #[must_use]
    pub const fn completed(&self) -> u64 {
        if let Self::Fault { completed, .. } = self { *completed } else { 0 }
    }

    /// A fault before which that many bytes were done.
    #[must_use]
    pub fn completing(mut self, bytes: u64) -> Self {
        if let Self::Fault { completed, .. } = &mut self {
            *completed = bytes;
        }
        self
    }

    /// A fault in a part of the work, told with the size of all of it.
    #[must_use]
    pub fn of(mut self, total: u64) -> Self {
        if let Self::Fault { size, .. } = &mut self {
            *size = total;
        }
        self
    }
}

impl From<Interrupted> for Error {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

impl From<Forked> for Error {
    fn from(_: Forked) -> Self {
        Self::Forked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_a_part_is_told_of_the_whole() {
        let range = super::super::range::Range::between(0, 0x1000);
        let region = Region::new(super::super::region::RegionType::DefaultMemory, range, Default::default()).unwrap();
        let (message, cause) = (String::from("read"), String::new());
        let fault = Error::Fault {
            message,
            address: 8,
            size: 4,
            region: Arc::new(region),
            completed: 2,
            cause,
            file_offset: None,
        };
        let fault = fault.after(0x10).of(0x40);
        assert_eq!(fault.completed(), 0x12);
        assert!(matches!(fault, Error::Fault { size: 0x40, .. }));
        assert_eq!(fault.completing(3).to_string(), "read (done before it: 0x3 bytes)");
    }
}
