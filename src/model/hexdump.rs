//! Bytes as people read them: sixteen a line, in hexadecimal and as text.

#![deny(clippy::disallowed_methods, reason = "sizes here are chosen by callers")]

use std::fmt::Write;

use super::error::{Error, Result};
use super::int::{u64_of, usize_of};
use super::range::Range;
use super::room;

const WIDTH: usize = 16;
/// Bytes of a line of text, and a star.
const LINE: usize = 82;

/// Lines of a dump; equal lines that follow each other become one `*`.
#[derive(Debug, Default)]
pub struct Hexdump {
    text: String,
    /// Bytes before `end` that do not fill a line yet.
    pending: Vec<u8>,
    last: Option<[u8; WIDTH]>,
    is_repeating: bool,
    end: u64,
    /// The first refusal of room for the text, which is empty from then on.
    refused: Option<Error>,
}

impl Hexdump {
    /// Adds the bytes from an address on, and returns the address behind them; a line goes on where they follow those before.
    pub fn bytes(&mut self, address: u64, bytes: &[u8]) -> u64 {
        if address != self.end {
            self.flush();
            self.end = address;
        }
        // Lines count from where the dump, or the part behind a gap, began: regions may begin anywhere.
        let missing = WIDTH.abs_diff(self.pending.len()) % WIDTH;
        let (head, rest) = bytes.split_at(missing.min(bytes.len()));
        self.add(head);
        rest.chunks(WIDTH).for_each(|line| self.add(line));
        self.end
    }

    /// Adds bytes that end with a line or before.
    fn add(&mut self, bytes: &[u8]) {
        self.pending.extend(bytes);
        self.end = Range::at(self.end, u64_of(bytes.len())).end();
        if self.pending.len() == WIDTH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            self.line(Range::between(0, self.end).last(u64_of(pending.len())).base(), &pending);
        }
    }

    /// Adds `size` zeroes from an address on, and returns the address behind them.
    pub fn zeroes(&mut self, address: u64, size: u64) -> u64 {
        let mut left = Range::at(address, size);
        while !left.is_empty() {
            let line = left.take(u64_of(WIDTH));
            self.bytes(line.base(), [0; WIDTH].get(..usize_of(line.size())).unwrap_or_default());
            left = left.skip(line.size());
            if self.is_repeating && self.last == Some([0; WIDTH]) {
                // The whole lines that follow are equal too: a hole of terabytes takes no longer than one of a page.
                left = left.skip(left.size() & !0xf);
                self.end = left.base();
            }
        }
        left.end()
    }

    fn line(&mut self, address: u64, bytes: &[u8]) {
        let whole: Option<[u8; WIDTH]> = bytes.try_into().ok();
        if whole.is_some() && whole == self.last {
            if !std::mem::replace(&mut self.is_repeating, true) {
                self.make_room(LINE);
                self.text.push_str("*\n");
            }
            return;
        }
        self.last = whole;
        self.is_repeating = false;
        self.make_room(LINE);
        // Writing to a string can't fail.
        let _ = write!(self.text, "{address:016x} ");
        for column in 0..WIDTH {
            if column.is_multiple_of(8) {
                self.text.push(' ');
            }
            // By digits: a formatted number takes ten times as long.
            let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or_default();
            let digits = bytes.get(column).map_or([' ', ' '], |byte| [digit(byte >> 4), digit(byte & 0xf)]);
            self.text.extend(digits.into_iter().chain([' ']));
        }
        self.text.push_str(" |");
        self.text.extend(bytes.iter().map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' }));
        self.text.push_str("|\n");
    }

    /// Adds a line of words about addresses that have no bytes.
    pub fn note(&mut self, text: &str) {
        self.flush();
        // A line behind the note is shown even where it equals the one before.
        self.last = None;
        self.is_repeating = false;
        self.make_room(text.len().saturating_add(1));
        let _ = writeln!(self.text, "{text}");
    }

    /// Sees to it that so many bytes of text can be added.
    fn make_room(&mut self, bytes: usize) {
        if self.refused.is_some() {
            self.text.clear();
        } else if let Err(refused) = room::reserve(&mut self.text, bytes) {
            self.text = String::new();
            self.refused = Some(refused);
        }
    }

    /// Whether there is room for all lines up to now.
    pub fn check(&self) -> Result<()> {
        self.refused.clone().map_or(Ok(()), Err)
    }

    /// All lines, without the last line feed; behind a star at the end stands the address at which it ends.
    pub fn finish(mut self) -> Result<String> {
        self.flush();
        if self.is_repeating {
            self.note(&format!("{:016x}", self.end));
        }
        self.check()?;
        self.text.pop();
        Ok(self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_like_hexdumps() {
        let mut dump = Hexdump::default();
        dump.bytes(0x1000, b"hello, guest\0\xff\x7f~tail");
        assert_eq!(
            dump.finish().unwrap(),
            "0000000000001000  68 65 6c 6c 6f 2c 20 67  75 65 73 74 00 ff 7f 7e  |hello, guest...~|\n\
             0000000000001010  74 61 69 6c                                       |tail|"
        );
    }

    #[test]
    fn equal_lines_are_one_star() {
        let mut dump = Hexdump::default();
        dump.bytes(0, &[0; 64]);
        let text = dump.finish().unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.ends_with("\n*\n0000000000000040"));
    }

    #[test]
    fn lines_go_on_over_joints_and_end_at_gaps() {
        let mut dump = Hexdump::default();
        dump.bytes(0xd, b"par");
        dump.zeroes(0x10, 40);
        dump.bytes(0x38, b"ent");
        dump.bytes(0x100, b"gap");
        let text = dump.finish().unwrap();
        let addresses: Vec<&str> = text.lines().map(|line| line.get(12..16).unwrap_or(line)).collect();
        assert_eq!(addresses, ["000d", "001d", "002d", "0100"]);
        assert!(text.contains("|...........ent|"), "{text}");
    }

    #[test]
    fn many_zeroes_are_one_star_wherever_they_begin() {
        for (before, expected) in [(0u64, vec!["0000", "*", "0000"]), (3, vec!["0000", "0010", "*", "0000"])] {
            let mut dump = Hexdump::default();
            dump.bytes(0, &[1; 3][..usize_of(before)]);
            assert_eq!(dump.zeroes(before, 1 << 40), (1 << 40) + before);
            dump.bytes((1 << 40) + before, b"end");
            let text = dump.finish().unwrap();
            let addresses: Vec<&str> = text.lines().map(|line| line.get(12..16).unwrap_or(line)).collect();
            assert_eq!(addresses, expected, "{text}");
        }
    }
}
