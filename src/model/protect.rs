//! Another protection for a range, which cuts the regions that it begins or ends inside.

use std::sync::Arc;

use super::allocator::without;
use super::cut::cut;
use super::error::Result;
use super::format::hex;
use super::ids::RegionId;
use super::invalid::Invalid;
use super::range::Range;
use super::region::Region;
use super::region_map::{RegionEntry, RegionMap};

/// The map in which a range has a protection; the ids are for the upper parts of what is cut, the lower end first.
pub fn protected(map: &RegionMap, range: Range, prot_flags: i32, [low, high]: [RegionId; 2]) -> Result<RegionMap> {
    if range.is_empty() {
        return Err(Invalid::at("protect needs a size above 0", Some(range.base()), Some(0)).into());
    }
    let there: Vec<Range> = map.overlapping(range).iter().map(|region| region.range).collect();
    if let Some(hole) = without(&[range], &there).first() {
        return Err(map.unmapped(hole.base(), &format!("protect: no region holds {}", hex(hole.base()))));
    }
    let map = cut_at(&cut_at(map, range.base(), low)?, range.end(), high)?;
    let inside = map.overlapping(range).to_vec();
    inside.iter().filter(|region| region.prot_flags != prot_flags).try_fold(map, |map, region| {
        let new = Region { prot_flags, ..Region::clone(region) };
        new.check()?;
        map.replace(region, &Arc::new(new))
    })
}

/// The map in which no region reaches over an address.
fn cut_at(map: &RegionMap, at: u64, upper: RegionId) -> Result<RegionMap> {
    let reaches_over = |region: &&RegionEntry| region.base() < at;
    let Some(region) = map.find(at).filter(reaches_over) else { return Ok(map.clone()) };
    Ok(map.reshaped(region, 1, &cut(region, at, upper)?))
}

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use super::super::region::{PROT_READ, PROT_WRITE, RegionType};
    use super::super::source::Source;
    use super::*;

    fn map() -> RegionMap {
        let region =
            |region_type, base| Arc::new(Region::new(region_type, Range::at(base, 0x4000), Source::default()).unwrap());
        let regions = vec![
            region(RegionType::DefaultMemory, 0),
            region(RegionType::DefaultMemory, 0x4000),
            region(RegionType::DeviceMemory, 1 << 45),
        ];
        RegionMap::from_regions(regions, Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap()).unwrap()
    }

    fn parts(range: Range, prot_flags: i32) -> Result<Vec<(u64, u64, i32)>> {
        let ids = [RegionId::unique(), RegionId::unique()];
        let map = protected(&map(), range, prot_flags, ids)?;
        Ok(map.regions().iter().map(|region| (region.base(), region.end(), region.prot_flags)).take(4).collect())
    }

    #[test]
    fn a_range_cuts_the_regions_that_it_begins_and_ends_in() {
        let (read, both) = (PROT_READ, PROT_READ | PROT_WRITE);
        let inside = parts(Range::at(0x1000, 0x1000), read).unwrap();
        assert_eq!(inside[..3], [(0, 0x1000, both), (0x1000, 0x2000, read), (0x2000, 0x4000, both)]);
        let across = parts(Range::at(0x3000, 0x2000), read).unwrap();
        assert_eq!(
            across[..4],
            [(0, 0x3000, both), (0x3000, 0x4000, read), (0x4000, 0x5000, read), (0x5000, 0x8000, both)]
        );
        assert_eq!(parts(Range::at(0, 0x4000), read).unwrap()[..2], [(0, 0x4000, read), (0x4000, 0x8000, both)]);
    }

    #[test]
    fn holes_devices_and_nothing_are_refused() {
        for range in [Range::at(1 << 45, 0x1000), Range::at(0x7000, 0x2000), Range::at(0x20000, 8), Range::at(0, 0)] {
            assert!(parts(range, PROT_READ).is_err(), "{range}");
        }
    }
}
