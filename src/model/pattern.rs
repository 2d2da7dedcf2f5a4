//! Patterns to search for: bytes, or bytes with masked nibbles.

use super::quote::quoted;
use memchr::memmem::Finder;

use super::error::Result;
use super::invalid::Invalid;

/// A sequence of bytes of which some bits may be anything.
#[derive(Clone, Debug)]
pub struct Pattern {
    bytes: Box<[u8]>,
    /// The bits that count, byte for byte; `None` when all do.
    mask: Option<Box<[u8]>>,
    /// The longest run of bytes that count whole, and where it begins: it is searched for fast, and the rest compared where it is
    /// found. `None` when no byte counts whole.
    anchor: Option<(usize, Finder<'static>)>,
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

impl Pattern {
    /// Exactly these bytes.
    pub fn exact(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() {
            return Err(
                Invalid::argument("a search for nothing would find it everywhere: give at least one byte").into()
            );
        }
        Ok(Self { bytes: bytes.into(), mask: None, anchor: Some((0, Finder::new(bytes).into_owned())) })
    }

    /// Hexadecimal bytes, apart or not, with `?` for a nibble that may be anything: `48 8b ?? c?`.
    pub fn parse(text: &str) -> Result<Self> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        let bad = |what: String| {
            Invalid::argument(format!(
                "{text} is not a byte pattern: {what}; write hexadecimal bytes such as \"48 8b ?? c?\"",
                text = quoted(text)
            ))
            .into()
        };
        if !digits.len().is_multiple_of(2) {
            return Err(bad(format!("it has {} digits, an odd number", digits.len())));
        }
        let mut nibbles = digits.into_iter().map(|digit| match (digit, digit.to_digit(16)) {
            ('?', _) => Ok((0, 0)),
            (_, Some(value)) => Ok((u8::try_from(value).unwrap_or_default(), 0xf)),
            _ => Err(bad(format!("{digit} is neither a digit nor '?'", digit = quoted(&digit.to_string())))),
        });
        let (mut bytes, mut mask) = (Vec::new(), Vec::new());
        while let (Some(high), Some(low)) = (nibbles.next(), nibbles.next()) {
            let (high, low) = (high?, low?);
            bytes.push(high.0 << 4 | low.0);
            mask.push(high.1 << 4 | low.1);
        }
        if mask.iter().all(|bits| *bits == 0) {
            return Err(bad("no digit in it is fixed, so it would be found everywhere".into()));
        }
        Ok(Self::masked(bytes, mask))
    }

    fn masked(bytes: Vec<u8>, mask: Vec<u8>) -> Self {
        let anchor =
            longest_run(&mask).map(|run| (run.start, Finder::new(bytes.get(run).unwrap_or_default()).into_owned()));
        let mask = mask.iter().any(|bits| *bits != 0xff).then(|| mask.into());
        Self { bytes: bytes.into(), mask, anchor }
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

    /// Where in `haystack` the first match at or behind `from` begins.
    #[must_use]
    pub fn find(&self, haystack: &[u8], from: usize) -> Option<usize> {
        let Some((lead, finder)) = &self.anchor else { return self.find_slowly(haystack, from) };
        let mut from = from.checked_add(*lead)?;
        loop {
            let hit = from.checked_add(finder.find(haystack.get(from..)?)?)?;
            let start = hit.checked_sub(*lead)?;
            if self.matches_at(haystack, start) {
                return Some(start);
            }
            // Not behind the hit: matches may overlap.
            from = hit.checked_add(1)?;
        }
    }

    /// Without a whole byte to look for, every place is tried.
    fn find_slowly(&self, haystack: &[u8], from: usize) -> Option<usize> {
        let last = haystack.len().checked_sub(self.bytes.len())?;
        (from..=last).find(|start| self.matches_at(haystack, *start))
    }

    fn matches_at(&self, haystack: &[u8], start: usize) -> bool {
        let there = start.checked_add(self.bytes.len()).and_then(|end| haystack.get(start..end));
        match (there, &self.mask) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(there), Some(mask)) => {
                there.iter().zip(&self.bytes).zip(mask).all(|((byte, wanted), bits)| byte & bits == *wanted)
            }
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digit = |value: u8, bits: u8| {
            if bits == 0 { '?' } else { char::from_digit(u32::from(value), 16).unwrap_or('?') }
        };
        for (index, byte) in self.bytes.iter().enumerate() {
            let bits = self.mask.as_ref().and_then(|mask| mask.get(index).copied()).unwrap_or(0xff);
            let space = if index == 0 { "" } else { " " };
            write!(formatter, "{space}{}{}", digit(byte >> 4, bits >> 4), digit(byte & 0xf, bits & 0xf))?;
        }
        Ok(())
    }
}

/// The longest run of bytes of which every bit counts; the first of several.
fn longest_run(mask: &[u8]) -> Option<std::ops::Range<usize>> {
    let counts = |index: usize| mask.get(index) == Some(&0xff);
    let begins = |index: &usize| counts(*index) && !index.checked_sub(1).is_some_and(counts);
    let run = |start: usize| start..(start..mask.len()).find(|index| !counts(*index)).unwrap_or(mask.len());
    // `max_by_key` takes the last of equal ones: reversed, that is the first.
    (0..mask.len()).filter(begins).map(run).rev().max_by_key(ExactSizeIterator::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pattern: &Pattern, haystack: &[u8]) -> Vec<usize> {
        let next = |from: usize| pattern.find(haystack, from);
        std::iter::successors(next(0), |found| next(found.saturating_add(1))).collect()
    }

    #[test]
    fn matches_may_overlap_and_lie_at_the_ends() {
        assert_eq!(all(&Pattern::exact(b"aa").unwrap(), b"aaaba"), [0, 1]);
        assert_eq!(all(&Pattern::exact(b"abc").unwrap(), b"abcxabc"), [0, 4]);
        assert_eq!(all(&Pattern::exact(b"abc").unwrap(), b"ab"), [0usize; 0]);
    }

    #[test]
    fn nibbles_may_be_anything() {
        let pattern = Pattern::parse("48 8b ?? c?").unwrap();
        assert_eq!(pattern.to_string(), "48 8b ?? c?");
        assert_eq!(all(&pattern, b"\x48\x8b\x00\xc5\x48\x8b\x01\xb0\x48\x8b\xff\xcf"), [0, 8]);
        assert_eq!(all(&Pattern::parse("?0").unwrap(), b"\x10\x01\x20"), [0, 2]);
        assert_eq!(all(&Pattern::parse("??ff").unwrap(), b"\xff\xff\x00\xff"), [0, 2]);
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
        assert!(Pattern::exact(b"").is_err());
    }
}
