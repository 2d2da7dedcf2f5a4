//! vhost-user: the memory table of a backend in another process.
//!
//! A backend that offers `CONFIGURE_MEM_SLOTS` is told of each region as it comes and goes; another gets the whole table each time.
//! One message is under way at a time, and its outcome is known before the next: by `REPLY_ACK`, or, where a backend lacks it, by
//! asking something that has a reply.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::vhost_user_connection::{Connection, Request};
use crate::memory::region::MappedRegion;
use crate::model::error::{Errno, Error, Result};
use crate::model::region::{MAP_PRIVATE, RegionType, SharedRegion};
use crate::space::client::Client;
use crate::space::proposal::Proposal;
use crate::sys::fork::Process;

const ENOSPC: i32 = 28;

/// A region of RAM as a backend is shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The first guest physical address.
    pub guest_phys_addr: u64,
    /// Bytes.
    pub memory_size: u64,
    /// The address in this process.
    pub userspace_addr: u64,
    /// Where in the file the region begins.
    pub mmap_offset: u64,
    /// The mapping's own descriptor, open for as long as the region is mapped.
    pub fd: RawFd,
}

impl Entry {
    /// The entry of a region; `None` for anything but RAM. RAM that another process can't map is refused.
    pub fn of(region: &Arc<MappedRegion>) -> Result<Option<Self>> {
        let (desc, mapping) = (&region.desc, &region.mapping);
        if desc.region_type != RegionType::DefaultMemory {
            return Ok(None);
        }
        let file = mapping.file_offset().filter(|_| desc.perm_flags & MAP_PRIVATE == 0);
        let Some((file, fd)) = file.and_then(|file| Some((file, mapping.export_descriptor()?))) else {
            return Err(not_shared(desc));
        };
        Ok(Some(Self {
            guest_phys_addr: desc.base(),
            memory_size: desc.size(),
            userspace_addr: u64::try_from(mapping.host(0).addr()).unwrap_or_default(),
            mmap_offset: file.start(),
            fd,
        }))
    }

    fn bytes(&self) -> Vec<u8> {
        let fields = [self.guest_phys_addr, self.memory_size, self.userspace_addr, self.mmap_offset];
        fields.into_iter().flat_map(u64::to_le_bytes).collect()
    }
}

fn not_shared(region: &SharedRegion) -> Error {
    let how = String::from("give it mem_type=\"shmem\", or a file that is mapped MAP_SHARED");
    let message = format!("a vhost-user backend can't map {region}: its memory is private to this process; {how}");
    Error::Unsupported { message, feature: "vhost-user", how, region: Some(Arc::clone(region)) }
}

/// A backend's table, and the connection to it.
#[derive(Debug)]
struct State {
    connection: Connection,
    /// What the backend has mapped, by base; the region is kept for its descriptor.
    table: BTreeMap<u64, (Entry, Arc<MappedRegion>)>,
}

/// The front-end's side of a backend that follows a space.
#[derive(Debug)]
pub struct VhostUser {
    state: Mutex<State>,
    process: Process,
}

