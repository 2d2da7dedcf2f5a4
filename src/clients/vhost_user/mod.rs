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

use self::connection::{Connection, Conversation, Negotiated};
use self::message::RegionFields;
use super::partial_pages::PartialPages;
use crate::clients::duplicate;
use crate::memory::region::MappedRegion;
use crate::model::error::{Errno, Error, Result};
use crate::model::int::u64_of;
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::region::{MAP_PRIVATE, RegionType, SharedRegion};
use crate::model::region_map::RegionEntry;
use crate::space::client::Client;
use crate::space::proposal::Proposal;
use crate::sys::errno::ENOSPC;
use crate::sys::fork::Process;
use crate::sys::lock::Lock;

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
    /// The base of the region, of which these may be the whole pages alone.
    base: u64,
}

impl VhostUserRegion {
    /// A mapped region; `None` when it is not RAM or less than a page, an error when another process can't map it.
    pub fn of(region: &MappedRegion, partial_pages: PartialPages) -> Result<Option<Self>> {
        let desc = region.desc();
        if desc.region_type != RegionType::DefaultMemory {
            return Ok(None);
        }
        let is_shared = desc.perm_flags & MAP_PRIVATE == 0;
        let Some(whole) = partial_pages.of(region, "a vhost-user back-end")? else { return Ok(None) };
        // From here on the backend may punch and truncate the file.
        let Some((file, mmap_offset)) = is_shared.then(|| whole.export_file()).flatten() else {
            return Err(not_shared(desc));
        };
        Ok(Some(Self {
            guest_phys_addr: whole.shown_at().base(),
            memory_size: whole.shown_at().size(),
            userspace_addr: u64_of(whole.start().addr()),
            mmap_offset,
            file,
            base: desc.base(),
        }))
    }

    /// The guest physical addresses.
    #[must_use]
    pub const fn range(&self) -> Range {
        Range::at(self.guest_phys_addr, self.memory_size)
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
    connection: Connection,
    partial_pages: PartialPages,
    /// Locked for a moment each, never while the backend is waited for; only who has the conversation changes it.
    table: Lock<MemoryTable>,
    /// The table before the change under way, for a rollback.
    before: Lock<Option<MemoryTable>>,
    process: Process,
}

impl VhostUser {
    /// Negotiates with the backend at the other end of a socket, which stays its owner's; a duplicate is used.
    pub fn new(
        socket: RawFd,
        timeout: Duration,
        protocol_features: u64,
        partial_pages: PartialPages,
        interrupt: &dyn Interrupt,
    ) -> Result<Self> {
        let connection = Connection::new(socket, timeout, protocol_features, interrupt)?;
        let (table, before) = (Lock::default(), Lock::default());
        Ok(Self { connection, partial_pages, table, before, process: Process::current() })
    }

    /// The features that the backend offers, those of the protocol that are in use, and how many regions it takes.
    #[must_use]
    pub const fn negotiated(&self) -> (u64, u64, usize) {
        let Negotiated { features, protocol_features, max_regions } = self.connection.negotiated;
        (features, protocol_features, max_regions)
    }

    /// The regions that the backend was shown, by ascending base.
    pub fn table(&self) -> Result<Vec<VhostUserRegion>> {
        Ok(self.table.lock()?.values().cloned().collect())
    }

    /// Sends a message of the front-end's own; with `has_reply` returns what the backend answers, else waits until it was taken.
    pub fn message(
        &self,
        request: u32,
        payload: &[u8],
        fds: &[RawFd],
        has_reply: bool,
        interrupt: &dyn Interrupt,
    ) -> Result<Vec<u8>> {
        // In a forked child the conversation is the parent's.
        if !self.process.is_current() {
            return Err(Error::Forked);
        }
        // Duplicated first: the caller may close its own while another message is waited for.
        let files: Vec<File> = fds.iter().map(|fd| duplicate(*fd)).collect::<Result<_>>()?;
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let conversation = self.connection.begin(interrupt)?;
        if has_reply {
            conversation.ask(request, payload, &fds)
        } else {
            conversation.report(request, payload, &fds).map(|()| vec![])
        }
    }

    /// Takes away what goes and shows what comes, in one message or in one for each.
    fn update(&self, conversation: &Conversation<'_>, removed: &[u64], added: &[VhostUserRegion]) -> Result<()> {
        if removed.is_empty() && added.is_empty() {
            Ok(())
        } else if self.connection.negotiated.has_memory_slots() {
            self.update_each(conversation, removed, added)
        } else {
            self.replace_table(conversation, removed, added)
        }
    }

