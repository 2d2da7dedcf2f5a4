//! Patterns to search for: bytes, or bytes with masked nibbles.

#![deny(clippy::disallowed_methods, reason = "sizes here are chosen by callers")]

use std::ops::Range;

use memchr::memmem::{self, Finder};

use super::error::Result;
use super::invalid::Invalid;
use super::quote::quoted;
use super::room::{self, Room};

/// Up to so many bytes to look for are prepared once; preparing more takes little beside looking for them, and as much memory again.
const PREPARED: usize = 4096;
/// So much of a text is repeated in an error.
const SHOWN: usize = 80;

/// A sequence of bytes of which some bits may be anything.
#[derive(Debug)]
pub struct Pattern {
    bytes: Vec<u8>,
    /// The bits that count, byte for byte; empty when all do.
    mask: Vec<u8>,
    /// The longest run of bytes that count whole: it is searched for fast, and the rest compared where it is found. Empty when no
    /// byte counts whole.
    anchor: Range<usize>,
    finder: Option<Finder<'static>>,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.mask == other.mask
    }
}

impl Eq for Pattern {}

impl std::hash::Hash for Pattern {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.bytes, &self.mask).hash(state);
    }
}

/// The outcome of a look for a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The first match begins here.
    Found(usize),
    /// There is none.
    Nowhere,
    /// There is none before this place, up to which the work allowed has come.
    Paused(usize),
}

impl Pattern {
    /// Exactly these bytes.
    pub fn exact(bytes: Vec<u8>) -> Result<Self> {
        if bytes.is_empty() {
            return Err(
                Invalid::argument("a search for nothing would find it everywhere: give at least one byte").into()
            );
        }
        let anchor = 0..bytes.len();
        Ok(Self::new(bytes, Vec::new(), anchor))
    }

    /// Hexadecimal bytes, apart or not, with `?` for a nibble that may be anything: `48 8b ?? c?`.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: String| {
            let shown: String = text.chars().take(SHOWN).collect();
            let dots = if shown.len() < text.len() { "..." } else { "" };
            Invalid::argument(format!(
                "{shown}{dots} is not a byte pattern: {what}; write hexadecimal bytes such as \"48 8b ?? c?\"",
                shown = quoted(&shown)
            ))
            .into()
        };
        let digits = || text.chars().filter(|digit| !digit.is_whitespace());
        let count = digits().count();
        if !count.is_multiple_of(2) {
            return Err(bad(format!("it has {count} digits, an odd number")));
        }
        let mut nibbles = digits().map(|digit| match (digit, digit.to_digit(16)) {
            ('?', _) => Ok((0, 0)),
            (_, Some(value)) => Ok((u8::try_from(value).unwrap_or_default(), 0xf)),
            _ => Err(bad(format!("{digit} is neither a digit nor '?'", digit = quoted(&digit.to_string())))),
        });
        let (mut bytes, mut mask) = (room::unwritten(count.div_ceil(2))?, room::unwritten(count.div_ceil(2))?);
        while let (Some(high), Some(low)) = (nibbles.next(), nibbles.next()) {
            let (high, low) = (high?, low?);
            bytes.add(high.0 << 4 | low.0)?;
            mask.add(high.1 << 4 | low.1)?;
        }
        if mask.iter().all(|bits| *bits == 0) {
            return Err(bad("no digit in it is fixed, so it would be found everywhere".into()));
        }
        let anchor = longest_run(&mask).unwrap_or_default();
        if mask.iter().all(|bits| *bits == 0xff) {
            mask = Vec::new();
        }
        Ok(Self::new(bytes, mask, anchor))
    }

    fn new(bytes: Vec<u8>, mask: Vec<u8>, anchor: Range<usize>) -> Self {
        let run = bytes.get(anchor.clone()).unwrap_or_default();
        let finder = (1..=PREPARED).contains(&run.len()).then(|| Finder::new(run).into_owned());
        Self { bytes, mask, anchor, finder }
    }

    /// The number of bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it matches zeroes.
    #[must_use]
    pub fn matches_zeroes(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0)
    }

    /// Where in `haystack` the first match at or behind `from` begins; looks at about `work` bytes, those of the pattern counted
    /// each time that it is compared.
    #[must_use]
    pub fn find(&self, haystack: &[u8], from: usize, work: usize) -> Look {
        let Some(last) = haystack.len().checked_sub(self.size()).filter(|last| from <= *last) else {
            return Look::Nowhere;
        };
        let (mut from, mut left) = (from, work);
        while from <= last {
            if left == 0 {
                return Look::Paused(from);
            }
            // Matches may begin from here up to there.
            let end = from.saturating_add(left).min(last);
            let Some(start) = self.candidate(haystack, from, end) else {
                from = end.saturating_add(1);
                left = 0;
                continue;
            };
            if self.matches_at(haystack, start) {
                return Look::Found(start);
            }
            left = left.saturating_sub(start.abs_diff(from)).saturating_sub(self.size());
            // Not behind the pattern: matches may overlap.
            from = start.saturating_add(1);
        }
        Look::Nowhere
    }

    /// The first place from `from` to `last` where the anchor is; without one, every place is tried.
    fn candidate(&self, haystack: &[u8], from: usize, last: usize) -> Option<usize> {
        let run = self.bytes.get(self.anchor.clone()).filter(|run| !run.is_empty());
        let Some(run) = run else { return Some(from) };
        let lead = self.anchor.start;
        let (start, end) = (from.checked_add(lead)?, last.checked_add(lead)?.checked_add(run.len())?);
        let there = haystack.get(start..end)?;
        let hit = self.finder.as_ref().map_or_else(|| memmem::find(there, run), |finder| finder.find(there));
        from.checked_add(hit?)
    }

    fn matches_at(&self, haystack: &[u8], start: usize) -> bool {
        if self.mask.is_empty() {
            // All of it is the anchor.
            return true;
        }
        let there = start.checked_add(self.bytes.len()).and_then(|end| haystack.get(start..end));
        let wanted = || self.bytes.iter().zip(&self.mask);
        there.is_some_and(|there| there.iter().zip(wanted()).all(|(byte, (wanted, bits))| byte & bits == *wanted))
    }

    /// It as text, which [`parse`](Self::parse) reads.
    pub fn text(&self) -> Result<String> {
        let mut text = String::new();
        room::reserve(&mut text, self.size().saturating_mul(3))?;
        let digit = |value: u8, bits: u8| {
            if bits == 0 { '?' } else { char::from_digit(u32::from(value), 16).unwrap_or('?') }
        };
        for (index, byte) in self.bytes.iter().enumerate() {
            let bits = self.mask.get(index).copied().unwrap_or(0xff);
            if index > 0 {
                text.push(' ');
            }
            text.push(digit(byte >> 4, bits >> 4));
            text.push(digit(byte & 0xf, bits & 0xf));
        }
        Ok(text)
    }
}

