//! Rows as the table that `print` shows: for programs as well as for people.

use super::columns::{Column, aligned, visible};
use super::error::Result;
use super::format;
use super::interrupt::Interrupt;
use super::rows::{Content, Row};

/// The table that `print` shows: ASCII, each cell one word, the name at last.
pub fn table(rows: &[Row<'_>], interrupt: &dyn Interrupt) -> Result<String> {
    let one_word = |text: String| text.replace(' ', "");
    let kind = |row: &Row<'_>| if row.regions().is_empty() { row.kind().into() } else { one_word(row.type_text()) };
    // Each column is a walk over all rows.
    let column =
        |header, cell: &dyn Fn(&Row<'_>) -> String| interrupt.check().map(|()| Column::new(header, rows, cell));
    let columns = [
        column("start", &|row| format::hex(row.range.base()))?.right_aligned(),
        column("end", &|row| format::hex(row.range.end()))?.right_aligned(),
        column("size", &|row| one_word(format::size(row.size())))?.right_aligned(),
        column("type", &kind)?,
        column("prot", &|row| row.protection("..."))?,
        column("backing", &|row| one_word(row.backing("...")))?,
        column("node", &|row| row.node("..."))?,
        column("flags", &flags)?,
        column("name", &|row| visible(&plain_name(row), true))?,
    ];
    // A word wherever there is nothing, so that each line has as many words as the header.
    let filled = columns.map(|column| column.map(|cell| if cell.is_empty() { "-".into() } else { cell.into() }));
    aligned(&filled, 2, |_| "", interrupt)
}

/// Free addresses have that word as their type already.
fn plain_name(row: &Row<'_>) -> String {
    match row.content {
        Content::Free => String::new(),
        Content::FreeForDevices => "(MMIO window)".into(),
        _ => row.name("..."),
    }
}

/// `h` for what was plugged into a running machine.
pub(super) fn flags(row: &Row<'_>) -> String {
    if row.is_hotplug() { "h".into() } else { String::new() }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::interrupt::Uninterrupted;
    use crate::model::layout::Layout;
    use crate::model::range::Range;
    use crate::model::region::{Region, RegionType};
    use crate::model::region_map::RegionMap;
    use crate::model::rows::rows;
    use crate::model::source::Source;

    pub(in crate::model) fn map(regions: &[(u64, u64, &str)]) -> RegionMap {
        let region = |(base, size, name): &(u64, u64, &str)| {
            let range = Range::new(*base, *size).unwrap();
            let region = Region::new(RegionType::DeviceMemory, range, Source::default()).unwrap();
            Arc::new(Region { name: Some((*name).into()), ..region })
        };
        let layout = Layout::new(1 << 40, 0, 0, vec![]).unwrap();
        RegionMap::from_regions(regions.iter().map(region).collect(), layout).unwrap()
    }

    #[test]
    fn every_line_of_the_plain_table_has_all_columns_and_no_space_at_its_end() {
        let text =
            table(&rows(&map(&[(0x1000, 0x1000, "uart\n"), (0x3000, 0x10, "ü")]), &[], None), &Uninterrupted).unwrap();
        assert!(text.is_ascii(), "{text}");
        assert!(text.lines().all(|line| line == line.trim_end() && line.split_whitespace().count() >= 9), "{text}");
        assert!(text.contains("uart\\n") && text.contains("\\u{fc}"), "{text}");
    }
}
