//! The chunks of an image's data: what the table says of each, and the tables of a chain as one.

use std::cmp::Ordering;

use crate::model::bytes::is_zero;
use crate::model::error::Result;
use crate::model::int::{index_sum, u64_of, usize_of};
use crate::model::room::{self, Room};

/// Bytes of a chunk, which has a digest.
pub const CHUNK: u64 = 64 << 10;
/// Bytes of a page, the unit in which a chunk is stored.
pub const PAGE: u64 = 4096;
/// The mask of all pages of a chunk.
pub const ALL_PAGES: u16 = u16::MAX;

/// A BLAKE3 digest; that of a chunk of zeroes is all zero.
pub type Digest = [u8; 32];

/// The bytes of one chunk while it is worked on.
pub type Buffer = Vec<u8>;

/// The entry of a chunk in the table of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Its place in the data, in chunks.
    pub number: u64,
    /// The pages that this file has of it, a bit each; the others are the parent's, or zeroes.
    pub pages: u16,
    /// The digest of all its bytes, whichever file has them.
    pub digest: Digest,
}

/// A chunk as memory has it: its number and its digest.
pub type Named = (u64, Digest);

impl Chunk {
    /// Bytes of an entry.
    pub const SIZE: u64 = 48;

    /// Whether all its bytes are zero.
    pub fn is_zero(&self) -> bool {
        self.digest == Digest::default()
    }

    const fn named(&self) -> Named {
        (self.number, self.digest)
    }

    /// The entry.
    pub fn encode(&self) -> [u8; 48] {
        let (number, pages) = (self.number.to_le_bytes(), self.pages.to_le_bytes());
        let mut bytes = [0; 48];
        let fields = number.iter().chain(&pages).chain(&[0; 6]).chain(&self.digest);
        bytes.iter_mut().zip(fields).for_each(|(byte, value)| *byte = *value);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let pages = u16::from_le_bytes(field(bytes, 8));
        let chunk = Self { number: u64::from_le_bytes(field(bytes, 0)), pages, digest: field(bytes, 16) };
        (field::<6>(bytes, 10) == [0; 6] && chunk.is_zero() == (pages == 0)).then_some(chunk)
    }
}

/// The chunks of a table whose data has room for so many; `None` when they do not ascend, or can't be.
pub fn parse(table: &[u8], room: u64, is_incremental: bool) -> Result<Option<Vec<Chunk>>> {
    let entries = table.chunks_exact(usize_of(Chunk::SIZE));
    let mut chunks: Vec<Chunk> = room::unwritten(entries.len())?;
    for entry in entries {
        let decoded = Chunk::decode(entry).filter(|chunk| chunk.number < room && (is_incremental || !chunk.is_zero()));
        let ascends = |chunk: &Chunk| chunks.last().is_none_or(|last| last.number < chunk.number);
        let Some(chunk) = decoded.filter(ascends) else { return Ok(None) };
        chunks.add(chunk)?;
    }
    Ok(Some(chunks))
}

