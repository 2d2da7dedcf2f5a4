//! Windows: regions that show bytes which another region brought.

use std::collections::HashMap;
use std::sync::Arc;

use super::allocator::without;
use super::cut::{check_memory, part_of, resized};
use super::error::{Error, Result};
use super::format::hex;
use super::ids::Origin;
use super::invalid::Invalid;
use super::range::{Range, joined};
use super::region::{Region, RegionType, SharedRegion, ShownBytes, WindowSource};
use super::region_map::{RegionEntry, RegionMap};
use super::source::Part;

/// Where bytes lie: the insertion that they came with, and the offset in what that brought.
type Bytes = (Origin, u64);

/// A window at a base on `size` bytes of a region, or all from `offset` on; its name and protection are the caller's to change.
pub fn alias(base: u64, region: &SharedRegion, offset: u64, size: Option<u64>) -> Result<Region> {
    check_memory(region, "alias")?;
    let part = part_of(region, inside(region, offset, size)?)?;
    window_on(base, &part, window_of(region, offset))
}

/// The addresses of `size` bytes of a region, or of all, from `offset` on.
pub fn inside(region: &Region, offset: u64, size: Option<u64>) -> Result<Range> {
    let rest = region.range.skip(offset);
    let size = size.unwrap_or(rest.size());
    if size > 0 && size <= rest.size() {
        return Ok(rest.take(size));
    }
    let (all, asked, at) = (hex(region.size()), hex(size), hex(offset));
    let message = format!("{region} of {all} bytes has no {asked} bytes from offset {at} on");
    Err(Invalid::at(message, Some(region.base()), Some(size)).into())
}

/// The description of a region that shows the bytes of another at its own base.
pub fn window_on(base: u64, part: &Region, window: WindowSource) -> Result<Region> {
    let mut shown = Region { name: None, range: Range::new(base, part.size())?, ..part.clone() };
    shown.window = Some(window);
    shown.check()?;
    Ok(shown)
}

/// The bytes from an offset in a region on; of a window they are those of the region that brought them.
fn window_of(region: &SharedRegion, offset: u64) -> WindowSource {
    match &region.window {
        // Flat, however long the chain of windows is.
        Some(window) => WindowSource { of: window.of.clone(), offset: window.offset.saturating_add(offset) },
        None => WindowSource { of: ShownBytes::Region(Arc::clone(region)), offset },
    }
}

/// The memories that some regions show together, for they show the same bytes of them; each described as one region.
pub fn shared_memories(regions: &[RegionEntry]) -> Result<Vec<RegionEntry>> {
    let mut windows: Vec<Origin> =
        regions.iter().filter(|region| region.window.is_some()).map(|region| region.origin).collect();
    windows.sort_unstable();
    let mut shown: Vec<&RegionEntry> =
        regions.iter().filter(|region| windows.binary_search(&region.origin).is_ok()).collect();
    shown.sort_by_key(|region| (region.origin, region.at));
    let mut memories: Vec<(&RegionEntry, Range)> = Vec::new();
    for region in shown {
        match memories.last_mut() {
            Some((first, bytes)) if first.origin == region.origin && bytes.overlaps(&region.bytes()) => {
                *bytes = Range::between(bytes.base(), bytes.end().max(region.bytes().end()));
            }
            _ => memories.push((region, region.bytes())),
        }
    }
    memories
        .into_iter()
        .map(|(first, bytes)| {
            Ok(RegionEntry {
                desc: Arc::new(resized(first, Range::new(first.base(), bytes.size())?)?),
                ..first.clone()
            })
        })
        .collect()
}

impl RegionMap {
    /// An entry about to be inserted, which shows the bytes here that it is a window on.
    pub(super) fn resolved(&self, entry: &RegionEntry) -> Result<RegionEntry> {
        let Some(window) = &entry.window else { return Ok(entry.clone()) };
        let gone = || Error::Unmapped {
            message: match &window.of {
                ShownBytes::Region(of) => format!("{} is a window on {of}, whose bytes no region has here", entry.desc),
                ShownBytes::Part(_) => format!("{} is a window on a part of memory that was closed", entry.desc),
            },
            address: Some(entry.base()),
            size: Some(entry.size()),
            region: Some(Arc::clone(entry)),
        };
        let (origin, at) = self.bytes_of(window).ok_or_else(gone)?;
        let found = RegionEntry { origin, at, ..entry.clone() };
        if window.kept().is_some() || self.shows(&found) { Ok(found) } else { Err(gone()) }
    }