impl VhostUser {
    /// Negotiates with the backend at the other end of a socket, which stays its owner's; a duplicate is used.
    pub fn new(socket: RawFd, timeout: Duration, protocol_features: u64) -> Result<Self> {
        let connection = Connection::new(socket, timeout, protocol_features)?;
        let state = Mutex::new(State { connection, table: BTreeMap::new() });
        Ok(Self { state, process: Process::current() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The features that the backend offers, those of the protocol that are in use, and how many regions it takes.
    #[must_use]
    pub fn negotiated(&self) -> (u64, u64, usize) {
        let state = self.state();
        (state.connection.features, state.connection.protocol_features, state.connection.max_regions)
    }

    /// What the backend has been shown, by ascending base.
    #[must_use]
    pub fn table(&self) -> Vec<Entry> {
        self.state().table.values().map(|(entry, _)| *entry).collect()
    }

    /// Sends a message of the front-end's own; with `has_reply` returns what the backend answers, else waits until it was taken.
    pub fn message(&self, request: u32, payload: &[u8], fds: &[RawFd], has_reply: bool) -> Result<Vec<u8>> {
        if !self.process.is_current() {
            return Err(Error::Forked);
        }
        let connection = &mut self.state().connection;
        if has_reply {
            connection.ask(request, payload, fds)
        } else {
            connection.report(request, payload, fds).map(|()| vec![])
        }
    }
}

impl State {
    /// Shows the backend what comes and takes what goes, in one message or in one for each.
    fn update(&mut self, removed: &[u64], added: &[(Entry, Arc<MappedRegion>)]) -> Result<()> {
        if removed.is_empty() && added.is_empty() {
            return Ok(());
        }
        if self.connection.has_memory_slots() {
            self.update_each(removed, added)
        } else {
            self.replace_table(removed, added)
        }
    }

    fn update_each(&mut self, removed: &[u64], added: &[(Entry, Arc<MappedRegion>)]) -> Result<()> {
        for base in removed {
            if let Some((entry, _)) = self.table.get(base) {
                self.connection.report(Request::REM_MEM_REG, &single(entry), &[])?;
                self.table.remove(base);
            }
        }
        for (entry, region) in added {
            self.connection.report(Request::ADD_MEM_REG, &single(entry), &[entry.fd])?;
            self.table.insert(entry.guest_phys_addr, (*entry, Arc::clone(region)));
        }
        Ok(())
    }

    fn replace_table(&mut self, removed: &[u64], added: &[(Entry, Arc<MappedRegion>)]) -> Result<()> {
        let mut table = self.table.clone();
        table.retain(|base, _| !removed.contains(base));
        table.extend(added.iter().map(|(entry, region)| (entry.guest_phys_addr, (*entry, Arc::clone(region)))));
        let count = u32::try_from(table.len()).unwrap_or(u32::MAX);
        let mut payload = [count.to_le_bytes(), [0; 4]].concat();
        payload.extend(table.values().flat_map(|(entry, _)| entry.bytes()));
        let fds: Vec<RawFd> = table.values().map(|(entry, _)| entry.fd).collect();
        self.connection.report(Request::SET_MEM_TABLE, &payload, &fds)?;
        self.table = table;
        Ok(())
    }

    fn check_room(&self, region: Option<&SharedRegion>, count: usize) -> Result<()> {
        let most = self.connection.max_regions;
        if count <= most {
            return Ok(());
        }
        let message = format!("the vhost-user backend takes {most} regions of memory, and this change needs {count}");
        Err(Error::Backing { message, errno: Errno::Refused(ENOSPC), region: region.cloned() })
    }
}

/// The payload of one region.
fn single(entry: &Entry) -> Vec<u8> {
    [vec![0; 8], entry.bytes()].concat()
}

/// The regions of RAM among these, as the backend is shown them.
fn entries<'a>(
    proposal: &'a Proposal,
    regions: impl Iterator<Item = &'a SharedRegion>,
) -> Result<Vec<(Entry, Arc<MappedRegion>)>> {
    let mapped = regions.filter_map(|region| proposal.mapping(region));
    mapped.filter_map(|region| Some(Entry::of(region).transpose()?.map(|entry| (entry, Arc::clone(region))))).collect()
}

fn bases<'a>(regions: impl Iterator<Item = &'a SharedRegion>) -> Vec<u64> {
    regions.map(|region| region.base()).collect()
}

impl Client for VhostUser {
    fn name(&self) -> &str {
        "vhost-user"
    }

    fn needs_memory(&self) -> bool {
        true
    }

    fn prepare(&self, proposal: &Arc<Proposal>) -> Result<()> {
        let added = entries(proposal, proposal.change.added.iter())?;
        let mut state = self.state();
        let early: Vec<u64> =
            bases(proposal.removed_before()).into_iter().filter(|base| state.table.contains_key(base)).collect();
        let needed = state.table.len().saturating_add(added.len()).saturating_sub(early.len());
        if !added.is_empty() {
            state.check_room(proposal.change.added.first(), needed)?;
        }
        let before = state.table.clone();
        state.update(&early, &added).inspect_err(|_| {
            // The error that is returned is why; a backend that takes nothing back is named by the next change.
            let _ = state.restore(&before);
        })
    }

    fn commit(&self, proposal: &Arc<Proposal>) -> Result<()> {
        let mut state = self.state();
        let late: Vec<u64> =
            bases(proposal.removed_after()).into_iter().filter(|base| state.table.contains_key(base)).collect();
        state.update(&late, &[])
    }

    fn rollback(&self, proposal: &Arc<Proposal>) -> Result<()> {
        let mut state = self.state();
        let removed = entries(proposal, proposal.removed_before())?;
        let added: Vec<u64> =
            bases(proposal.change.added.iter()).into_iter().filter(|base| state.table.contains_key(base)).collect();
        state.update(&added, &removed)
    }

    /// A backend that is gone has nothing to let go.
    fn leave(&self) -> Result<()> {
        let mut state = self.state();
        if state.connection.is_broken() {
            return Ok(());
        }
        let all: Vec<u64> = state.table.keys().copied().collect();
        state.update(&all, &[])
    }
}

impl State {
    fn restore(&mut self, before: &BTreeMap<u64, (Entry, Arc<MappedRegion>)>) -> Result<()> {
        let added: Vec<u64> = self.table.keys().filter(|base| !before.contains_key(base)).copied().collect();
        let removed: Vec<_> =
            before.iter().filter(|(base, _)| !self.table.contains_key(base)).map(|(_, entry)| entry.clone()).collect();
        self.update(&added, &removed)
    }
}
