//! A map as an aligned table, gaps included.

use super::error::Result;
use super::format;
use super::interrupt::Interrupt;
use super::range::Range;
use super::region::SharedRegion;
use super::region_map::RegionMap;

const HEADER: [&str; 7] = ["start", "end", "size", "type", "prot", "backing", "name"];
const RIGHT_ALIGNED: usize = 3;

/// One line a region and one a gap, under a header; columns are as wide as their widest cell.
pub fn table(map: &RegionMap, interrupt: &dyn Interrupt) -> Result<String> {
    let mut rows = vec![HEADER.map(String::from)];
    let mut gaps = map.gaps(0, map.layout().phys_end()).into_iter().peekable();
    for region in map.regions() {
        interrupt.check()?;
        while let Some(gap) = gaps.next_if(|gap| gap.base() < region.base()) {
            rows.push(gap_row(gap));
        }
        rows.push(region_row(region));
    }
    rows.extend(gaps.map(gap_row));
    aligned(&rows, interrupt)
}

fn region_row(region: &SharedRegion) -> [String; 7] {
    let protection = if region.has_memory() { format::protection(region.prot_flags) } else { "-".into() };
    let name = region.name.as_deref().unwrap_or_default().to_owned();
    row(region.range, region.region_type.value(), protection, region.backing_word(), name)
}

fn gap_row(gap: Range) -> [String; 7] {
    row(gap, ".", String::from("."), ".", String::from("(gap)"))
}

fn row(range: Range, region_type: &str, protection: String, backing: &str, name: String) -> [String; 7] {
    [
        format::hex(range.base()),
        format::hex(range.end()),
        format::size(range.size()),
        region_type.into(),
        protection,
        backing.into(),
        name,
    ]
}

fn aligned(rows: &[[String; 7]], interrupt: &dyn Interrupt) -> Result<String> {
    let widths: [usize; 7] = std::array::from_fn(|column| {
        rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default()
    });
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column < RIGHT_ALIGNED { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    joined(rows.iter().map(line), interrupt)
}

/// Lines as one text.
pub(super) fn joined(lines: impl Iterator<Item = String>, interrupt: &dyn Interrupt) -> Result<String> {
    let mut text = String::new();
    for (index, line) in lines.enumerate() {
        interrupt.check()?;
        text.push_str(if index == 0 { "" } else { "\n" });
        text.push_str(&line);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::interrupt::Uninterrupted;
    use crate::model::layout::Layout;
    use crate::model::region::{Region, RegionType};
    use crate::model::source::Source;

    fn map(bases: &[u64]) -> RegionMap {
        let region = |base: &u64| {
            let range = Range::new(*base, 0x1000).unwrap();
            Arc::new(Region::new(RegionType::DeviceMemory, range, Source::default()).unwrap())
        };
        RegionMap::from_regions(bases.iter().map(region).collect(), Layout::new(0x10000, 0, 0, vec![]).unwrap())
            .unwrap()
    }

    fn kinds(bases: &[u64]) -> Vec<String> {
        let words = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        table(&map(bases), &Uninterrupted).unwrap().lines().skip(1).map(words).collect()
    }

    #[test]
    fn gaps_stand_between_before_and_behind_the_regions() {
        assert_eq!(kinds(&[]), ["0x0 0x1_0000"]);
        assert_eq!(kinds(&[0x0, 0x1000]), ["0x0 0x1000", "0x1000 0x2000", "0x2000 0x1_0000"]);
        assert_eq!(kinds(&[0x8000, 0xf000]), ["0x0 0x8000", "0x8000 0x9000", "0x9000 0xf000", "0xf000 0x1_0000"]);
    }

    #[test]
    fn columns_line_up_and_no_line_ends_in_spaces() {
        let text = table(&map(&[0x1000]), &Uninterrupted).unwrap();
        let ends: Vec<Option<usize>> = text.lines().map(|line| line.find("  device").or(line.find("  .  "))).collect();
        assert_eq!(ends[1], ends[2]);
        assert!(text.lines().all(|line| line == line.trim_end()));
    }
}
