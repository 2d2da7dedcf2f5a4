//! Bytes with an identity of their own: one file or anonymous memory, mapped once through vm-memory and unmapped when the last user
//! lets go. Regions show it through windows; every offset and part here counts from the start of the storage.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::advice;
use super::dax_window::DaxWindow;
use super::dirty::{self, DirtyBitmap};
use super::extent::HoleFinder;
use super::gate::Gate;
use super::lazy::{Filling, PageSource};
use super::mmap::{self, MappedPages};
use super::places::Places;
use super::present::PresentPages;
use super::protection::{Pages, Protection};
use super::shadow::Shadow;
use super::source::{self, Backing};
use super::source_error;
use super::tracking::Tracking;
use crate::model::error::{Error, Result};
use crate::model::format::size as size_text;
use crate::model::ids::{Lineage, StorageId};
use crate::model::int::{u64_of, usize_of};
use crate::model::journal::{self, Level};
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE, SharedRegion};
use crate::model::source::UserReader;
use crate::sys::copy::{self, Reach};
use crate::sys::fork::Forked;
use crate::sys::host;
use crate::sys::memory::{self, Advice};
use crate::sys::once::Once;
use crate::sys::userfault::Userfault;

/// The memory that regions show. How it may be touched is said in `path.rs`.
#[derive(Debug)]
pub struct Storage {
    /// First, so that it is dropped while the pages are there, which the kernel watches.
    tracking: Tracking,
    id: StorageId,
    /// Where its bytes come from, when they were not there from the start.
    filling: Once<Filling>,
    /// Made when the first image needs it.
    lineage: Once<Lineage>,
    mapped: MappedPages,
    /// The first byte, which may lie behind the start of the pages.
    start: *mut u8,
    size: u64,
    /// The bytes between the start of a guest page and the first byte, at the addresses where it was seen first.
    lead: u64,
    /// Beside the storage, so that who only remembers it can ask for its leases.
    places: Arc<Places>,
    backing: Backing,
    gate: Gate,
    protection: Protection,
    /// Of huge pages, those that are known to be there.
    present: PresentPages,
    holes: HoleFinder,
    dax_window: Option<DaxWindow>,
    /// Copies that were given up because a userfaultfd handler did not answer, and that go on.
    pub(super) pending_copies: AtomicUsize,
}

// SAFETY: the pointer leads into the mapping, which is shared between threads by copies, atomics and the kernel only.
unsafe impl Send for Storage {}
// SAFETY: as above; the pointer is never changed.
unsafe impl Sync for Storage {}

impl Storage {
    /// Opens what the region asks for and maps it; nobody sees it yet.
    pub(super) fn new(region: &SharedRegion) -> Result<Self> {
        let backing = source::open(region)?;
        let mapped = mmap::map(region, &backing).map_err(|error| source::mmap_failed(region, &backing, &error))?;
        let storage = Self::made((backing, mapped), region.memory_size(), region.prot_flags, region.base())?;
        source::seal_mapped(region, &storage.backing)?;
        if storage.backing.is_foreign {
            // Others have it already, and may punch pages out.
            storage.gate.close();
        }
        storage.probe(region)?;
        Ok(storage)
    }

