//! Rows as the table that fits a terminal.

use super::columns::{Column, DIM, aligned, columns_of, visible};
use super::error::Result;
use super::format;
use super::interrupt::Interrupt;
use super::rows::{Content, Row};
use super::table::flags;

/// The smallest size that a bar shows, as a power of two.
const SMALLEST: u32 = 12;
/// Steps of the logarithm for each doubling of a size.
const STEPS: u64 = 16;
/// The name gets at least this many columns before others give way to it.
const NAME: usize = 20;
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// How a terminal shows rows.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    /// Its columns.
    pub width: usize,
    /// No characters beyond ASCII.
    pub is_ascii: bool,
    /// Escape sequences for the user's own sixteen colours.
    pub has_color: bool,
}

/// Which columns there is room for.
#[derive(Clone, Copy)]
struct Columns {
    bar: usize,
    gap: usize,
    end: bool,
    backing: bool,
    node: bool,
}

/// The columns that give way to a name, one after another.
const CHOICES: [Columns; 9] = [
    Columns { bar: 16, gap: 2, end: true, backing: true, node: true },
    Columns { bar: 8, gap: 2, end: true, backing: true, node: true },
    Columns { bar: 8, gap: 2, end: false, backing: true, node: true },
    Columns { bar: 6, gap: 2, end: false, backing: true, node: true },
    Columns { bar: 6, gap: 1, end: false, backing: true, node: true },
    Columns { bar: 4, gap: 1, end: false, backing: true, node: true },
    Columns { bar: 0, gap: 1, end: false, backing: true, node: true },
    Columns { bar: 0, gap: 1, end: false, backing: false, node: true },
    Columns { bar: 0, gap: 1, end: false, backing: false, node: false },
];

