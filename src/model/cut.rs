//! Regions that are cut, joined and moved, while their bytes stay where they are.

use std::sync::Arc;

use super::error::{Error, Result};
use super::format::hex;
use super::ids::RegionId;
use super::invalid::Invalid;
use super::range::Range;
use super::region::{Region, RegionType, SharedRegion};
use super::region_map::RegionEntry;

/// Both parts of a region. The lower keeps its id and its name, the upper has a new id and no name.
pub fn cut(region: &RegionEntry, at: u64, upper: RegionId) -> Result<[RegionEntry; 2]> {
    check_memory(region, "split")?;
    let (below, above) = (Range::between(region.base(), at), Range::between(at, region.end()));
    if below.is_empty() || above.is_empty() || !region.range.contains(at) {
        let message = format!("cannot split {region} at {}: that address must lie inside, behind its base", hex(at));
        return Err(Invalid::at(message, Some(at), None).into());
    }
    let lower = RegionEntry { desc: part(region, below)?, ..region.clone() };
    let desc = Arc::new(Region { name: None, ..Region::clone(&*part(region, above)?) });
    let behind = region.at.checked_add(below.size()).ok_or_else(|| too_far(region))?;
    Ok([lower, RegionEntry { id: upper, desc, at: behind, ..region.clone() }])
}

/// The region that two neighbours make, which show bytes that lie one behind the other; it keeps the id and the name of the lower.
pub fn joined(lower: &RegionEntry, upper: &RegionEntry) -> Result<RegionEntry> {
    check_memory(lower, "join")?;
    let refused = |why: &str| {
        let message = format!("cannot join {lower} and {upper}: {why}");
        Invalid::argument(message).about(Some(lower.base()), Some(lower.size()))
    };
    if lower.end() != upper.base() {
        return Err(refused("the second does not begin where the first ends").into());
    }
    if lower.origin != upper.origin || lower.at.checked_add(lower.size()) != Some(upper.at) {
        return Err(
            refused("they were not cut from one region, so that their bytes are not those of one memory").into()
        );
    }
    let desc = resized(lower, Range::between(lower.base(), upper.end()))?;
    let expected = Region { name: upper.name.clone(), ..part_of(&desc, upper.range)? };
    if expected != ***upper {
        return Err(
            refused("they differ in type, protection, flags, node or options: replace_region() one of them").into()
        );
    }
    Ok(RegionEntry { desc: Arc::new(desc), ..lower.clone() })
}

/// The region at another base, under its id.
pub fn moved(region: &RegionEntry, base: u64) -> Result<RegionEntry> {
    check_memory(region, "move")?;
    let desc = Region { range: Range::new(base, region.size())?, ..Region::clone(region) };
    Ok(RegionEntry { desc: Arc::new(desc), ..region.clone() })
}

/// The description of `size` bytes from where some addresses of a region show its bytes, of which the region may show less.
pub fn described(region: &SharedRegion, range: Range, size: u64) -> Result<Region> {
    check_memory(region, "keep")?;
    let part = part_of(region, range)?;
    resized(&part, Range::new(0, size)?)
}

fn part(region: &SharedRegion, range: Range) -> Result<SharedRegion> {
    part_of(region, range).map(Arc::new)
}

/// The description of a part, which shows what the whole shows there.
pub fn part_of(region: &Region, range: Range) -> Result<Region> {
    let skipped = range.base().abs_diff(region.base());
    let mut part = resized(region, range)?;
    if part.source.file.is_some() || part.source.is_named() {
        part.source.file_offset = part.source.file_offset.checked_add(skipped).ok_or_else(|| too_far(region))?;
    }
    if let Some(window) = &mut part.window {
        window.offset = window.offset.checked_add(skipped).ok_or_else(|| too_far(region))?;
    }
    if let Some(buffer) = &mut part.source.buffer {
        let skipped = usize::try_from(skipped).map_err(|_| too_far(region))?;
        buffer.host = buffer.host.checked_add(skipped).ok_or_else(|| too_far(region))?;
    }
    if let Some(reader) = &mut part.source.reader {
        reader.at = reader.at.checked_add(skipped).ok_or_else(|| too_far(region))?;
    }
    Ok(part)
}

/// The description of other addresses, whose bytes begin where the region's do.
pub(super) fn resized(region: &Region, range: Range) -> Result<Region> {
    let mut resized = Region { range, ..region.clone() };
    if let Some(buffer) = &mut resized.source.buffer {
        buffer.size = range.size();
    }
    Ok(resized)
}

fn too_far(region: &Region) -> Error {
    Invalid::at(format!("{region} has no such part"), Some(region.base()), Some(region.size())).into()
}

/// Refuses what is not memory that can be seen through more than one window.
pub(super) fn check_memory(region: &SharedRegion, verb: &str) -> Result<()> {
    let why = match region.region_type {
        RegionType::DeviceMemory => "is a device region",
        RegionType::DaxMemory => "is a DAX window",
        _ if region.options.may_block == Some(true) => "has pages that somebody brings in when they are touched",
        RegionType::DefaultMemory | RegionType::FirmwareMemory => return Ok(()),
    };
    Err(Error::Unsupported {
        message: format!("cannot {verb} {region}: it {why}"),
        feature: "cut, join, move or alias",
        how: "remove_region() and insert_region() in a transaction".into(),
        region: Some(Arc::clone(region)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::source::Source;

    fn entry(base: u64, size: u64) -> RegionEntry {
        let source = Source::default();
        let region = Region::new(RegionType::DefaultMemory, Range::new(base, size).unwrap(), source).unwrap();
        RegionEntry::new(Arc::new(Region { name: Some("ram".into()), ..region }))
    }

    #[test]
    fn what_was_cut_is_joined_again() {
        let whole = entry(0x1000, 0x3000);
        let [lower, upper] = cut(&whole, 0x2000, RegionId::unique()).unwrap();
        assert_eq!((lower.range, upper.range), (Range::at(0x1000, 0x1000), Range::at(0x2000, 0x2000)));
        assert_eq!((lower.id, lower.name.as_deref(), upper.name.as_deref()), (whole.id, Some("ram"), None));
        assert!(upper.id != whole.id && lower.agrees_with(&whole) && upper.agrees_with(&whole));
        let again = joined(&lower, &upper).unwrap();
        assert_eq!((again.id, again.desc), (whole.id, whole.desc));
    }

    #[test]
    fn only_an_address_inside_cuts() {
        for at in [0, 0x1000, 0x4000, u64::MAX] {
            assert!(cut(&entry(0x1000, 0x3000), at, RegionId::unique()).is_err(), "{at:#x}");
        }
    }

    #[test]
    fn neighbours_of_two_memories_or_two_kinds_are_not_joined() {
        let [lower, upper] = cut(&entry(0, 0x2000), 0x1000, RegionId::unique()).unwrap();
        assert!(joined(&lower, &entry(0x1000, 0x1000)).is_err());
        assert!(joined(&upper, &lower).is_err());
        let read_only = Region { prot_flags: 1, ..Region::clone(&*upper.desc) };
        assert!(joined(&lower, &RegionEntry { desc: Arc::new(read_only), ..upper.clone() }).is_err());
        let elsewhere = moved(&upper, 0x8000).unwrap();
        assert!(joined(&lower, &elsewhere).is_err());
        assert!(!elsewhere.agrees_with(&upper) && elsewhere.id == upper.id);
        assert!(joined(&lower, &moved(&elsewhere, 0x1000).unwrap()).is_ok());
    }
}
