//! vhost-user: the memory table of a backend in another process.
//!
//! A backend that offers `CONFIGURE_MEM_SLOTS` is told of each region as it comes and goes; another gets the whole table each time.
//! One message is under way at a time, and its outcome is known before the next: by `REPLY_ACK`, or, where a backend lacks it, by
//! asking something that has a reply.

mod connection;
mod message;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use self::connection::{Connection, duplicate};
use self::message::RegionFields;
use crate::memory::region::MappedRegion;
use crate::model::error::{Errno, Error, Result};
use crate::model::int::u64_of;
use crate::model::lock::Lock;
use crate::model::region::{MAP_PRIVATE, RegionType, SharedRegion};
use crate::model::region_map::RegionEntry;
use crate::space::client::Client;
use crate::space::proposal::Proposal;
use crate::sys::errno::ENOSPC;
use crate::sys::fork::Process;

/// A region of RAM as a backend is shown it.
#[derive(Clone, Debug)]
pub struct VhostUserRegion {
    /// The first guest physical address.
    pub guest_phys_addr: u64,
    /// Bytes.
    pub memory_size: u64,
    /// The address in this process.
    pub userspace_addr: u64,
    /// Where in the file the region begins.
    pub mmap_offset: u64,
    /// The file that the region maps.
    file: Arc<File>,
}

impl VhostUserRegion {
    /// A mapped region; `None` when it is not RAM, an error when another process can't map it.
    pub fn of(region: &MappedRegion) -> Result<Option<Self>> {
        let (desc, mapping) = (region.desc(), region.mapping());
        if desc.region_type != RegionType::DefaultMemory {
            return Ok(None);
        }
        let is_shared = desc.perm_flags & MAP_PRIVATE == 0;
        // From here on the backend may punch and truncate the file.
        let Some((file, mmap_offset)) = is_shared.then(|| mapping.export_file()).flatten() else {
            return Err(not_shared(desc));
        };
        Ok(Some(Self {
            guest_phys_addr: desc.base(),
            memory_size: desc.size(),
            userspace_addr: u64_of(mapping.host(0).addr()),
            mmap_offset,
            file,
        }))
    }

    /// The mapping's own descriptor.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    const fn fields(&self) -> RegionFields {
        [self.guest_phys_addr, self.memory_size, self.userspace_addr, self.mmap_offset]
    }
}

fn not_shared(region: &SharedRegion) -> Error {
    let how = String::from("give it mem_type=\"shmem\", or a file that is mapped MAP_SHARED");
    let message = format!("a vhost-user backend can't map {region}: its memory is private to this process; {how}");
    Error::Unsupported { message, feature: "vhost-user", how, region: Some(Arc::clone(region)) }
}

/// The regions that a backend has mapped, by base.
type MemoryTable = BTreeMap<u64, VhostUserRegion>;

/// The front-end's side of a backend that follows a space.
#[derive(Debug)]
pub struct VhostUser {
    backend: Lock<Backend>,
    process: Process,
}

impl VhostUser {
    /// Negotiates with the backend at the other end of a socket, which stays its owner's; a duplicate is used.
    pub fn new(socket: RawFd, timeout: Duration, protocol_features: u64) -> Result<Self> {
        let connection = Connection::new(socket, timeout, protocol_features)?;
        let backend = Lock::new(Backend { connection, table: BTreeMap::new() });
        Ok(Self { backend, process: Process::current() })
    }

    /// The features that the backend offers, those of the protocol that are in use, and how many regions it takes.
    #[must_use]
    pub fn negotiated(&self) -> (u64, u64, usize) {
        let Connection { features, protocol_features, max_regions, .. } = self.backend.lock().connection;
        (features, protocol_features, max_regions)
    }

    /// The regions that the backend was shown, by ascending base.
    #[must_use]
    pub fn table(&self) -> Vec<VhostUserRegion> {
        self.backend.lock().table.values().cloned().collect()
    }

    /// Sends a message of the front-end's own; with `has_reply` returns what the backend answers, else waits until it was taken.
    pub fn message(&self, request: u32, payload: &[u8], fds: &[RawFd], has_reply: bool) -> Result<Vec<u8>> {
        // In a forked child the conversation is the parent's.
        if !self.process.is_current() {
            return Err(Error::Forked);
        }
        // Duplicated first: the caller may close its own while the lock is waited for.
        let files: Vec<File> = fds.iter().map(|fd| duplicate(*fd)).collect::<Result<_>>()?;
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let connection = &mut self.backend.lock().connection;
        if has_reply {
            connection.ask(request, payload, &fds)
        } else {
            connection.report(request, payload, &fds).map(|()| vec![])
        }
    }
}

/// A backend: the connection to it, and what it has mapped.
#[derive(Debug)]
struct Backend {
    connection: Connection,
    table: MemoryTable,
}

impl Backend {
    /// Takes away what goes and shows what comes, in one message or in one for each.
    fn update(&mut self, removed: &[u64], added: &[VhostUserRegion]) -> Result<()> {
        if removed.is_empty() && added.is_empty() {
            Ok(())
        } else if self.connection.has_memory_slots() {
            self.update_each(removed, added)
        } else {
            self.replace_table(removed, added)
        }
    }

