//! All mapped regions of a snapshot, laid out for look-up.

#![allow(clippy::disallowed_methods, reason = "as many as there are regions")]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::ByteValued;

use super::buffer::{Bytes, Output};
use super::fast_path::{DirectBytes, FastPath};
use super::host_index::HostIndex;
use super::protection::Need;
use super::region::MappedRegion;
use super::section::Section;
use super::tracking::Consumer;
use crate::model::address_index::AddressIndex;
use crate::model::error::Result;
use crate::model::ids::Incarnation;
use crate::model::int::u64_of;
use crate::model::pieces::{NextPieces, Pieces};
use crate::model::range::Range;
use crate::model::region_map::RegionEntry;
use crate::sys::once::Once;

/// The mapped regions of a snapshot.
#[derive(Debug)]
pub struct MappedRegions {
    incarnation: Incarnation,
    consumers: Arc<[Consumer]>,
    starts: AddressIndex,
    /// Beside the regions, index by index, so that a short access reads nothing else of them.
    fast_paths: Box<[FastPath]>,
    regions: Pieces<Arc<MappedRegion>>,
    /// Made when it is first asked for.
    hosts: Once<HostIndex>,
}

// SAFETY: the pointers stay valid for as long as `regions` keeps the mappings, and may be used from any thread.
unsafe impl Send for MappedRegions {}
// SAFETY: as above; the pointers are never changed.
unsafe impl Sync for MappedRegions {}

impl MappedRegions {
    /// Lays out regions that are sorted by base.
    ///
    /// `incarnation` tells one `map_memory` from the next.
    pub fn new(incarnation: Incarnation, regions: Vec<Arc<MappedRegion>>) -> Result<Self> {
        let mut next = Successor::new(incarnation, Arc::default(), regions.len());
        regions.into_iter().try_for_each(|region| next.push(region))?;
        Ok(next.finish())
    }

    /// The same regions, followed by these consumers; those that are new to a region find nothing in it yet.
    pub fn followed(&self, consumers: Arc<[Consumer]>) -> Result<Self> {
        let mut next = Successor::new(self.incarnation, Arc::clone(&consumers), self.regions.len());
        for region in self.regions.all() {
            let begun =
                consumers.iter().try_for_each(|consumer| region.storage().follow(region.desc(), *consumer, false));
            begun?;
            next.push(Arc::clone(region))?;
        }
        Ok(next.finish())
    }

    /// The consumers, who want to know which pages are written.
    pub fn consumers(&self) -> &[Consumer] {
        &self.consumers
    }

    /// Begins the map behind this one: as long, or a little longer.
    pub fn successor(&self) -> Successor {
        Successor::new(self.incarnation, Arc::clone(&self.consumers), self.regions.len())
    }

    /// The index of the first region at or behind `base`.
    pub fn index_of(&self, base: u64) -> usize {
        self.starts.lower_bound(base)
    }

    /// Which `map_memory` made it.
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The regions by ascending base.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = &MappedRegion> {
        self.regions.all().iter().map(|region| &**region)
    }

    /// The guest physical addresses at which the byte at a host address is seen, in any order.
    pub fn guest_addresses(&self, host: u64) -> impl Iterator<Item = u64> {
        let hosts = |region: &Arc<MappedRegion>| Range::at(u64_of(region.start().addr()), region.range().size());
        let index = self.hosts.get_or_init(|| HostIndex::new(self.regions.all().iter().map(hosts)));
        index.at(host).filter_map(|(region, offset)| self.regions.get(region)?.range().base().checked_add(offset))
    }

    /// The mapped region that holds `addr`.
    pub fn find(&self, addr: u64) -> Option<&MappedRegion> {
        self.find_shared(addr).map(|region| &**region)
    }

    /// The region at an index, counted by ascending base.
    pub fn get(&self, index: usize) -> Option<&MappedRegion> {
        self.regions.get(index).map(|region| &**region)
    }

    fn find_shared(&self, addr: u64) -> Option<&Arc<MappedRegion>> {
        let region = self.regions.get(self.starts.upper_bound(addr).checked_sub(1)?)?;
        region.range().contains(addr).then_some(region)
    }

    /// The mapped region that holds `addr`, for the participants of a change, who keep it until they have committed or rolled back,
    /// as their protocol says, and for a look of who waits for a value. Other verbs, which only see the memory of a snapshot and not its
    /// `Arc`, can't call it: they take leases.
    pub fn for_participant(self: &Arc<Self>, addr: u64) -> Option<&Arc<MappedRegion>> {
        self.find_shared(addr)
    }

    /// The mapped regions that share an address with `range`, by ascending base.
    pub fn overlapping(&self, range: Range) -> impl Iterator<Item = &MappedRegion> {
        // The region before the first that begins in the range may reach into it.
        let first = self.starts.upper_bound(range.base()).saturating_sub(1);
        let regions = self.regions.all().sublist(first..self.regions.len()).iter().map(|region| &**region);
        regions
            .skip_while(move |region| region.range().end() <= range.base())
            .take_while(move |region| region.range().overlaps(&range))
    }

