//! A region with its memory.

use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};

use super::judge::Why;
use super::kept::KeptMemory;
use super::places::WindowLeases;
use super::protection::Pages;
use super::source_error::failed;
use super::storage::Storage;
use super::window::Window;
use crate::model::error::Result;
use crate::model::ids::RegionId;
use crate::model::int::usize_of;
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionEntry;
use crate::sys::fork::Forked;
use crate::sys::host;
use crate::sys::kvm_slot::StableBytes;

/// A region of a mapped space.
///
/// Verbs see it as long as they hold the snapshot that it is in. Longer use needs a `Lease` on it,
/// a `WeakRegion`, which keeps nothing, or the `Arc` that the participants of a change hold by protocol.
#[derive(Debug)]
pub struct MappedRegion {
    entry: RegionEntry,
    storage: Arc<Storage>,
    window: Window,
}

impl MappedRegion {
    /// Maps a storage for a region and for others that are to show bytes of it, which all together are described by `whole`.
    pub(super) fn map(entry: &RegionEntry, whole: &RegionEntry) -> Result<Self> {
        let window = Window::new(entry.range, entry.at.abs_diff(whole.at));
        let region = Self::of(entry.clone(), Arc::new(Storage::new(&whole.desc)?), window);
        region.show()?;
        Ok(region)
    }

    /// Lets the bytes be seen of memory that is in no map yet.
    pub fn show(&self) -> Result<()> {
        self.storage.places().show(self.window.place(), self.window.shown());
        // SAFETY: nothing is taken away.
        let allowed = unsafe { self.allow(&[(self.window.shown(), self.desc().prot_flags)]) };
        self.grant();
        allowed.map_err(|error| failed(self.desc(), "mprotect failed", &error))
    }

    /// A region that shows part of a storage.
    pub(super) const fn of(entry: RegionEntry, storage: Arc<Storage>, window: Window) -> Self {
        Self { entry, storage, window }
    }

    /// The region that shows bytes of other regions, or of a part that is kept.
    pub fn showing(entry: &RegionEntry, others: &[&Self], kept: Option<&KeptMemory>) -> Result<Self> {
        let refused = |why: &str| {
            let message = format!("cannot make {entry} of the memory that is there: {why}");
            Invalid::argument(message).about(Some(entry.base()), Some(entry.size()))
        };
        let there = others.iter().map(|other| (&other.storage, other.offset_of(entry)));
        let mut there = there.chain(kept.map(|kept| (kept.storage(), kept.offset_of(entry))));
        let apart = || refused("its parts were mapped apart, so that their bytes are not those of one memory");
        let (storage, at) = there.next().ok_or_else(|| refused("it is gone"))?;
        let at = at.filter(|at| storage.whole().covers(&Range::at(*at, entry.size()))).ok_or_else(apart)?;
        if !there.all(|(other, offset)| Arc::ptr_eq(other, storage) && offset == Some(at)) {
            return Err(apart().into());
        }
        // Where bytes keep their addresses they are seen through the same place; of parts that were moved there apart, the first one's.
        let first = others.iter().find(|other| entry.agrees_with(&other.entry)).map(|other| other.window);
        let window = first.map_or_else(|| Window::new(entry.range, at), |first| first.beside(entry.range, at));
        storage.check_pages(&entry.desc, window.shown())?;
        Ok(Self::of(entry.clone(), Arc::clone(storage), window))
    }

    /// Whether it shows a part that is kept by somebody, and does not bring its memory.
    pub fn is_on_kept_part(&self) -> bool {
        self.desc().window.as_ref().is_some_and(|window| window.kept().is_some())
    }

    /// The offset in the storage of the first byte of an entry that shows bytes of the same insertion.
    fn offset_of(&self, entry: &RegionEntry) -> Option<u64> {
        let skipped = i128::from(entry.at).checked_sub(i128::from(self.entry.at))?;
        u64::try_from(i128::from(self.window.shown().base()).checked_add(skipped)?).ok()
    }