    /// The table follows each message, so that it is true when a later one is refused. Removals come first: a backend may refuse a
    /// region that overlaps another.
    fn update_each(&mut self, removed: &[u64], added: &[VhostUserRegion]) -> Result<()> {
        for base in removed {
            if let Some(region) = self.table.get(base) {
                let payload = message::single_region(region.fields());
                self.connection.report(message::REM_MEM_REG, &payload, &[])?;
                self.table.remove(base);
            }
        }
        for region in added {
            let payload = message::single_region(region.fields());
            self.connection.report(message::ADD_MEM_REG, &payload, &[region.file.as_fd()])?;
            self.table.insert(region.guest_phys_addr, region.clone());
        }
        Ok(())
    }

    fn replace_table(&mut self, removed: &[u64], added: &[VhostUserRegion]) -> Result<()> {
        let mut table = self.table.clone();
        table.retain(|base, _| !removed.contains(base));
        table.extend(added.iter().map(|region| (region.guest_phys_addr, region.clone())));
        let fields: Vec<RegionFields> = table.values().map(VhostUserRegion::fields).collect();
        let fds: Vec<BorrowedFd<'_>> = table.values().map(|region| region.file.as_fd()).collect();
        self.connection.report(message::SET_MEM_TABLE, &message::memory_table(&fields)?, &fds)?;
        // Only now: after a refusal the backend has the table that it had.
        self.table = table;
        Ok(())
    }

    /// Brings the backend back to what it had.
    fn restore(&mut self, before: &MemoryTable) -> Result<()> {
        // By the memory, not by the base alone: a region may have taken another's place.
        let missing = |from: &MemoryTable, other: &MemoryTable| -> Vec<VhostUserRegion> {
            let is_there = |region: &VhostUserRegion| {
                other.get(&region.guest_phys_addr).is_some_and(|there| there.fields() == region.fields())
            };
            from.values().filter(|region| !is_there(region)).cloned().collect()
        };
        let (added, removed) = (missing(&self.table, before), missing(before, &self.table));
        let added: Vec<u64> = added.iter().map(|region| region.guest_phys_addr).collect();
        self.update(&added, &removed)
    }

    /// The bases of those regions that the backend has.
    fn shown<'a>(&self, regions: impl Iterator<Item = &'a RegionEntry>) -> Vec<u64> {
        regions.map(|region| region.base()).filter(|base| self.table.contains_key(base)).collect()
    }

    fn check_room(&self, region: Option<&SharedRegion>, needed: usize) -> Result<()> {
        let most = self.connection.max_regions;
        if needed <= most {
            return Ok(());
        }
        let message = format!("the vhost-user backend takes {most} regions of memory, and this change needs {needed}");
        Err(Error::Backing { message, errno: Errno::Refused(ENOSPC), region: region.cloned() })
    }
}

/// The regions of RAM among these, as the backend is shown them.
fn exported<'a>(
    proposal: &'a Proposal,
    regions: impl Iterator<Item = &'a RegionEntry>,
) -> Result<Vec<VhostUserRegion>> {
    let mapped = regions.filter_map(|region| proposal.mapping(region));
    mapped.filter_map(|region| VhostUserRegion::of(region).transpose()).collect()
}

impl Client for VhostUser {
    fn name(&self) -> &str {
        "vhost-user"
    }

    fn needs_memory(&self) -> bool {
        true
    }

    fn prepare(&self, proposal: &Arc<Proposal>) -> Result<()> {
        // Before the lock: an export waits for direct copies under way.
        let added = exported(proposal, proposal.change.added.iter())?;
        let mut backend = self.backend.lock();
        let removed = backend.shown(proposal.removed_before());
        let kept = backend.table.keys().filter(|base| !removed.contains(base));
        let needed = kept.chain(added.iter().map(|region| &region.guest_phys_addr)).count();
        if !added.is_empty() {
            backend.check_room(proposal.change.added.first().map(|region| &region.desc), needed)?;
        }
        let before = backend.table.clone();
        backend.update(&removed, &added).inspect_err(|_| {
            // The error that is returned is why; a backend that takes nothing back is named by the next change.
            let _ = backend.restore(&before);
        })
    }

    fn commit(&self, proposal: &Arc<Proposal>) -> Result<()> {
        let mut backend = self.backend.lock();
        let removed = backend.shown(proposal.removed_after());
        backend.update(&removed, &[])
    }

    fn rollback(&self, proposal: &Arc<Proposal>) -> Result<()> {
        let mut backend = self.backend.lock();
        let added = exported(proposal, proposal.removed_before())?;
        let removed = backend.shown(proposal.change.added.iter());
        backend.update(&removed, &added)
    }

    /// A backend that is gone has nothing to let go.
    fn leave(&self) -> Result<()> {
        let mut backend = self.backend.lock();
        if backend.connection.is_broken() {
            return Ok(());
        }
        let all: Vec<u64> = backend.table.keys().copied().collect();
        backend.update(&all, &[])
    }
}