    /// Private copies of the pages of a shadow; `base` is the guest physical address at which offset 0 would be seen, as a number that wraps.
    pub(super) fn over(base: u64, shadow: &Arc<Shadow>) -> Result<io::Result<Self>> {
        let (backing, size) = (source::copies_of(shadow), shadow.whole().size());
        match mmap::map_copies(&backing, size) {
            Ok(mapped) => Self::made((backing, mapped), size, PROT_READ | PROT_WRITE, base).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    fn made((backing, mapped): (Backing, MappedPages), size: u64, prot_flags: i32, base: u64) -> Result<Self> {
        let start = mapped.mmap.as_ptr().wrapping_add(usize_of(backing.lead()));
        let dax_window = mapped.own.filter(|_| backing.is_window).map(DaxWindow::new);
        let huge_pages = if backing.is_huge { usize_of(size.div_ceil(backing.page_size)) } else { 0 };
        Ok(Self {
            tracking: Tracking::default(),
            id: StorageId::unique(),
            filling: Once::new(),
            lineage: Once::new(),
            present: PresentPages::new(huge_pages)?,
            holes: HoleFinder::new(&backing, size)?,
            mapped,
            start,
            size,
            lead: base % dirty::PAGE,
            places: Arc::new(Places::new()),
            backing,
            gate: Gate::default(),
            protection: Protection::new(Range::between(0, size), prot_flags),
            dax_window,
            pending_copies: AtomicUsize::new(0),
        })
    }

    /// Adopted memory may be `VM_PFNMAP` or `memfd_secret`, which `process_vm_readv(2)` cannot copy.
    fn probe(&self, region: &SharedRegion) -> Result<()> {
        let is_readable = region.prot_flags & PROT_READ != 0;
        // What was judged to be a sealed memfd is neither, and a look would bring a page in.
        let is_memfd = self.backing.judged.is_none() && !self.backing.is_trusted && self.backing.buffer.is_none();
        let is_mapped = region.source.is_adopted() && region.source.reader.is_none();
        if !is_mapped || !is_readable || is_memfd || self.backing.has_fault_handler {
            return Ok(());
        }
        match copy::probe(self.start.expose_provenance()) {
            Reach::Guarded => Ok(()),
            Reach::Special => Err(source_error::special(region)),
            Reach::None(error) => {
                Err(source_error::failed(region, "reading its first byte (process_vm_readv) failed", &error))
            }
        }
    }

    /// The identity of the bytes.
    pub const fn id(&self) -> StorageId {
        self.id
    }

    /// The identity of the bytes in images.
    pub fn lineage(&self) -> Lineage {
        *self.lineage.get_or_init(Lineage::unique)
    }

    /// Makes them the bytes that an image has; for memory that nobody has seen.
    pub fn descend_from(&self, lineage: Lineage) {
        self.lineage.get_or_init(|| lineage);
    }

    /// The leases on it.
    pub(super) const fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Binds and advises a part as `new` asks, where that differs from what `old` asked.
    pub(super) fn advise(&self, part: Range, old: Option<&SharedRegion>, new: &SharedRegion) -> Result<()> {
        if self.mapped.own.is_none() {
            return Ok(());
        }
        advice::apply(self.pages_of(part), self.backing.is_huge, old, new)
    }

    /// Brings all pages of a part in and keeps them in memory.
    pub(super) fn lock(&self, part: Range, region: &SharedRegion) -> Result<()> {
        advice::lock(self.pages_of(part), region)
    }

    /// All of it.
    pub const fn whole(&self) -> Range {
        Range::between(0, self.size)
    }

    /// All pages; of a buffer, the bytes from the start of its first page on.
    fn pages(&self) -> Pages {
        let mapped = (self.mapped.mmap.as_ptr(), self.mapped.mmap.size());
        self.own_pages().unwrap_or(mapped)
    }

    /// The whole pages that a part lies in.
    pub(super) fn pages_of(&self, part: Range) -> Pages {
        let (start, size) = self.pages();
        // Those of a buffer count as pages of one byte, for it begins and ends anywhere.
        let page_size = usize_of(self.backing.page_size.max(host::page_size()));
        let (first, end) = (self.in_pages(part.base()), self.in_pages(part.end()));
        let first = first.abs_diff(first.checked_rem(page_size).unwrap_or_default());
        let end = end.checked_next_multiple_of(page_size).unwrap_or(size).min(size);
        (start.wrapping_add(first), end.abs_diff(first))
    }

    /// Refuses a window that would cut a page.
    pub(super) fn check_pages(&self, region: &SharedRegion, part: Range) -> Result<()> {
        if self.is_whole(part) {
            return Ok(());
        }
        Err(Error::Misaligned {
            message: format!(
                "{region} would cut a page of its memory: pages have {}",
                size_text(self.backing.page_size)
            ),
            address: Some(region.base()),
            size: Some(region.size()),
            region: Some(Arc::clone(region)),
        })
    }

    /// Whether a part begins and ends where a page does, or the storage itself.
    pub(super) fn is_whole(&self, part: Range) -> bool {
        [part.base(), part.end()].into_iter().all(|at| at == 0 || at == self.size || self.rest_of_page(at) == 0)
    }

    /// The bytes from a place on up to the next page.
    pub(super) fn rest_of_page(&self, offset: u64) -> u64 {
        let page_size = self.backing.page_size;
        let in_page = u64_of(self.in_pages(offset)).checked_rem(page_size).unwrap_or_default();
        if in_page == 0 { 0 } else { page_size.abs_diff(in_page) }
    }

    fn numbers_of_pages(&self, part: Range) -> std::ops::Range<usize> {
        let number = |end: u64| usize_of(end.checked_div(self.backing.page_size).unwrap_or_default());
        number(part.base())..number(part.end().saturating_add(self.backing.page_size).saturating_sub(1))
    }

    /// Whether huge pages are known to be there.
    pub(super) fn is_present(&self, part: Range) -> bool {
        self.present.has(self.numbers_of_pages(part))
    }

    /// Brings the pages of a part in; of huge ones it is known from then on that they are there.
    pub(super) fn populate(&self, part: Range) -> io::Result<()> {
        let is_writable = self.protection.has(part, PROT_WRITE);
        let (host, size) = self.pages_of(part);
        memory::advise(host, size, if is_writable { Advice::PopulateWrite } else { Advice::PopulateRead })?;
        // A private page that was only read is still the file's: the first write may find no page for its copy.
        if is_writable || !self.backing.is_private() || self.backing.file.is_none() {
            self.present.mark(self.numbers_of_pages(part));
        }
        Ok(())
    }

    /// The distance of a byte from the start of the pages.
    fn in_pages(&self, offset: u64) -> usize {
        self.host(offset).addr().abs_diff(self.pages().0.addr())
    }

    /// The host address of a byte.
    #[inline]
    pub(super) fn host(&self, offset: u64) -> *mut u8 {
        self.start.wrapping_add(usize_of(offset))
    }

    /// Bytes a page.
    pub const fn page_size(&self) -> u64 {
        self.backing.page_size
    }

    /// The offset in its file of a byte; `None` for memory without a file.
    pub(super) fn in_file(&self, offset: u64) -> Option<u64> {
        self.backing.file.as_ref().filter(|_| self.backing.shadow.is_none())?;
        self.backing.offset.checked_add(offset)
    }

    /// Whether a copy may wait for a disk, or for whoever answers its faults.
    pub fn may_block(&self) -> bool {
        self.backing.may_block || self.filling().is_some()
    }

    /// Makes all its bytes come from a source, from a place on, for memory that nobody has touched; `false` where its pages can't.
    pub fn fill_from(&self, userfault: &Arc<Userfault>, source: &Arc<dyn PageSource>, at: u64) -> Result<bool> {
        let Some(pages) = self.own_pages().filter(|_| !self.backing.is_huge) else { return Ok(false) };
        let filling = Filling::new(Arc::clone(userfault), Arc::clone(source), at, pages, self.backing.is_dontfork)?;
        self.filling.get_or_init(|| filling);
        Ok(true)
    }

    /// The filling of it, also when that is over.
    pub fn any_filling(&self) -> Option<&Filling> {
        self.filling.get()
    }

    /// The filling of it, while it goes on.
    pub(super) fn filling(&self) -> Option<&Filling> {
        self.any_filling().filter(|filling| !filling.is_over())
    }

    /// Brings a part in, where it is not there yet.
    pub(super) fn ensure(&self, part: Range) -> Result<()> {
        self.filling().map_or(Ok(()), |filling| filling.ensure(part))
    }

    /// The backing that was opened.
    pub(super) const fn backing(&self) -> &Backing {
        &self.backing
    }

    /// The reader of its bytes, where no host address has them.
    pub fn reader(&self) -> Option<&UserReader> {
        self.backing.reader.as_ref()
    }

    /// The first bytes of a part that are there, up to the next that are not; none at its end if there are none.
    pub(super) fn first_run(&self, part: Range) -> Range {
        let Some(UserReader { reader, at }) = self.reader() else { return part };
        let run = reader.first_run(Range::at(at.saturating_add(part.base()), part.size()));
        Range::between(run.base().saturating_sub(*at), run.end().saturating_sub(*at))
    }

    /// The bytes of a part that are there, run by run.
    pub(super) fn runs(&self, part: Range) -> impl Iterator<Item = Range> {
        let mut left = part;
        std::iter::from_fn(move || {
            let run = self.first_run(left);
            left = Range::between(run.end(), left.end());
            (!run.is_empty()).then_some(run)
        })
    }

    pub(super) const fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The shadow of which it has private copies.
    pub fn shadow(&self) -> Option<&Arc<Shadow>> {
        self.backing.shadow.as_ref()
    }

    /// The DAX window that it is, if it is one.
    pub(super) const fn dax_window(&self) -> Option<&DaxWindow> {
        self.dax_window.as_ref()
    }

    /// Whether nobody else was given its file.
    pub(super) fn is_unexported(&self) -> bool {
        self.gate.is_open()
    }

    /// The file. Others can punch and truncate it from here on as they like, so that
    /// memory that was direct until it was exported no longer is.
    ///
    /// Waits for direct copies in flight, so it must be called without the interpreter's lock.
    pub(super) fn export_file(&self) -> Option<Arc<File>> {
        // A shadow's is for nobody else: what is written here is not in it.
        let file = self.backing.file.as_ref().filter(|_| self.backing.shadow.is_none())?;
        if self.page_size() > host::page_size() && self.gate.is_open() {
            let text =
                || format!("{} of huge pages are guarded from here on: others have the file", size_text(self.size));
            journal::note(Level::Info, text);
        }
        // Who has the descriptor would read zeroes: what can't be had stays here.
        self.ensure(self.whole()).ok()?;
        // Before the descriptor is out: a direct copy under way must end before anyone can punch.
        self.gate.close();
        Some(Arc::clone(file))
    }

    /// The holes of its file.
    pub(super) const fn holes(&self) -> &HoleFinder {
        &self.holes
    }

    /// The consumers, who want to know which pages are written.
    pub(super) const fn tracking(&self) -> &Tracking {
        &self.tracking
    }

    /// A clean bitmap of it, whose pages are those of the guest that saw it first.
    pub(super) fn new_bitmap(&self) -> Result<DirtyBitmap> {
        DirtyBitmap::new(self.lead, self.size)
    }

    /// The pages, where this process mapped them.
    pub(super) fn own_pages(&self) -> Option<Pages> {
        self.mapped.own.map(|own| own.pages())
    }

    /// The protection that the windows on it allow.
    pub(super) const fn protection(&self) -> &Protection {
        &self.protection
    }

    /// Whether the pages of a part have the protection bits; a lease keeps others from taking any away.
    pub fn has_protection(&self, part: Range, bits: i32) -> bool {
        self.protection.has(part, bits)
    }

    /// The whole pages of a part that are ours to protect; those of a buffer are its owner's.
    pub(super) fn own_pages_of(&self, part: Range) -> Option<Pages> {
        self.mapped.own.map(|_| self.pages_of(part))
    }

    /// Runs `work` while the pages of a part can be read and written, and restores their protection.
    pub(super) fn with_write_access<T>(&self, part: Range, work: impl FnOnce() -> T) -> Result<io::Result<T>, Forked> {
        if let Some(buffer) = &self.backing.buffer {
            let what = "its buffer is read-only";
            let refused = || io::Error::new(io::ErrorKind::PermissionDenied, what);
            return Ok(if buffer.is_writable { Ok(work()) } else { Err(refused()) });
        }
        if self.backing.reader.is_some() {
            return Ok(Err(io::Error::new(io::ErrorKind::PermissionDenied, "its bytes are those of a dump")));
        }
        if self.dax_window.is_some() {
            let what = "what a DAX window shows has its own protection";
            return Ok(Err(io::Error::new(io::ErrorKind::PermissionDenied, what)));
        }
        // SAFETY: pages of this mapping.
        unsafe { self.protection.lifted(part, |part| self.pages_of(part), work) }
    }
}