    /// The same region once more, for what keeps it under a lease.
    pub(super) fn share(&self) -> Self {
        Self::of(self.entry.clone(), Arc::clone(&self.storage), self.window)
    }

    /// The memory of a run of regions that begins in this one, for who shows all of it; described as this one is.
    pub fn run(&self, guest: Range) -> Option<Self> {
        let skipped = guest.base().checked_sub(self.window.guest().base())?;
        let at = self.window.shown().base().checked_add(skipped)?;
        Some(Self::of(self.entry.clone(), Arc::clone(&self.storage), self.window.beside(guest, at)))
    }

    /// The same memory under another description of its range.
    pub(super) fn described(&self, entry: &RegionEntry) -> Result<Self> {
        if entry.range != self.desc().range {
            let message = format!("{} can't have the memory of {}, which is another range", entry.desc, self.desc());
            return Err(Invalid::at(message, Some(entry.base()), Some(entry.size())).into());
        }
        Ok(Self { entry: entry.clone(), ..self.share() })
    }

    /// The same memory without those ends that are parts of a page, of the guest's or of the host's; `None` when no page is whole.
    pub fn whole_pages(&self) -> Option<Self> {
        let (page, range) = (host::page_size(), self.range());
        let first = range.base().checked_next_multiple_of(page)?;
        let whole = Range::between(first, range.end() & page.wrapping_neg());
        let inside = Self { window: self.window.narrowed(whole), ..self.share() };
        (!whole.is_empty() && inside.start().addr().is_multiple_of(usize_of(page))).then_some(inside)
    }

    /// The region, as it is described.
    pub const fn entry(&self) -> &RegionEntry {
        &self.entry
    }

    /// Which region of the space it is; a replacement of the description keeps it.
    pub const fn id(&self) -> RegionId {
        self.entry.id
    }

    /// Whether it is the memory of a region under that description.
    pub fn is(&self, entry: &RegionEntry) -> bool {
        self.id() == entry.id && Arc::ptr_eq(self.desc(), &entry.desc)
    }

    /// The description.
    pub const fn desc(&self) -> &SharedRegion {
        &self.entry.desc
    }

    /// The bytes; a replacement of the description keeps them.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    pub(super) const fn shared_storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// The bytes, not kept mapped.
    pub fn weak_storage(&self) -> Weak<Storage> {
        Arc::downgrade(&self.storage)
    }

    /// The part of the bytes that it shows, and its addresses.
    pub const fn window(&self) -> Window {
        self.window
    }