/// The table that fits a terminal; what is empty everywhere has no column.
pub fn terminal_table(rows: &[Row<'_>], terminal: Terminal, interrupt: &dyn Interrupt) -> Result<String> {
    let ellipsis = if terminal.is_ascii { "..." } else { "…" };
    let name = Column::new("name", rows, |row| visible(&row.name(ellipsis), terminal.is_ascii));
    let facts = Facts::of(rows, ellipsis);
    let wanted = name.width().min(NAME);
    let room = |choice: &Columns| terminal.width.saturating_sub(facts.width(*choice));
    let choice = CHOICES.iter().find(|choice| room(choice) >= wanted).or(CHOICES.last()).copied().unwrap_or(CHOICES[0]);
    let room = room(&choice);
    let mut columns = facts.chosen(choice, |cells| bars(rows, terminal, cells));
    columns.push(name.map(|cell| clipped(cell, room, ellipsis)));
    let colors: Vec<&str> = rows.iter().map(color).collect();
    let color_of = |line: usize| line.checked_sub(1).and_then(|row| colors.get(row)).copied().unwrap_or_default();
    aligned(&columns, choice.gap, |line| if terminal.has_color { color_of(line) } else { "" }, interrupt)
}

/// Whether a column is shown.
type IsChosen = fn(Columns) -> bool;

/// All columns but bars and names, each with what has to be chosen for it.
struct Facts {
    columns: Vec<(Column, IsChosen)>,
    /// Whether any row has a bar.
    has_bars: bool,
}

/// Behind how many columns the bars stand, when all are there.
const BARS_BEHIND: usize = 3;

impl Facts {
    fn of(rows: &[Row<'_>], ellipsis: &str) -> Self {
        let mut starts = Column::new("start", rows, |row| format::hex(row.range.base())).right_aligned();
        if let Some(last) = rows.last() {
            starts.push(&format::hex(last.range.end()));
        }
        let always: IsChosen = |_| true;
        let columns = [
            (starts, always),
            (Column::new("end", rows, |row| format::hex(row.range.end())).right_aligned(), |choice: Columns| {
                choice.end
            }),
            (Column::new("size", rows, |row| format::size(row.size())).right_aligned(), always),
            (Column::new("type", rows, |row| row.type_text()).colored(), always),
            (Column::new("prot", rows, |row| row.protection(ellipsis)), always),
            (Column::new("backing", rows, |row| row.backing(ellipsis)), |choice: Columns| choice.backing),
            (Column::new("nd", rows, |row| row.node(ellipsis)), |choice: Columns| choice.node),
            (Column::new("", rows, flags), |choice: Columns| choice.node),
        ];
        let columns =
            columns.into_iter().enumerate().filter(|(index, (column, _))| *index < BARS_BEHIND || !column.is_empty());
        Self { columns: columns.map(|(_, column)| column).collect(), has_bars: rows.iter().any(has_bar) }
    }

    /// The width of the columns that are chosen, with the gaps behind them.
    fn width(&self, choice: Columns) -> usize {
        let bar = if self.has_bars && choice.bar > 0 { choice.bar.saturating_add(choice.gap) } else { 0 };
        let chosen = self.columns.iter().filter(|(_, is_chosen)| is_chosen(choice));
        chosen.map(|(column, _)| column.width().saturating_add(choice.gap)).fold(bar, usize::saturating_add)
    }

    fn chosen(self, choice: Columns, bars: impl FnOnce(usize) -> Column) -> Vec<Column> {
        let has_bars = self.has_bars && choice.bar > 0;
        let (mut ends, mut others) = (Vec::new(), Vec::new());
        for (index, (column, is_chosen)) in self.columns.into_iter().enumerate() {
            if is_chosen(choice) {
                if index < BARS_BEHIND { ends.push(column) } else { others.push(column) }
            }
        }
        ends.extend(has_bars.then(|| bars(choice.bar)));
        ends.extend(others);
        ends
    }
}

/// The column of bars, of so many cells.
fn bars(rows: &[Row<'_>], terminal: Terminal, cells: usize) -> Column {
    let largest = rows.iter().filter(|row| has_bar(row)).map(|row| row.size()).max().unwrap_or_default();
    let bar_of = |row: &Row<'_>| {
        let eighths = if has_bar(row) { eighths(row.size(), largest, cells) } else { 0 };
        if terminal.is_ascii { "#".repeat(eighths.div_ceil(8)) } else { bar(eighths) }
    };
    Column::new("", rows, bar_of).colored()
}

fn has_bar(row: &Row<'_>) -> bool {
    !matches!(row.content, Content::Free | Content::FreeForDevices)
}

/// How much of a bar a size fills, on a logarithmic scale from 4 KiB to the largest; never nothing.
fn eighths(size: u64, largest: u64, cells: usize) -> usize {
    let length = u64::try_from(cells).unwrap_or_default().saturating_mul(8);
    let filled = doublings(size).saturating_mul(length).checked_div(doublings(largest)).unwrap_or(length);
    usize::try_from(filled.clamp(1, length.max(1))).unwrap_or_default()
}

/// The logarithm of a size above the smallest, in steps: the place of its highest bit, and the four bits behind that.
fn doublings(size: u64) -> u64 {
    let exponent = size.checked_ilog2().unwrap_or_default();
    let behind = size.checked_shr(exponent.saturating_sub(4)).unwrap_or_default() & 0xf;
    match exponent.checked_sub(SMALLEST) {
        Some(above) => u64::from(above).saturating_mul(STEPS).saturating_add(behind),
        None => 0,
    }
}

fn bar(eighths: usize) -> String {
    let rest = EIGHTHS.get(eighths % 8).copied().unwrap_or_default();
    format!("{}{rest}", "█".repeat(eighths / 8))
}

/// The escape sequence of a row's type.
fn color(row: &Row<'_>) -> &'static str {
    match row.look().as_str() {
        "ram" => "94",
        "device" => "33",
        "dax" => "36",
        "firmware" => "35",
        "free" | "reserved" => DIM,
        _ => "",
    }
}

fn clipped(cell: &str, room: usize, ellipsis: &str) -> String {
    if columns_of(cell) <= room {
        return cell.into();
    }
    let kept = room.saturating_sub(columns_of(ellipsis));
    cell.chars().take(kept).chain(ellipsis.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::map;
    use super::*;
    use crate::model::interrupt::Uninterrupted;
    use crate::model::region_map::RegionMap;
    use crate::model::rows::rows;

    fn shown(map: &RegionMap, width: usize) -> String {
        terminal_table(&rows(map, &[], None), Terminal { width, is_ascii: false, has_color: false }, &Uninterrupted)
            .unwrap()
    }

    #[test]
    fn columns_give_way_to_the_name_and_no_line_is_wider_than_the_terminal() {
        let map = map(&[(0x1000, 0x1000, "a name that is as long as names of strangers are"), (1 << 30, 1 << 30, "b")]);
        for width in [60, 80, 100, 140] {
            let text = shown(&map, width);
            assert!(text.lines().all(|line| columns_of(line) <= width), "{text}");
            assert_eq!(text.contains("end"), width >= 100, "{text}");
        }
        assert!(shown(&map, 60).contains('…'));
        assert!(shown(&map, 140).ends_with("0x100_0000_0000"));
    }

    #[test]
    fn the_largest_fills_the_bar_and_the_smallest_is_seen() {
        assert_eq!(eighths(1 << 40, 1 << 40, 8), 64);
        assert_eq!(eighths(1, 1 << 40, 8), 1);
        assert_eq!(eighths(4096, 4096, 4), 32);
        assert_eq!(bar(12), "█▌");
        assert!((0..62).all(|bit| doublings(1 << bit) <= doublings((3 << bit) >> 1)));
    }

    #[test]
    fn nothing_of_a_name_moves_the_cursor() {
        let text = shown(&map(&[(0, 1, "\u{1b}[2J\u{202e}")]), 100);
        assert!(text.contains("\\u{1b}[2J\\u{202e}") && !text.contains('\u{1b}'), "{text}");
    }
}