    /// The addresses of some RAM at which its bytes are seen first, and those at which they are seen again, which are no more memory for a
    /// guest; both ascend.
    #[must_use]
    pub fn ram_once(&self, is_meant: impl Fn(&Region) -> bool) -> (Vec<Range>, Vec<Range>) {
        let (mut first, mut again) = (Vec::new(), Vec::new());
        let mut taken: HashMap<Origin, Vec<Range>> = HashMap::new();
        let is_ram = |region: &&RegionEntry| region.region_type == RegionType::DefaultMemory && is_meant(region);
        for region in self.regions().into_iter().filter(is_ram) {
            let (bytes, before) = (region.bytes(), taken.entry(region.origin).or_default());
            let at = |new: &Range| region.range.skip(new.base().abs_diff(bytes.base())).take(new.size());
            let new: Vec<Range> = without(&[bytes], before).iter().map(at).collect();
            again.extend(without(&[region.range], &new));
            first.extend(new);
            before.push(bytes);
            before.sort_unstable();
            *before = joined(std::mem::take(before));
        }
        (first, again)
    }

    /// Where the bytes of a window lie: those of the region that brought them, or of another window on them.
    fn bytes_of(&self, window: &WindowSource) -> Option<Bytes> {
        let (origin, first) = match &window.of {
            ShownBytes::Part(Part { origin, .. }) => (*origin, 0),
            ShownBytes::Region(of) => {
                let there = self.find(of.base()).filter(|there| there.desc == *of);
                there.map(|there| (there.origin, there.at)).or_else(|| self.bytes_by_others(&window.of))?
            }
        };
        Some((origin, first.checked_add(window.offset)?))
    }

    fn bytes_by_others(&self, of: &ShownBytes) -> Option<Bytes> {
        self.regions().iter().find_map(|other| {
            let window = other.window.as_ref().filter(|window| window.of == *of)?;
            Some((other.origin, other.at.checked_sub(window.offset)?))
        })
    }

    /// Whether regions here show all bytes of an entry.
    fn shows(&self, entry: &RegionEntry) -> bool {
        let others = self.regions().iter().filter(|other| other.origin == entry.origin);
        let mut shown: Vec<Range> = others.map(RegionEntry::bytes).collect();
        shown.sort_unstable();
        without(&[entry.bytes()], &joined(shown)).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::{MapOperation, RegionTarget};
    use super::super::layout::Layout;
    use super::super::region::RegionType;
    use super::super::source::Source;
    use super::*;

    fn ram(base: u64, size: u64, name: &str) -> SharedRegion {
        let region = Region::new(RegionType::DefaultMemory, Range::at(base, size), Source::default()).unwrap();
        Arc::new(Region { name: Some(name.into()), ..region })
    }

    fn map(regions: Vec<SharedRegion>) -> Result<RegionMap> {
        RegionMap::from_regions(regions, Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap())
    }

    fn window(base: u64, of: &SharedRegion, offset: u64, size: u64) -> SharedRegion {
        Arc::new(alias(base, of, offset, Some(size)).unwrap())
    }

    #[test]
    fn a_window_shows_bytes_of_another_region() {
        let whole = ram(0, 0x4000, "ram");
        let low = window(0x10000, &whole, 0x1000, 0x2000);
        let map = map(vec![Arc::clone(&low), Arc::clone(&whole), window(0x20000, &low, 0x1000, 0x1000)]).unwrap();
        let bytes = map.regions().iter().map(RegionEntry::bytes).collect::<Vec<_>>();
        assert_eq!(bytes, [Range::at(0, 0x4000), Range::at(0x1000, 0x2000), Range::at(0x2000, 0x1000)]);
        assert!(map.regions().iter().all(|region| region.origin == map.regions()[0].origin));
        let memories = shared_memories(&map.regions().to_vec()).unwrap();
        assert_eq!(memories.iter().map(|memory| memory.bytes()).collect::<Vec<_>>(), [Range::at(0, 0x4000)]);
    }

    #[test]
    fn no_region_is_the_original() {
        let whole = ram(0, 0x4000, "ram");
        let low = window(0x10000, &whole, 0x1000, 0x2000);
        let map = map(vec![Arc::clone(&whole), Arc::clone(&low)]).unwrap();
        let map = MapOperation::Remove(RegionTarget::Base(0)).apply(&map).unwrap();
        let inserted = |region| MapOperation::insert(region).apply(&map);
        assert!(inserted(window(0x20000, &whole, 0x2000, 0x1000)).is_ok());
        let refused = inserted(window(0x20000, &whole, 0, 0x1000)).unwrap_err().to_string();
        assert!(refused.contains("is a window on 'ram' [0x0, 0x4000), whose bytes no region has here"), "{refused}");
        let map = MapOperation::Remove(RegionTarget::Base(0x10000)).apply(&map).unwrap();
        assert!(MapOperation::insert(low).apply(&map).is_err());
    }

    #[test]
    fn a_window_lies_inside_what_it_shows() {
        let whole = ram(0, 0x4000, "ram");
        for (offset, size) in
            [(0x4000, None), (0, Some(0x4001)), (0x3000, Some(0x1001)), (0, Some(0)), (u64::MAX, None)]
        {
            assert!(alias(0x10000, &whole, offset, size).is_err(), "{offset:#x} {size:?}");
        }
        assert!(map(vec![window(0x10000, &whole, 0, 0x1000)]).is_err());
    }
}