    /// Its leases.
    pub fn leases(&self) -> WindowLeases<'_> {
        self.storage.places().through(self.window)
    }

    /// The host address of its first byte.
    pub fn start(&self) -> *mut u8 {
        self.host(self.window.shown())
    }

    /// The host address of the first byte of a part of the storage.
    pub(super) fn host(&self, part: Range) -> *mut u8 {
        self.storage.host(part.base())
    }

    /// The whole pages that it lies in.
    pub(super) fn pages(&self) -> Pages {
        self.storage.pages_of(self.window.shown())
    }

    /// Binds and advises its pages as `new` asks, where that differs from what `old` asked.
    pub(super) fn advise(&self, old: Option<&SharedRegion>, new: &SharedRegion) -> Result<()> {
        self.storage.advise(self.window.shown(), old, new)
    }

    /// The protection that is allowed at its place, part by part.
    pub(super) fn allowed(&self) -> Result<Vec<(Range, i32)>, Forked> {
        self.storage.protection().allowed(self.window.place(), self.window.shown())
    }

    /// Allows something at its place, in parts of its bytes; the pages follow, as far as no other window needs more.
    ///
    /// # Safety
    /// No one touches the memory through the place who relies on a protection that is taken away.
    pub(super) unsafe fn allow(&self, parts: &[(Range, i32)]) -> io::Result<()> {
        let (place, shown) = (self.window.place(), self.window.shown());
        // SAFETY: pages of the storage; the rest is the caller's promise.
        unsafe { self.storage.protection().allow(place, shown, parts, |part| self.storage.own_pages_of(part)) }
    }

    /// Whether all of a range has the protection bits, as seen here; in a DAX window that is up to the files.
    pub(super) fn allows(&self, range: Range, bits: i32) -> Result<bool, Forked> {
        let part = self.part(range);
        if let Some(window) = self.storage.dax_window() {
            return Ok(window.first_denied(part, bits)?.is_none());
        }
        self.storage.protection().grants(self.window.place(), part, bits)
    }

    /// Lets leases rely on the protection that is described, which pages allow by now.
    pub(super) fn grant(&self) {
        let shown = self.window.shown();
        // Refused only in a forked child, which changes nothing.
        let _ = self.storage.protection().grant(self.window.place(), shown, &[(shown, self.desc().prot_flags)]);
    }

    /// The same for pages that were just mapped, with those that it may grow into.
    pub(super) fn advise_all(&self) -> Result<()> {
        let grows = self.desc().options.max_size.is_some();
        let part = if grows { self.storage.whole() } else { self.window.shown() };
        self.storage.advise(part, None, self.desc())
    }

    /// The offset in its file at which it begins; `None` for memory without a file.
    pub fn start_in_file(&self) -> Option<u64> {
        self.storage.in_file(self.window.shown().base())
    }

    /// The file and the offset at which it begins in it, exported as by [`Storage::export_file`].
    pub fn export_file(&self) -> Option<(Arc<File>, u64)> {
        self.storage.export_file().zip(self.start_in_file())
    }

    /// The guest physical addresses.
    pub fn range(&self) -> Range {
        self.desc().range
    }

    /// The addresses at which it is seen: all of its own, or those of the whole pages.
    pub const fn shown_at(&self) -> Range {
        self.window.guest()
    }

    /// The part of the storage that it shows at those addresses of a range that are its own.
    pub fn part(&self, range: Range) -> Range {
        self.window.part(range)
    }

    /// Why accesses go through the kernel; `None` when they don't.
    pub fn guarded_because(&self) -> Option<Why> {
        self.storage.guarded_because(self.window.shown())
    }

    /// The same for messages: `, for its file ...`, or nothing.
    pub fn why_guarded(&self) -> String {
        self.guarded_because().map_or_else(String::new, |why| format!(", for {why}"))
    }

    /// The first address in part of the region whose protection lacks some of the bits; in a DAX window it is that of the files.
    pub fn first_denied(&self, range: Range, bits: i32) -> Result<Option<u64>, Forked> {
        match self.storage.dax_window() {
            Some(window) if bits != 0 => {
                let offset = window.first_denied(self.part(range), bits)?;
                Ok(offset.map(|offset| self.window.guest_of(Range::at(offset, 1)).base()))
            }
            _ => Ok((self.desc().prot_flags & bits != bits).then_some(range.base())),
        }
    }

    /// The first address in part of the region whose byte a dump has not.
    pub(super) fn first_lacking(&self, range: Range) -> Option<u64> {
        let part = self.part(range);
        let run = self.storage.first_run(part);
        let lacking = if run.base() > part.base() { part.base() } else { run.end() };
        (lacking < part.end()).then(|| self.window.guest_of(Range::at(lacking, 1)).base())
    }

    /// In a DAX window, the protection of the file that is mapped at an address.
    pub(super) fn window_prot_flags(&self, address: u64) -> Option<Option<i32>> {
        let offset = self.part(Range::at(address, 1)).base();
        Some(self.storage.dax_window()?.prot_flags(offset).unwrap_or_default())
    }
}

// SAFETY: the mapping is unmapped when the last region that shares it is dropped, and a buffer is kept by its backing. What a DAX window
// maps over a part of itself is the same bytes to whoever looks.
unsafe impl StableBytes for MappedRegion {
    fn bytes(&self) -> *mut [u8] {
        std::ptr::slice_from_raw_parts_mut(self.start(), usize_of(self.window.shown().size()))
    }
}
