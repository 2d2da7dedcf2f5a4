//! The header of an image file, as pure data: `docs/image-format.md` describes each field.

use super::chunk::{CHUNK, Chunk, Digest, PAGE, field};
use crate::model::format::hex;
use crate::model::int::u64_of;
use crate::model::range::Range;

/// Bytes of the header.
pub const SIZE: usize = 4096;
/// The unit in which the data, and each area in it, is placed: that of a huge page.
pub const AREA: u64 = 2 << 20;
/// The most bytes of JSON.
pub const MOST_JSON: u64 = 16 << 20;

const MAGIC: [u8; 8] = *b"DBSASIMG";
const MAJOR: u32 = 1;
const INCREMENTAL: u32 = 1;
const WATCHED: u32 = 2;
const ROOT_AT: usize = 192;
const END: usize = 224;
/// `e_machine` of the ELF files of this architecture.
pub const MACHINE: u32 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

/// The reason why bytes are not a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// They are damaged, or never were one.
    Corrupt(String),
    /// A later version of this package wrote them.
    TooNew(String),
}

/// The header of a file; every section lies in the file, behind the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The ELF machine that the guest's memory is of.
    pub machine: u32,
    /// The bytes of memory.
    pub data: Range,
    /// The description as JSON.
    pub json: Range,
    /// The blobs.
    pub blobs: Range,
    /// The table of chunks.
    pub table: Range,
    /// The generation of the map.
    pub generation: u64,
    /// Whether writes would have been noticed while it was saved.
    pub is_watched: bool,
    /// The root digest of the image that this one is a difference from.
    pub parent: Option<Digest>,
    /// The digest of what memory is, however it is stored.
    pub content: Digest,
    /// The digest of everything but the bytes of memory, which the chunks have digests of.
    pub root: Digest,
}

impl Header {
    /// The bytes of the file.
    pub const fn file_size(&self) -> u64 {
        self.table.end()
    }

    /// The number of chunks that the data may have.
    pub const fn chunks(&self) -> u64 {
        self.data.size() / CHUNK
    }

    /// The bytes; `root` as it is.
    pub fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let flag = |bit: u32, is_set: bool| if is_set { bit } else { 0 };
        let flags = flag(INCREMENTAL, self.parent.is_some()) | flag(WATCHED, self.is_watched);
        let count = self.table.size().checked_div(Chunk::SIZE).unwrap_or_default();
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &MAJOR.to_le_bytes());
        put(&mut bytes, 16, &self.file_size().to_le_bytes());
        put(&mut bytes, 24, &PAGE.trailing_zeros().to_le_bytes());
        put(&mut bytes, 28, &CHUNK.trailing_zeros().to_le_bytes());
        put(&mut bytes, 32, &flags.to_le_bytes());
        put(&mut bytes, 36, &self.machine.to_le_bytes());
        for (at, section) in [(40, self.data), (56, self.json), (72, self.blobs)] {
            put(&mut bytes, at, &section.base().to_le_bytes());
            put(&mut bytes, at.saturating_add(8), &section.size().to_le_bytes());
        }
        put(&mut bytes, 88, &self.table.base().to_le_bytes());
        put(&mut bytes, 96, &count.to_le_bytes());
        put(&mut bytes, 104, &self.generation.to_le_bytes());
        put(&mut bytes, 128, &self.parent.unwrap_or_default());
        put(&mut bytes, 160, &self.content);
        put(&mut bytes, ROOT_AT, &self.root);
        bytes
    }

    /// The header of a file of so many bytes.
    pub fn parse(bytes: &[u8; SIZE], file_size: u64) -> Result<Self, Flaw> {
        let corrupt = |why: &str| Flaw::Corrupt(why.into());
        if field(bytes, 0) != MAGIC {
            return Err(corrupt("it is not an image: it does not begin with \"DBSASIMG\""));
        }
        let major = u32::from_le_bytes(field(bytes, 8));
        if major > MAJOR {
            return Err(Flaw::TooNew(format!("its format is version {major}, and this package reads up to {MAJOR}")));
        }
        let said = long(bytes, 16);
        if said != file_size {
            return Err(Flaw::Corrupt(format!("it has {} bytes and says {}", hex(file_size), hex(said))));
        }
        let units = [24, 28].map(|at| u32::from_le_bytes(field(bytes, at)));
        let flags = u32::from_le_bytes(field(bytes, 32));
        let digest = |at| field::<32>(bytes, at);
        let parent = Some(digest(128)).filter(|digest| *digest != Digest::default());
        let reserved = bytes.get(112..128).into_iter().chain(bytes.get(END..)).flatten();
        let is_known = major == MAJOR && units == [PAGE.trailing_zeros(), CHUNK.trailing_zeros()];
        if !is_known || flags & !(INCREMENTAL | WATCHED) != 0 || reserved.into_iter().any(|byte| *byte != 0) {
            return Err(corrupt("a field of its header has a value that no version writes"));
        }
        if (flags & INCREMENTAL != 0) != parent.is_some() {
            return Err(corrupt("its header says that it has a parent and that it has none"));
        }
        let [data, json, blobs, table] = sections(bytes).ok_or_else(|| corrupt("a section ends past 2^64"))?;
        let header = Self {
            machine: u32::from_le_bytes(field(bytes, 36)),
            data,
            json,
            blobs,
            table,
            generation: long(bytes, 104),
            is_watched: flags & WATCHED != 0,
            parent,
            content: digest(160),
            root: digest(ROOT_AT),
        };
        if header.is_in_order() && table.end() == file_size {
            return Ok(header);
        }
        Err(corrupt("the sections that its header names do not follow each other up to its end"))
    }

    fn is_in_order(&self) -> bool {
        let follows = |one: Range, next: Range| one.end().checked_next_multiple_of(PAGE) == Some(next.base());
        let is_placed = self.data.base() == AREA && self.data.size().is_multiple_of(AREA);
        let is_packed =
            follows(self.data, self.json) && follows(self.json, self.blobs) && follows(self.blobs, self.table);
        is_placed && is_packed && self.json.size() <= MOST_JSON
    }
}

