//! A region with its memory.

use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};

use super::judge::Why;
use super::places::WindowLeases;
use super::protection::Pages;
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
    /// Maps a storage of its own for a region, which shows all of it.
    pub(super) fn map(entry: &RegionEntry) -> Result<Self> {
        let window = Window::whole(entry.range);
        Ok(Self::of(entry.clone(), Arc::new(Storage::new(&entry.desc, &window)?), window))
    }

    /// A region that shows part of a storage.
    pub(super) const fn of(entry: RegionEntry, storage: Arc<Storage>, window: Window) -> Self {
        Self { entry, storage, window }
    }

    /// The region that shows bytes of regions of the last map, which was cut, joined or moved from them.
    pub fn reshaped(entry: &RegionEntry, old: &[&Self]) -> Result<Self> {
        let refused = |why: &str| {
            let message = format!("cannot make {entry} of the memory that is there: {why}");
            Invalid::argument(message).about(Some(entry.base()), Some(entry.size()))
        };
        let windows = old.iter().map(|old| old.window_for(entry));
        let windows: Vec<Window> = windows.flatten().collect();
        let apart = || refused("its parts were mapped apart, so that their bytes are not those of one memory");
        let (first, window) = old.first().zip(windows.first()).ok_or_else(apart)?;
        let is_one = |old: &&Self| Arc::ptr_eq(&old.storage, &first.storage);
        let is_there = |other: &Window| other.shown() == window.shown();
        if windows.len() < old.len() || !old.iter().all(is_one) || !windows.iter().all(is_there) {
            return Err(apart().into());
        }
        if old.len() > 1 && !windows.iter().all(|other| other == window) {
            return Err(refused("its parts were moved to where they are, each for itself").into());
        }
        first.storage.check_pages(&entry.desc, window.shown())?;
        Ok(Self::of(entry.clone(), Arc::clone(&first.storage), *window))
    }

    /// The window on the bytes of another entry, of which it shows some.
    fn window_for(&self, entry: &RegionEntry) -> Option<Window> {
        let skipped = i128::from(entry.at).checked_sub(i128::from(self.entry.at))?;
        self.window.reshaped(skipped, entry.range, !entry.agrees_with(&self.entry))
    }

    /// The same region once more, for what keeps it under a lease.
    pub(super) fn share(&self) -> Self {
        Self::of(self.entry.clone(), Arc::clone(&self.storage), self.window)
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

    /// Sets the protection of its pages.
    ///
    /// # Safety
    /// No one touches the memory who relies on a protection that is taken away.
    pub(super) unsafe fn protect(&self, prot_flags: i32) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.storage.protect(self.window.shown(), prot_flags) }
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
