//! All mapped regions of a snapshot, laid out for look-up.

use std::sync::{Arc, OnceLock};

use vm_memory::{ByteValued, GuestRegionCollection};

use super::buffer::{Bytes, Output};
use super::dirty::DirtyBitmap;
use super::region::MappedRegion;
use super::section;
use crate::model::address_index::AddressIndex;
use crate::model::ids::Incarnation;
use crate::model::int::u64_of;
use crate::model::int::usize_of;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE};

/// What an access needs of the memory that it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `PROT_READ`.
    Read,
    /// `PROT_WRITE`.
    Write,
    /// No protection: a forced write, an address.
    Any,
}

impl Need {
    /// The protection bits that must be there.
    #[must_use]
    pub const fn bits(self) -> i32 {
        match self {
            Self::Read => PROT_READ,
            Self::Write => PROT_WRITE,
            Self::Any => 0,
        }
    }
}

/// What the fast path needs of a region, without a pointer to chase.
#[derive(Clone, Copy, Debug)]
struct FastPath {
    size: u64,
    host: *mut u8,
    /// The protections under which it can be touched directly for as long as it is mapped; 0 for guarded memory.
    direct: i32,
    /// Where writes are marked; null when nobody asks.
    dirty: *const DirtyBitmap,
}

/// The mapped regions of a snapshot.
#[derive(Debug)]
pub struct MappedRegions {
    incarnation: Incarnation,
    is_tracked: bool,
    starts: AddressIndex,
    hot: Box<[FastPath]>,
    regions: Box<[Arc<MappedRegion>]>,
    collection: OnceLock<GuestRegionCollection<MappedRegion>>,
}

// SAFETY: the pointers stay valid for as long as `regions` keeps the mappings, and may be used from any thread.
unsafe impl Send for MappedRegions {}
// SAFETY: as above; the pointers are never changed.
unsafe impl Sync for MappedRegions {}

impl MappedRegions {
    /// Lays out regions that are sorted by base, and marks our own writes to them or not.
    ///
    /// `incarnation` tells one `map_memory` from the next.
    #[must_use]
    pub fn new(incarnation: Incarnation, is_tracked: bool, regions: Vec<Arc<MappedRegion>>) -> Self {
        let mut next = Successor::new(incarnation, is_tracked, regions.len());
        regions.into_iter().for_each(|region| next.push(region));
        next.finish()
    }

    /// Begins the map behind this one: as long, or a little longer.
    #[must_use]
    pub fn successor(&self) -> Successor {
        Successor::new(self.incarnation, self.is_tracked, self.regions.len().saturating_add(1))
    }

    /// The index of the first region at or behind `base`.
    #[must_use]
    pub fn index_of(&self, base: u64) -> usize {
        self.starts.lower_bound(base)
    }

    /// Which `map_memory` made it.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whether our own writes are marked.
    #[must_use]
    pub const fn is_tracked(&self) -> bool {
        self.is_tracked
    }

    /// The regions by ascending base.
    #[must_use]
    pub fn regions(&self) -> &[Arc<MappedRegion>] {
        &self.regions
    }

    /// The same regions as vm-memory's collection, for Rust users and vhost.
    #[must_use]
    pub fn collection(&self) -> &GuestRegionCollection<MappedRegion> {
        let collect = || GuestRegionCollection::from_arc_regions(self.regions.to_vec()).unwrap_or_default();
        self.collection.get_or_init(collect)
    }

    /// The mapped region that holds `addr`.
    #[must_use]
    pub fn find(&self, addr: u64) -> Option<&Arc<MappedRegion>> {
        let region = self.regions.get(self.starts.upper_bound(addr).checked_sub(1)?)?;
        (addr < region.desc.end()).then_some(region)
    }

    /// The mapped regions that share an address with `range`, by ascending base.
    pub fn overlapping(&self, range: Range) -> impl Iterator<Item = &Arc<MappedRegion>> {
        let first = self.starts.upper_bound(range.base()).saturating_sub(1);
        let regions = self.regions.get(first..).unwrap_or_default().iter();
        regions
            .skip_while(move |region| region.desc.end() <= range.base())
            .take_while(move |region| region.desc.range.overlaps(&range))
    }

