//! Regions that become larger.

use std::sync::Arc;

use super::cut::{check_memory, resized};
use super::error::{Error, Result};
use super::format::hex;
use super::invalid::Invalid;
use super::range::Range;
use super::region::{Region, SharedRegion};
use super::region_map::{RegionEntry, RegionMap};

/// Refuses a growth of what can't grow, and one that is none.
pub fn check_growth(region: &SharedRegion, size: u64) -> Result<()> {
    check_memory(region, "grow")?;
    if size > region.size() {
        return Ok(());
    }
    let message = format!(
        "cannot grow {region} to {} bytes: it has {}; split_region() and remove_region() make it smaller",
        hex(size),
        hex(region.size())
    );
    Err(Invalid::at(message, Some(region.base()), Some(size)).into())
}

/// The map in which a region shows more of its memory.
pub fn grown(map: &RegionMap, region: &RegionEntry, size: u64) -> Result<RegionMap> {
    let refused = |why: String| {
        Error::from(Invalid::at(
            format!("cannot grow {region} to {} bytes: {why}", hex(size)),
            Some(region.base()),
            Some(size),
        ))
    };
    let most = region.options.max_size.unwrap_or_default();
    let end = region.at.checked_add(size).filter(|end| *end <= most);
    let end = end.ok_or_else(|| refused(format!("its memory has {} (max_size=)", hex(most))))?;
    let behind = Range::between(region.bytes().end(), end);
    let shows = |other: &&RegionEntry| other.origin == region.origin && other.bytes().overlaps(&behind);
    if let Some(other) = map.regions().iter().find(shows) {
        return Err(refused(format!("{other} shows what lies behind it")));
    }
    let desc = resized(region, Range::new(region.base(), size)?)?;
    map.remove(region)?.insert(&RegionEntry { desc: Arc::new(desc), ..region.clone() })
}

/// A region behind one, like it, with memory of its own; in a file what comes next.
pub fn neighbour(map: &RegionMap, region: &SharedRegion, size: u64) -> Result<Region> {
    if region.source.is_held() || region.window.is_some() {
        let what = if region.source.is_held() { "a buffer or dump has its size" } else { "a window brings no memory" };
        let message = format!("cannot grow {region}: {what}");
        return Err(Invalid::argument(message).about(Some(region.base()), Some(size)).into());
    }
    let more = Range::new(region.end(), size.abs_diff(region.size()))?;
    let mut next = Region { range: more, name: next_name(map, region), ..Region::clone(region) };
    if next.source.file.is_some() || next.source.is_named() {
        let offset = next.source.file_offset.checked_add(region.size());
        next.source.file_offset = offset.ok_or_else(|| Invalid::number("the file offset ends past 2^64 - 1"))?;
    }
    next.check()?;
    Ok(next)
}

/// The first name behind a region's that nobody has: `ram-2`, `ram-3`.
fn next_name(map: &RegionMap, region: &Region) -> Option<Box<str>> {
    let name = region.name.as_ref()?;
    (2u64..).map(|number| format!("{name}-{number}")).find(|name| map.find_name(name).is_none()).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::super::backing::BackingOptions;
    use super::super::cut::moved;
    use super::super::layout::Layout;
    use super::super::region::RegionType;
    use super::super::source::Source;
    use super::*;

    fn map(max_size: Option<u64>) -> RegionMap {
        let region = Region::new(RegionType::DefaultMemory, Range::at(0, 0x1000), Source::default()).unwrap();
        let options = BackingOptions { max_size, ..BackingOptions::default() };
        let region = Region { name: Some("ram".into()), options, ..region };
        RegionMap::from_regions(vec![Arc::new(region)], Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap()).unwrap()
    }

    fn grow(map: &RegionMap, size: u64) -> Result<RegionMap> {
        let region = &map.regions()[0];
        check_growth(region, size)?;
        match region.options.max_size {
            Some(_) => grown(map, region, size),
            None => map.insert(&RegionEntry::new(Arc::new(neighbour(map, region, size)?))),
        }
    }

    #[test]
    fn a_region_grows_in_its_memory_or_has_a_neighbour() {
        let one = grow(&map(Some(0x4000)), 0x4000).unwrap();
        assert_eq!(one.regions().iter().map(|region| region.size()).collect::<Vec<_>>(), [0x4000]);
        let two = grow(&grow(&map(None), 0x3000).unwrap(), 0x1000);
        assert!(two.is_err());
        let two = grow(&map(None), 0x3000).unwrap();
        let names: Vec<_> = two.regions().iter().map(|region| (region.name.as_deref(), region.size())).collect();
        assert_eq!(names, [(Some("ram"), 0x1000), (Some("ram-2"), 0x2000)]);
    }

    #[test]
    fn there_is_no_growth_past_the_memory_nor_into_what_others_show() {
        let map = map(Some(0x4000));
        for size in [0, 0x1000, 0x4001, u64::MAX] {
            assert!(grow(&map, size).is_err(), "{size:#x}");
        }
        let whole = grow(&map, 0x4000).unwrap();
        let upper = super::super::ids::RegionId::unique();
        let parts = super::super::cut::cut(&whole.regions()[0], 0x2000, upper).unwrap();
        let cut = whole.reshaped(&whole.regions()[0], 1, &parts);
        let apart = cut.remove(&cut.regions()[1]).unwrap().insert(&moved(&parts[1], 0x10000).unwrap()).unwrap();
        assert!(grow(&apart, 0x3000).unwrap_err().to_string().contains("shows what lies behind it"));
    }
}
