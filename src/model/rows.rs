//! A map as rows: the one model of all tables and pictures, so that they never disagree.

use std::sync::Arc;

use super::fold::folded;
use super::format;
use super::pieces::Sublist;
use super::range::Range;
use super::region::Region;
use super::region_map::{RegionEntry, RegionMap};
use super::reservations::Reservation;

/// A row of a table or picture.
#[derive(Debug)]
pub struct Row<'a> {
    /// Its addresses.
    pub range: Range,
    /// The things at these addresses.
    pub content: Content<'a>,
}

/// The things that a row shows.
#[derive(Debug)]
pub enum Content<'a> {
    /// A region, or neighbours that are shown as one.
    Regions(Sublist<'a, RegionEntry>),
    /// Addresses that are kept for an owner.
    Reserved(&'a Reservation),
    /// Free addresses outside of every MMIO window.
    Free,
    /// Free addresses of an MMIO window.
    FreeForDevices,
}

/// The rows from address 0 to the end of the layout, without gap or overlap; with a limit, at most that many rows of regions, as
/// far as no edge of a window or reservation parts them.
#[must_use]
pub fn rows<'a>(map: &'a RegionMap, reservations: &'a [Arc<Reservation>], limit: Option<usize>) -> Vec<Row<'a>> {
    let unused = Unused::of(map, reservations);
    let groups = folded(map.regions(), limit.unwrap_or(usize::MAX), &unused.edges);
    let mut rows = Vec::new();
    let mut at = 0;
    for regions in groups.into_iter().map(|group| map.regions().sublist(group)) {
        let (Some(first), Some(last)) = (regions.first(), regions.last()) else { continue };
        unused.add_rows(at, first.base(), &mut rows);
        rows.push(Row { range: Range::between(first.base(), last.end()), content: Content::Regions(regions) });
        at = last.end();
    }
    unused.add_rows(at, map.layout().phys_end(), &mut rows);
    rows
}

/// The windows and reservations, which tell of addresses without a region.
struct Unused<'a> {
    windows: &'a [Range],
    reservations: &'a [Arc<Reservation>],
    /// Both ends of each of them, in ascending order.
    edges: Vec<u64>,
}

impl<'a> Unused<'a> {
    fn of(map: &'a RegionMap, reservations: &'a [Arc<Reservation>]) -> Self {
        let windows = map.layout().mmio_windows();
        let ranges = windows.iter().copied().chain(reservations.iter().map(|reservation| reservation.range));
        let mut edges: Vec<u64> = ranges.flat_map(|range| [range.base(), range.end()]).collect();
        edges.sort_unstable();
        edges.dedup();
        Self { windows, reservations, edges }
    }

    fn add_rows(&self, mut at: u64, end: u64, rows: &mut Vec<Row<'a>>) {
        let first = self.edges.partition_point(|edge| *edge <= at);
        let inside = self.edges.iter().skip(first).copied().take_while(|edge| *edge < end);
        for cut in inside.chain([end]).filter(|cut| *cut > at).collect::<Vec<_>>() {
            let range = Range::between(at, cut);
            rows.push(Row { range, content: self.content(range) });
            at = cut;
        }
    }

    fn content(&self, range: Range) -> Content<'a> {
        let next = self.reservations.partition_point(|reservation| reservation.range.end() <= range.base());
        match self.reservations.get(next) {
            Some(reservation) if reservation.range.covers(&range) => Content::Reserved(reservation),
            _ if self.windows.iter().any(|window| window.covers(&range)) => Content::FreeForDevices,
            _ => Content::Free,
        }
    }
}