/// The digest of a header, whatever its own field of it says, of the JSON and of the table.
pub fn root_of(header: &[u8; SIZE], json: &[u8], table: &[u8]) -> Digest {
    let mut header = *header;
    put(&mut header, ROOT_AT, &Digest::default());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header).update(json).update(table);
    hasher.finalize().into()
}

/// The sections in their order; `None` when one has no end.
fn sections(bytes: &[u8; SIZE]) -> Option<[Range; 4]> {
    let section =
        |at: usize, unit: u64| Range::new(long(bytes, at), long(bytes, at.saturating_add(8)).checked_mul(unit)?).ok();
    Some([section(40, 1)?, section(56, 1)?, section(72, 1)?, section(88, Chunk::SIZE)?])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

fn put(bytes: &mut [u8; SIZE], at: usize, value: &[u8]) {
    bytes.iter_mut().skip(at).zip(value).for_each(|(byte, value)| *byte = *value);
}

/// The place of the next section.
pub fn behind(section: Range, size: u64) -> Range {
    Range::at(section.end().next_multiple_of(PAGE), size)
}

/// The length of bytes, as a file counts it.
pub fn length(bytes: &[u8]) -> u64 {
    u64_of(bytes.len())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn header(chunks: u64) -> Header {
        let data = Range::at(AREA, AREA);
        let json = behind(data, 3);
        let blobs = behind(json, 0);
        let table = behind(blobs, chunks.saturating_mul(Chunk::SIZE));
        let (content, root) = ([1; 32], [2; 32]);
        Header {
            machine: MACHINE,
            data,
            json,
            blobs,
            table,
            generation: 7,
            is_watched: true,
            parent: None,
            content,
            root,
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for header in [header(0), header(3), Header { parent: Some([3; 32]), ..header(1) }] {
            assert_eq!(Header::parse(&header.encode(), header.file_size()), Ok(header));
        }
    }

    #[test]
    fn every_byte_of_a_header_counts() {
        let header = header(2);
        let bytes = header.encode();
        for at in 0..SIZE {
            for bit in [1, 0x80] {
                let mut flipped = bytes;
                flipped[at] ^= bit;
                let read = Header::parse(&flipped, header.file_size());
                assert!(read.is_err() || read.as_ref() != Ok(&header) || (12..16).contains(&at), "{at}");
            }
        }
    }

    #[test]
    fn any_numbers_at_all_are_refused_or_lie_in_the_file() {
        let hostile = [0, 1, 48, 4096, AREA, 1 << 32, 1 << 63, u64::MAX, u64::MAX / 48, u64::MAX / 48 + 1];
        for at in (40..112).step_by(8) {
            for value in hostile {
                let mut bytes = header(1).encode();
                put(&mut bytes, at, &value.to_le_bytes());
                let size = header(1).file_size();
                if let Ok(header) = Header::parse(&bytes, size) {
                    assert!(header.data.end() <= size && header.json.end() <= size && header.table.end() <= size);
                }
            }
        }
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let mut bytes = header(1).encode();
        bytes[8] = 2;
        assert!(matches!(Header::parse(&bytes, header(1).file_size()), Err(Flaw::TooNew(_))));
    }
}