    /// The other addresses at which bytes of a section are seen.
    pub fn aliases<'a>(&'a self, section: &'a Section<'_>) -> impl Iterator<Item = Range> + 'a {
        let storage = section.region().storage().id();
        let others = self.regions().filter(move |region| region.storage().id() == storage);
        let seen = others.map(|region| region.window().guest_of(section.part()));
        seen.filter(|seen| !seen.is_empty() && *seen != section.range())
    }

    /// Bytes that lie in one region and can be touched directly; `None` sends the access the long way.
    #[inline]
    fn direct(&self, addr: u64, size: usize, need: Need) -> Option<DirectBytes<'_>> {
        let (path, offset) = self.locate(addr, size, need)?;
        Some(DirectBytes { path, offset, size })
    }

    /// Two words come back in registers; three go through memory, which takes 6 ns more.
    #[inline]
    fn locate(&self, addr: u64, size: usize, need: Need) -> Option<(&FastPath, u64)> {
        let index = self.starts.upper_bound(addr).checked_sub(1)?;
        let (path, start) = (self.fast_paths.get(index)?, self.starts.get(index)?);
        let offset = addr.checked_sub(start)?;
        path.allows(offset, size, need).then_some((path, offset))
    }

    /// Bytes of one region that can be copied out directly, found before there is a place to copy them to.
    #[inline]
    pub fn direct_bytes(&self, addr: u64, size: usize) -> Option<DirectBytes<'_>> {
        self.direct(addr, size, Need::Read)
    }

    /// Fills the output from one region, or does nothing and gives `false`.
    #[inline]
    pub fn read_direct(&self, addr: u64, output: &Output<'_>) -> bool {
        self.direct_bytes(addr, output.size()).is_some_and(|bytes| bytes.copy_to(output, 0))
    }

    /// Whether [`write_direct`](Self::write_direct) will do.
    pub fn takes(&self, addr: u64, size: usize) -> bool {
        self.direct(addr, size, Need::Write).is_some()
    }

    /// Writes all bytes into one region, or does nothing and gives `false`.
    #[inline]
    pub fn write_direct(&self, addr: u64, input: Bytes<'_>) -> bool {
        self.direct(addr, input.size(), Need::Write).is_some_and(|bytes| bytes.copy_from(input))
    }

    /// An integer inside one region, untorn when naturally aligned; `None` when it can't be read directly.
    #[inline]
    pub fn read_int_direct<T: ByteValued>(&self, addr: u64) -> Option<T> {
        self.direct(addr, size_of::<T>(), Need::Read)?.read_int()
    }

    /// Loads a naturally aligned integer atomically; `None` sends it the long way.
    #[inline]
    pub fn load_direct(&self, addr: u64, size: usize, order: Ordering) -> Option<u64> {
        self.direct(addr, size, Need::Read).filter(|_| is_aligned(addr, size))?.load(order)
    }

    /// Stores a naturally aligned integer atomically; `false` sends it the long way.
    #[inline]
    pub fn store_direct(&self, addr: u64, size: usize, value: u64, order: Ordering) -> bool {
        let bytes = self.direct(addr, size, Need::Write).filter(|_| is_aligned(addr, size));
        bytes.is_some_and(|bytes| bytes.store(value, order))
    }

    /// Writes an integer inside one region, untorn when naturally aligned; `false` when it can't be written directly.
    #[inline]
    pub fn write_int_direct<T: ByteValued>(&self, addr: u64, value: T) -> bool {
        self.direct(addr, size_of::<T>(), Need::Write).is_some_and(|bytes| bytes.write_int(value))
    }
}

#[inline]
fn is_aligned(addr: u64, size: usize) -> bool {
    addr.is_multiple_of(u64_of(size))
}

/// The next map, laid out from what is kept of the last and what is new, by ascending base.
#[derive(Debug)]
pub struct Successor {
    incarnation: Incarnation,
    consumers: Arc<[Consumer]>,
    starts: Vec<u64>,
    fast_paths: Vec<FastPath>,
    regions: NextPieces<Arc<MappedRegion>>,
}

impl Successor {
    fn new(incarnation: Incarnation, consumers: Arc<[Consumer]>, size: usize) -> Self {
        // One more, for most changes insert one.
        let size = size.saturating_add(1);
        let (starts, fast_paths) = (Vec::with_capacity(size), Vec::with_capacity(size));
        Self { incarnation, consumers, starts, fast_paths, regions: NextPieces::default() }
    }

    /// Takes over regions of the last map as they are.
    pub fn keep(&mut self, last: &MappedRegions, range: std::ops::Range<usize>) {
        self.starts.extend_from_slice(last.starts.sorted().get(range.clone()).unwrap_or_default());
        self.fast_paths.extend_from_slice(last.fast_paths.get(range.clone()).unwrap_or_default());
        self.regions.keep(last.regions.all().sublist(range));
    }

    /// Takes over the memory of a region of the last map under another description of its range.
    pub fn describe(&mut self, region: &MappedRegion, entry: &RegionEntry) -> Result<()> {
        self.push(Arc::new(region.described(entry)?))
    }

    /// Adds a region.
    pub fn push(&mut self, region: Arc<MappedRegion>) -> Result<()> {
        // First: the fast path takes the bitmap over.
        let (storage, desc) = (region.storage(), region.desc());
        self.consumers.iter().try_for_each(|consumer| storage.follow(desc, *consumer, true))?;
        self.starts.push(region.desc().base());
        self.fast_paths.push(FastPath::of(&region));
        self.regions.push(region);
        Ok(())
    }

    /// The map.
    pub fn finish(self) -> MappedRegions {
        MappedRegions {
            incarnation: self.incarnation,
            consumers: self.consumers,
            starts: AddressIndex::new(self.starts.into()),
            fast_paths: self.fast_paths.into(),
            regions: self.regions.finish(),
            hosts: Once::new(),
        }
    }
}