impl<'a> Row<'a> {
    /// The regions of the row, if it has any.
    #[must_use]
    pub fn regions(&self) -> Sublist<'a, RegionEntry> {
        match self.content {
            Content::Regions(regions) => regions,
            _ => Sublist::default(),
        }
    }

    /// `"region"`, `"group"`, `"reserved"` or `"free"`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.content {
            Content::Regions(regions) if regions.len() == 1 => "region",
            Content::Regions(_) => "group",
            Content::Reserved(_) => "reserved",
            Content::Free | Content::FreeForDevices => "free",
        }
    }

    /// The bytes of the row's regions; without any, of its addresses.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.content {
            Content::Regions(regions) => regions.iter().map(|region| region.size()).fold(0, u64::saturating_add),
            _ => self.range.size(),
        }
    }

    /// The name to show: of a region, of both ends of a group, of an owner, or what the addresses are free for.
    #[must_use]
    pub fn name(&self, ellipsis: &str) -> String {
        match self.content {
            Content::Reserved(reservation) => reservation.owner.to_string(),
            Content::Free => "free".into(),
            Content::FreeForDevices => "free for devices".into(),
            Content::Regions(regions) => match (regions.first(), regions.last()) {
                (Some(first), Some(last)) if regions.len() > 1 => {
                    format!("{} {ellipsis} {}", name_of(first), name_of(last)).trim().into()
                }
                (first, _) => first.map(|region| name_of(region).into()).unwrap_or_default(),
            },
        }
    }

    /// The type in a word: `ram`, `14 ram`, `5 regions`, `reserved`; empty for free addresses.
    #[must_use]
    pub fn type_text(&self) -> String {
        match self.content {
            Content::Regions(regions) => {
                let types = self.common(|region| Some(region.region_type.value().into()), "regions");
                if regions.len() == 1 { types } else { format!("{} {types}", regions.len()) }
            }
            Content::Reserved(_) => "reserved".into(),
            Content::Free | Content::FreeForDevices => String::new(),
        }
    }

    /// The type that all regions of the row have, `"reserved"`, `"free"`, or `"mixed"`: what gives it its colour.
    #[must_use]
    pub fn look(&self) -> String {
        match self.content {
            Content::Regions(_) => self.common(|region| Some(region.region_type.value().into()), "mixed"),
            _ => self.kind().into(),
        }
    }

    /// The protection, as `rw-`.
    #[must_use]
    pub fn protection(&self, ellipsis: &str) -> String {
        self.common(|region| region.has_memory().then(|| format::protection(region.prot_flags)), ellipsis)
    }

    /// The memory behind it, as `shmem` or `hugeshmem 2M`.
    #[must_use]
    pub fn backing(&self, ellipsis: &str) -> String {
        self.common(|region| region.has_memory().then(|| backing(region)), ellipsis)
    }

    /// The host's NUMA node.
    #[must_use]
    pub fn node(&self, ellipsis: &str) -> String {
        self.common(|region| region.host_numa_node_id.map(|node| node.to_string()), ellipsis)
    }

    /// Whether all of its regions were plugged into a running machine.
    #[must_use]
    pub fn is_hotplug(&self) -> bool {
        !self.regions().is_empty() && self.regions().iter().all(|region| region.is_hotplug)
    }

    /// The text that all regions of the row have, or the word for texts that differ.
    fn common(&self, text: impl Fn(&Region) -> Option<String>, differs: &str) -> String {
        let mut texts = self.regions().iter().map(|region| text(region));
        let first = texts.next().flatten();
        if texts.any(|text| text != first) { differs.into() } else { first.unwrap_or_default() }
    }
}

fn name_of(region: &Region) -> &str {
    region.name.as_deref().unwrap_or_default()
}

fn backing(region: &Region) -> String {
    match region.options.page_size {
        Some(page_size) => {
            let size = format::size(page_size).replace(' ', "");
            format!("{} {}", region.backing_word(), size.trim_end_matches("iB"))
        }
        None => region.backing_word().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ReservationId;
    use crate::model::layout::Layout;
    use crate::model::region::RegionType;
    use crate::model::source::Source;

    fn map(bases: &[u64]) -> RegionMap {
        let region = |base: &u64| {
            let range = Range::new(*base, 0x1000).unwrap();
            Arc::new(Region::new(RegionType::DeviceMemory, range, Source::default()).unwrap())
        };
        let windows = vec![Range::new(0x4000, 0x4000).unwrap()];
        let layout = Layout::new(0x10000, 0, 0, windows).unwrap();
        RegionMap::from_regions(bases.iter().map(region).collect(), layout).unwrap()
    }

    fn reservation(base: u64, size: u64) -> Arc<Reservation> {
        Arc::new(Reservation {
            id: ReservationId::unique(),
            range: Range::new(base, size).unwrap(),
            owner: "pci".into(),
        })
    }

    fn told(map: &RegionMap, reservations: &[Arc<Reservation>], limit: Option<usize>) -> Vec<(u64, String)> {
        let rows = rows(map, reservations, limit);
        let ends: Vec<u64> = rows.iter().map(|row| row.range.end()).collect();
        let bases: Vec<u64> = rows.iter().map(|row| row.range.base()).collect();
        assert_eq!(bases.first(), Some(&0));
        assert!(bases.iter().skip(1).zip(&ends).all(|(base, end)| base == end), "no gap and no overlap");
        assert_eq!(ends.last(), Some(&0x10000));
        rows.iter().map(|row| (row.range.base(), format!("{} {}", row.kind(), row.name("...")).trim().into())).collect()
    }

    fn expected(rows: &[(u64, &str)]) -> Vec<(u64, String)> {
        rows.iter().map(|(base, text)| (*base, (*text).to_owned())).collect()
    }

    #[test]
    fn free_addresses_are_cut_at_the_ends_of_windows() {
        let rows = [(0, "free free"), (0x4000, "free free for devices"), (0x8000, "free free")];
        assert_eq!(told(&map(&[]), &[], None), expected(&rows));
    }

    #[test]
    fn a_reservation_is_what_no_region_has_of_it() {
        let rows = [
            (0, "free free"),
            (0x4000, "reserved pci"),
            (0x5000, "region"),
            (0x6000, "reserved pci"),
            (0x7000, "free free for devices"),
            (0x8000, "free free"),
        ];
        assert_eq!(told(&map(&[0x5000]), &[reservation(0x4000, 0x3000)], None), expected(&rows));
    }

    #[test]
    fn a_group_is_one_row_with_the_gaps_in_it() {
        let map = map(&[0x4000, 0x5000, 0x6000, 0x7000]);
        let rows = [(0, "free free"), (0x4000, "group ..."), (0x8000, "free free")];
        assert_eq!(told(&map, &[], Some(1)), expected(&rows));
        assert_eq!(super::rows(&map, &[], Some(1)).iter().map(Row::size).collect::<Vec<_>>(), [0x4000, 0x4000, 0x8000]);
        assert_eq!(super::rows(&map, &[], Some(1))[1].type_text(), "4 device");
    }
}
