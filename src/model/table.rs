//! A map as an aligned table, gaps included.

use super::map::Map;
use super::range::Range;
use super::region::SharedRegion;
use super::text;

const HEADER: [&str; 7] = ["start", "end", "size", "type", "prot", "backing", "name"];
const RIGHT_ALIGNED: usize = 3;

/// One line a region and one a gap, under a header; columns are as wide as their widest cell.
#[must_use]
pub fn table(map: &Map) -> String {
    let mut rows = vec![HEADER.map(String::from)];
    let mut gaps = map.gaps(0, map.layout().phys_end()).into_iter().peekable();
    for region in map.regions() {
        while let Some(gap) = gaps.next_if(|gap| gap.base() < region.base()) {
            rows.push(gap_row(gap));
        }
        rows.push(region_row(region));
    }
    rows.extend(gaps.map(gap_row));
    aligned(&rows)
}

fn region_row(region: &SharedRegion) -> [String; 7] {
    let protection = if region.has_memory() { text::protection(region.prot_flags) } else { "-".into() };
    let name = region.name.as_deref().unwrap_or_default().to_owned();
    row(region.range, region.region_type.value(), protection, region.backing_word(), name)
}

fn gap_row(gap: Range) -> [String; 7] {
    row(gap, ".", String::from("."), ".", String::from("(gap)"))
}

fn row(range: Range, region_type: &str, protection: String, backing: &str, name: String) -> [String; 7] {
    [
        text::hex(range.base()),
        text::hex(range.end()),
        text::size(range.size()),
        region_type.into(),
        protection,
        backing.into(),
        name,
    ]
}

fn aligned(rows: &[[String; 7]]) -> String {
    let widths: [usize; 7] = std::array::from_fn(|column| {
        rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default()
    });
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column < RIGHT_ALIGNED { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}