/// The chunks behind a difference: those of its table, and where it says nothing the parent's. Zeroes are left out.
pub fn merged(parent: &[Named], own: &[Chunk]) -> Result<Vec<Named>> {
    let mut all: Vec<Named> = room::unwritten(parent.len().saturating_add(own.len()))?;
    let (mut old, mut new) = (parent.iter().peekable(), own.iter().peekable());
    loop {
        let next = match (old.peek(), new.peek()) {
            (None, None) => return Ok(all),
            (Some(one), Some(other)) => one.0.cmp(&other.number),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        let kept = if next == Ordering::Less { old.next().copied() } else { new.next().map(Chunk::named) };
        if next == Ordering::Equal {
            old.next();
        }
        all.add_all(kept.filter(|(_, digest)| *digest != Digest::default()))?;
    }
}

/// The digest of what memory is.
pub fn content_of(chunks: &[Named]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for (number, digest) in chunks {
        hasher.update(&number.to_le_bytes()).update(digest);
    }
    hasher.finalize().into()
}

/// The digest of a chunk's bytes.
pub fn digest_of(bytes: &[u8]) -> Digest {
    if is_zero(bytes) { Digest::default() } else { blake3::hash(bytes).into() }
}

/// The runs of pages in a mask: the offset of each in its chunk, and its size.
pub fn runs(pages: u16) -> impl Iterator<Item = (u64, u64)> {
    let mut left = u32::from(pages);
    let mut at = 0u32;
    std::iter::from_fn(move || {
        let skipped = left.trailing_zeros();
        if skipped == u32::BITS {
            return None;
        }
        let count = (left >> skipped).trailing_ones();
        at = at.saturating_add(skipped);
        let run = (u64::from(at).saturating_mul(PAGE), u64::from(count).saturating_mul(PAGE));
        // At most 16 bits are set, so that no shift is too wide.
        left = left >> skipped >> count;
        at = at.saturating_add(count);
        Some(run)
    })
}

/// The mask of the pages for which a question about their offset is answered by yes.
pub fn pages_where(mut is_it: impl FnMut(usize) -> bool) -> u16 {
    (0..16u32)
        .filter(|page| is_it(usize_of(u64::from(*page).saturating_mul(PAGE))))
        .fold(0, |mask, page| mask | 1 << page)
}

/// The bytes of a field, which lies inside.
pub fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// The page at an offset of a chunk.
pub fn page(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(at..index_sum(at, usize_of(PAGE))).unwrap_or_default()
}

/// The pages of a chunk that are not zero.
pub fn used_pages(bytes: &[u8]) -> u16 {
    pages_where(|at| !is_zero(page(bytes, at)))
}

/// The pages that part of a chunk touches.
pub fn pages_of(offset: u64, size: u64) -> u16 {
    let end = offset.saturating_add(size);
    pages_where(|page| u64_of(page) < end && u64_of(page).saturating_add(PAGE) > offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: u64, byte: u8) -> Chunk {
        Chunk { number, pages: if byte == 0 { 0 } else { 0x8001 }, digest: [byte; 32] }
    }

    fn table(chunks: &[Chunk]) -> Vec<u8> {
        chunks.iter().flat_map(Chunk::encode).collect()
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let chunks = [chunk(0, 1), chunk(1, 0), chunk(31, 2)];
        assert_eq!(parse(&table(&chunks), 32, true).unwrap().unwrap(), chunks);
        assert_eq!(parse(&table(&chunks), 32, false).unwrap(), None, "zeroes are left out of a full image");
        assert_eq!(parse(&table(&chunks), 31, true).unwrap(), None, "behind the data");
        assert_eq!(parse(&table(&[chunk(2, 1), chunk(1, 1)]), 32, true).unwrap(), None);
        assert_eq!(parse(&table(&[chunk(1, 1), chunk(1, 1)]), 32, true).unwrap(), None);
        for at in (8..16).chain([16]) {
            let mut bytes = table(&[Chunk { pages: 0, ..chunk(1, 0) }]);
            bytes[at] = 1;
            assert_eq!(parse(&bytes, 32, true).unwrap(), None, "{at}");
        }
    }

    #[test]
    fn a_difference_takes_the_place_of_what_its_parent_has() {
        let parent = [(0, [1; 32]), (1, [1; 32]), (5, [1; 32])];
        let own = [chunk(1, 2), chunk(3, 3), chunk(5, 0), chunk(9, 4)];
        let expected = [(0, [1; 32]), (1, [2; 32]), (3, [3; 32]), (9, [4; 32])];
        assert_eq!(merged(&parent, &own).unwrap(), expected);
        assert_eq!(merged(&parent, &[]).unwrap(), parent);
        assert_ne!(content_of(&parent), content_of(&expected));
    }

    #[test]
    fn the_runs_of_a_mask_are_its_pages() {
        for pages in [0, 1, 0x8000, 0xffff, 0x00f0, 0xa5a5, 0x7fff] {
            let mut back = 0;
            runs(pages).for_each(|(at, size)| back |= pages_of(at, size));
            assert_eq!(back, pages);
        }
        assert_eq!(runs(0b1_0110).collect::<Vec<_>>(), [(0x1000, 0x2000), (0x4000, 0x1000)]);
        assert_eq!(pages_of(0xfff, 2), 0b11);
        assert_eq!(pages_of(0x1000, 0), 0);
    }

    #[test]
    fn zeroes_have_a_digest_of_their_own() {
        assert_eq!(digest_of(&[0; 9]), Digest::default());
        assert_ne!(digest_of(&[1; 9]), Digest::default());
    }
}