    /// The table follows each message, so that it is true when a later one is refused. Removals come first: a backend may refuse a
    /// region that overlaps another.
    fn update_each(&self, conversation: &Conversation<'_>, removed: &[u64], added: &[VhostUserRegion]) -> Result<()> {
        for base in removed {
            let shown = self.table.lock()?.get(base).map(VhostUserRegion::fields);
            if let Some(fields) = shown {
                conversation.report(message::REM_MEM_REG, &message::single_region(fields), &[])?;
                self.table.lock()?.remove(base);
            }
        }
        for region in added {
            let payload = message::single_region(region.fields());
            conversation.report(message::ADD_MEM_REG, &payload, &[region.file.as_fd()])?;
            self.table.lock()?.insert(region.base, region.clone());
        }
        Ok(())
    }

    fn replace_table(&self, conversation: &Conversation<'_>, removed: &[u64], added: &[VhostUserRegion]) -> Result<()> {
        let mut table = self.table.lock()?.clone();
        table.retain(|base, _| !removed.contains(base));
        table.extend(added.iter().map(|region| (region.base, region.clone())));
        let fields: Vec<RegionFields> = table.values().map(VhostUserRegion::fields).collect();
        let fds: Vec<BorrowedFd<'_>> = table.values().map(|region| region.file.as_fd()).collect();
        conversation.report(message::SET_MEM_TABLE, &message::memory_table(&fields)?, &fds)?;
        // Only now: after a refusal the backend has the table that it had.
        *self.table.lock()? = table;
        Ok(())
    }

    /// Brings the backend back to what it had before the change under way.
    fn restore(&self, conversation: &Conversation<'_>) -> Result<()> {
        let Some(before) = self.before.lock()?.take() else { return Ok(()) };
        let now = self.table.lock()?.clone();
        // Told by their fields, not by their bases alone: a region may have come where another was.
        let gone_from = |from: &MemoryTable, to: &MemoryTable| {
            let is_there =
                |region: &VhostUserRegion| to.get(&region.base).is_some_and(|other| other.fields() == region.fields());
            from.values().filter(|region| !is_there(region)).cloned().collect::<Vec<_>>()
        };
        let removed: Vec<u64> = gone_from(&now, &before).iter().map(|region| region.base).collect();
        self.update(conversation, &removed, &gone_from(&before, &now))
    }

    /// The bases of those regions that the backend has.
    fn shown<'a>(&self, regions: impl Iterator<Item = &'a RegionEntry>) -> Result<Vec<u64>> {
        let table = self.table.lock()?;
        Ok(regions.map(|region| region.base()).filter(|base| table.contains_key(base)).collect())
    }

    fn check_room(&self, removed: &[u64], added: &[VhostUserRegion], region: Option<&SharedRegion>) -> Result<()> {
        let kept = self.table.lock()?.keys().filter(|base| !removed.contains(base)).count();
        let (most, needed) = (self.connection.negotiated.max_regions, kept.saturating_add(added.len()));
        if added.is_empty() || needed <= most {
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
    partial_pages: PartialPages,
) -> Result<Vec<VhostUserRegion>> {
    let mapped = regions.filter_map(|region| proposal.mapping(region));
    mapped.filter_map(|region| VhostUserRegion::of(region, partial_pages).transpose()).collect()
}

impl Client for VhostUser {
    fn name(&self) -> &str {
        "vhost-user"
    }

    fn writes_unseen(&self) -> bool {
        true
    }

    fn needs_memory(&self) -> bool {
        true
    }

    fn prepare(&self, proposal: &Arc<Proposal>, interrupt: &dyn Interrupt) -> Result<()> {
        // Before the conversation: an export waits for direct copies under way.
        let added = exported(proposal, proposal.change.added.iter(), self.partial_pages)?;
        let conversation = self.connection.begin(interrupt)?;
        let removed = self.shown(proposal.removed_before())?;
        self.check_room(&removed, &added, proposal.change.added.first().map(|region| &region.desc))?;
        let before = self.table.lock()?.clone();
        *self.before.lock()? = Some(before);
        self.update(&conversation, &removed, &added).inspect_err(|_| {
            // The error that is returned is why; a backend that takes nothing back is named by the next change.
            let _ = self.restore(&conversation);
        })
    }

    fn commit(&self, proposal: &Arc<Proposal>, interrupt: &dyn Interrupt) -> Result<()> {
        *self.before.lock()? = None;
        let removed = self.shown(proposal.removed_after())?;
        self.update(&self.connection.begin(interrupt)?, &removed, &[])
    }

    fn rollback(&self, _proposal: &Arc<Proposal>, interrupt: &dyn Interrupt) -> Result<()> {
        self.restore(&self.connection.begin(interrupt)?)
    }

    fn hurry(&self, is_hurried: bool) {
        self.connection.hurry(is_hurried);
    }

    /// A backend that is gone has nothing to let go.
    fn leave(&self, interrupt: &dyn Interrupt) -> Result<()> {
        let conversation = self.connection.begin(interrupt)?;
        if self.connection.is_broken()? {
            return Ok(());
        }
        let all: Vec<u64> = self.table.lock()?.keys().copied().collect();
        self.update(&conversation, &all, &[])
    }
}