    /// Bytes that lie in one region and can be touched directly; `None` sends the access the long way.
    #[inline]
    fn direct(&self, addr: u64, size: usize, need: Need) -> Option<Direct<'_>> {
        let index = self.starts.upper_bound(addr).checked_sub(1)?;
        let (hot, start) = (self.hot.get(index)?, self.starts.get(index)?);
        let offset = addr.checked_sub(start)?;
        let fits = u64_of(size) <= hot.size.checked_sub(offset)?;
        (fits && hot.direct & need.bits() != 0).then_some(Direct { hot, offset })
    }

    /// Bytes of one region that can be copied out directly, found before there is a place to copy them to.
    #[inline]
    #[must_use]
    pub fn source(&self, addr: u64, size: usize) -> Option<Source<'_>> {
        Some(Source { direct: self.direct(addr, size, Need::Read)?, size })
    }

    /// Fills the output from one region, or does nothing and gives `false`.
    #[inline]
    pub fn read_direct(&self, addr: u64, output: &Output<'_>) -> bool {
        self.source(addr, output.size()).is_some_and(|source| source.copy_to(output))
    }

    /// Whether [`write_direct`](Self::write_direct) will do.
    #[must_use]
    pub fn takes(&self, addr: u64, size: usize) -> bool {
        self.direct(addr, size, Need::Write).is_some()
    }

    /// Writes all bytes into one region, or does nothing and gives `false`.
    #[inline]
    pub fn write_direct(&self, addr: u64, bytes: Bytes<'_>) -> bool {
        let size = bytes.size();
        let (Some(direct), Ok(from)) = (self.direct(addr, size, Need::Write), bytes.part(0, size)) else {
            return false;
        };
        // SAFETY: the bytes lie in one mapping, which can't fault, and the input has as many.
        unsafe { std::ptr::copy(from, direct.host(), size) };
        direct.mark_dirty(size);
        true
    }

    /// An integer inside one region, untorn when naturally aligned; `None` when it can't be read directly.
    #[inline]
    #[must_use]
    pub fn load_direct<T: ByteValued>(&self, addr: u64) -> Option<T> {
        let direct = self.direct(addr, size_of::<T>(), Need::Read)?;
        // SAFETY: the bytes lie in one mapping, which can't fault.
        Some(unsafe { section::load_value(direct.host().cast()) })
    }

    /// Writes an integer inside one region, untorn when naturally aligned; `false` when it can't be written directly.
    #[inline]
    pub fn store_direct<T: ByteValued>(&self, addr: u64, value: T) -> bool {
        let Some(direct) = self.direct(addr, size_of::<T>(), Need::Write) else { return false };
        // SAFETY: the bytes lie in one mapping, which can't fault.
        unsafe { section::store_value(direct.host().cast(), value) };
        direct.mark_dirty(size_of::<T>());
        true
    }
}

/// The next map, laid out from what is kept of the last and what is new, by ascending base.
#[derive(Debug)]
pub struct Successor {
    incarnation: Incarnation,
    is_tracked: bool,
    starts: Vec<u64>,
    hot: Vec<FastPath>,
    regions: Vec<Arc<MappedRegion>>,
}

impl Successor {
    fn new(incarnation: Incarnation, is_tracked: bool, size: usize) -> Self {
        let (starts, hot, regions) = (Vec::with_capacity(size), Vec::with_capacity(size), Vec::with_capacity(size));
        Self { incarnation, is_tracked, starts, hot, regions }
    }

    /// Takes over regions of the last map as they are.
    pub fn keep(&mut self, last: &MappedRegions, range: std::ops::Range<usize>) {
        self.starts.extend_from_slice(last.starts.sorted().get(range.clone()).unwrap_or_default());
        self.hot.extend_from_slice(last.hot.get(range.clone()).unwrap_or_default());
        self.regions.extend_from_slice(last.regions.get(range).unwrap_or_default());
    }

    /// Adds a region.
    pub fn push(&mut self, region: Arc<MappedRegion>) {
        let mapping = &region.mapping;
        mapping.track(self.is_tracked);
        self.starts.push(region.desc.base());
        self.hot.push(FastPath {
            size: region.desc.size(),
            host: mapping.host(0),
            direct: if mapping.is_always_direct() { region.desc.prot_flags } else { 0 },
            dirty: mapping.dirty().map_or(std::ptr::null(), std::ptr::from_ref),
        });
        self.regions.push(region);
    }

    /// The map.
    #[must_use]
    pub fn finish(self) -> MappedRegions {
        MappedRegions {
            incarnation: self.incarnation,
            is_tracked: self.is_tracked,
            starts: AddressIndex::new(self.starts.into()),
            hot: self.hot.into(),
            regions: self.regions.into(),
            collection: OnceLock::new(),
        }
    }
}

/// Directly copied bytes of one region.
#[derive(Debug)]
pub struct Source<'a> {
    direct: Direct<'a>,
    size: usize,
}

impl Source<'_> {
    /// The number of bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64_of(self.size)
    }

    /// Copies them to an output of the same size; `false`, and nothing is done, when it is shorter.
    #[inline]
    pub fn copy_to(&self, output: &Output<'_>) -> bool {
        let Ok(to) = output.part(0, self.size) else { return false };
        // SAFETY: the bytes lie in one mapping, which can't fault, and the output has as many.
        unsafe { std::ptr::copy(self.direct.host(), to, self.size) };
        true
    }
}

/// Where directly copied bytes lie.
#[derive(Debug)]
struct Direct<'a> {
    hot: &'a FastPath,
    offset: u64,
}

impl Direct<'_> {
    #[inline]
    fn host(&self) -> *mut u8 {
        self.hot.host.wrapping_add(usize_of(self.offset))
    }

    /// Marks bytes that were written before this call.
    #[inline]
    fn mark_dirty(&self, size: usize) {
        // SAFETY: null, or the bitmap of a mapping that the map keeps.
        if let Some(dirty) = unsafe { self.hot.dirty.as_ref() } {
            dirty.mark(self.offset, u64_of(size));
        }
    }
}
