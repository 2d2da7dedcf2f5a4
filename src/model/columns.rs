//! Cells as an aligned text.

use super::error::Result;
use super::interrupt::Interrupt;
use super::rows::Row;

/// The escape sequence of what is not there for use.
pub(super) const DIM: &str = "2";
/// Between two looks at the interrupt.
const LINES: usize = 1 << 8;

/// A column: its cells, the first of which is its header, one behind the other in a text.
pub(super) struct Column {
    text: String,
    ends: Vec<usize>,
    width: usize,
    is_right: bool,
    /// Shown in the colour of the row's type.
    is_colored: bool,
}

impl Column {
    pub(super) fn new(header: &str, rows: &[Row<'_>], cell: impl Fn(&Row<'_>) -> String) -> Self {
        let mut column = Self { text: String::new(), ends: Vec::new(), width: 0, is_right: false, is_colored: false };
        column.push(header);
        rows.iter().for_each(|row| column.push(&cell(row)));
        column
    }

    /// Adds a cell below the others.
    pub(super) fn push(&mut self, cell: &str) {
        self.text.push_str(cell);
        self.ends.push(self.text.len());
        self.width = self.width.max(columns_of(cell));
    }

    pub(super) fn right_aligned(self) -> Self {
        Self { is_right: true, ..self }
    }

    pub(super) fn colored(self) -> Self {
        Self { is_colored: true, ..self }
    }

    /// The column with other cells.
    pub(super) fn map(self, change: impl Fn(&str) -> String) -> Self {
        let mut column = Self { text: String::new(), ends: Vec::new(), width: 0, ..self };
        let mut from = 0;
        for end in self.ends {
            column.push(&change(self.text.get(from..end).unwrap_or_default()));
            from = end;
        }
        column
    }

    /// Whether there is nothing below the header.
    pub(super) fn is_empty(&self) -> bool {
        self.ends.first().is_none_or(|header| *header == self.text.len())
    }

    pub(super) const fn width(&self) -> usize {
        self.width
    }

    fn cell(&self, line: usize) -> &str {
        let from = line.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        self.ends.get(line).and_then(|end| self.text.get(from..*end)).unwrap_or_default()
    }
}

/// The lines of the columns, each cell as wide as the widest; `color` is that of a line, of which free and reserved rows have it
/// as a whole, others where it tells the type.
pub(super) fn aligned<'a>(
    columns: &[Column],
    gap: usize,
    color: impl Fn(usize) -> &'a str,
    interrupt: &dyn Interrupt,
) -> Result<String> {
    let lines = columns.iter().map(|column| column.ends.len()).max().unwrap_or_default();
    let mut text = String::new();
    for line in 0..lines {
        if line % LINES == 0 {
            interrupt.check()?;
        }
        if line > 0 {
            text.push('\n');
        }
        let color = color(line);
        // Spaces go before the next thing that is shown, so that no line ends in them.
        let mut spaces = 0_usize;
        for column in columns {
            let cell = column.cell(line);
            let missing = column.width.saturating_sub(columns_of(cell));
            let (before, behind) = if column.is_right { (missing, 0) } else { (0, missing) };
            spaces = spaces.saturating_add(before);
            if !cell.is_empty() {
                text.extend(std::iter::repeat_n(' ', std::mem::take(&mut spaces)));
                push_colored(&mut text, cell, if column.is_colored || color == DIM { color } else { "" });
            }
            spaces = spaces.saturating_add(behind).saturating_add(gap);
        }
    }
    Ok(text)
}

fn push_colored(text: &mut String, cell: &str, color: &str) {
    if color.is_empty() {
        text.push_str(cell);
    } else {
        text.extend(["\u{1b}[", color, "m", cell, "\u{1b}[0m"]);
    }
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

pub(super) fn columns_of(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

/// A name as a terminal may be sent it: control and direction characters are shown, not obeyed.
pub(super) fn visible(name: &str, is_ascii: bool) -> String {
    let is_plain = |c: char| !c.is_control() && !is_direction(c) && (!is_ascii || c.is_ascii());
    if name.chars().all(is_plain) {
        return name.to_owned();
    }
    name.chars().map(|c| if is_plain(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

const fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