/// The longest run of bytes of which every bit counts; the first of several.
fn longest_run(mask: &[u8]) -> Option<Range<usize>> {
    let counts = |index: usize| mask.get(index) == Some(&0xff);
    let begins = |index: &usize| counts(*index) && !index.checked_sub(1).is_some_and(counts);
    let run = |start: usize| start..(start..mask.len()).find(|index| !counts(*index)).unwrap_or(mask.len());
    // `max_by_key` takes the last of equal ones: reversed, that is the first.
    (0..mask.len()).filter(begins).map(run).rev().max_by_key(ExactSizeIterator::len)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "sizes here are small")]
mod tests {
    use super::*;

    /// All matches, by looks of so little work each.
    fn all_by(pattern: &Pattern, haystack: &[u8], work: usize) -> Vec<usize> {
        let (mut found, mut from) = (Vec::new(), 0);
        loop {
            from = match pattern.find(haystack, from, work) {
                Look::Found(start) => {
                    found.push(start);
                    start.saturating_add(1)
                }
                Look::Paused(next) => {
                    assert!(next > from);
                    next
                }
                Look::Nowhere => return found,
            }
        }
    }

    fn all(pattern: &Pattern, haystack: &[u8]) -> Vec<usize> {
        let found = all_by(pattern, haystack, usize::MAX);
        for work in [1, 2, 3, 7, 100] {
            assert_eq!(all_by(pattern, haystack, work), found, "{work}");
        }
        found
    }

    fn exact(bytes: &[u8]) -> Pattern {
        Pattern::exact(bytes.to_vec()).unwrap()
    }

    #[test]
    fn matches_may_overlap_and_lie_at_the_ends() {
        assert_eq!(all(&exact(b"aa"), b"aaaba"), [0, 1]);
        assert_eq!(all(&exact(b"abc"), b"abcxabc"), [0, 4]);
        assert_eq!(all(&exact(b"abc"), b"ab"), [0usize; 0]);
        assert_eq!(all(&exact(&[0; PREPARED + 1]), &[0; PREPARED + 3]), [0, 1, 2]);
    }

    #[test]
    fn nibbles_may_be_anything() {
        let pattern = Pattern::parse("48 8b ?? c?").unwrap();
        assert_eq!(pattern.text().unwrap(), "48 8b ?? c?");
        assert_eq!(all(&pattern, b"\x48\x8b\x00\xc5\x48\x8b\x01\xb0\x48\x8b\xff\xcf"), [0, 8]);
        assert_eq!(all(&Pattern::parse("?0").unwrap(), b"\x10\x01\x20"), [0, 2]);
        assert_eq!(all(&Pattern::parse("??ff").unwrap(), b"\xff\xff\x00\xff"), [0, 2]);
    }

    #[test]
    fn work_ends_where_each_place_nearly_matches() {
        let nearly = Pattern::parse(&["00 ".repeat(1000), "?1".into()].concat()).unwrap();
        assert_eq!(nearly.find(&[0; 10_000], 0, 5000), Look::Paused(5));
        let without_anchor = Pattern::parse(&["0?".repeat(1000), "?1".into()].concat()).unwrap();
        assert_eq!(without_anchor.find(&[0; 10_000], 0, 5000), Look::Paused(5));
    }

    #[test]
    fn the_anchor_is_the_longest_fixed_run() {
        assert_eq!(longest_run(&[0xff, 0, 0xff, 0xff, 0xf0]), Some(2..4));
        assert_eq!(longest_run(&[0xf0, 0x0f]), None);
        assert_eq!(longest_run(&[0xff, 0xff, 0, 0xff, 0xff]), Some(0..2));
        assert_eq!(longest_run(&[0xff; 3]), Some(0..3));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "4", "zz", "?? ??", "0x12"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
        assert!(Pattern::exact(Vec::new()).is_err());
    }
}
