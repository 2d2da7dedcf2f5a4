//! Bytes as people read them: sixteen a line, in hexadecimal and as text.

use std::fmt::Write;

const WIDTH: usize = 16;

/// Lines of a dump; equal lines that follow each other become one `*`.
#[derive(Debug, Default)]
pub struct Hexdump {
    text: String,
    last: Option<[u8; WIDTH]>,
    is_repeating: bool,
    end: u64,
}

impl Hexdump {
    /// Adds the bytes from an address on, and returns the address behind them.
    pub fn bytes(&mut self, address: u64, bytes: &[u8]) -> u64 {
        let mut at = address;
        for line in bytes.chunks(WIDTH) {
            self.line(at, line);
            at = at.saturating_add(u64::try_from(line.len()).unwrap_or_default());
        }
        self.end = at;
        at
    }

    /// Adds `size` zeroes from an address on, and returns the address behind them.
    pub fn zeroes(&mut self, address: u64, size: u64) -> u64 {
        let end = address.saturating_add(size);
        let mut at = address;
        while at < end {
            let line = usize::try_from(end.saturating_sub(at)).unwrap_or(WIDTH).min(WIDTH);
            at = self.bytes(at, [0; WIDTH].get(..line).unwrap_or_default());
            if self.is_repeating {
                // The lines in between are equal too.
                let whole = end.saturating_sub(at) & !0xf;
                at = at.saturating_add(whole);
                self.end = at;
            }
        }
        end
    }

    fn line(&mut self, address: u64, bytes: &[u8]) {
        let whole: Option<[u8; WIDTH]> = bytes.try_into().ok();
        if whole.is_some() && whole == self.last {
            if !std::mem::replace(&mut self.is_repeating, true) {
                self.text.push_str("*\n");
            }
            return;
        }
        self.last = whole;
        self.is_repeating = false;
        // Writing to a string can't fail.
        let _ = write!(self.text, "{address:016x} ");
        for column in 0..WIDTH {
            if column.is_multiple_of(8) {
                self.text.push(' ');
            }
            let _ = match bytes.get(column) {
                Some(byte) => write!(self.text, "{byte:02x} "),
                None => write!(self.text, "   "),
            };
        }
        let shown = bytes.iter().map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' });
        let _ = writeln!(self.text, " |{}|", shown.collect::<String>());
    }

    /// Adds a line of words about what has no bytes.
    pub fn note(&mut self, text: &str) {
        self.last = None;
        self.is_repeating = false;
        let _ = writeln!(self.text, "{text}");
    }

    /// All lines, without the last line feed; behind a star at the end stands the address at which it ends.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.is_repeating {
            self.note(&format!("{:016x}", self.end));
        }
        self.text.pop();
        self.text
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
            dump.finish(),
            "0000000000001000  68 65 6c 6c 6f 2c 20 67  75 65 73 74 00 ff 7f 7e  |hello, guest...~|\n\
             0000000000001010  74 61 69 6c                                       |tail|"
        );
    }

    #[test]
    fn equal_lines_are_one_star() {
        let mut dump = Hexdump::default();
        dump.bytes(0, &[0; 64]);
        let text = dump.finish();
        assert_eq!(text.lines().count(), 3);
        assert!(text.ends_with("\n*\n0000000000000040"));
    }
}
