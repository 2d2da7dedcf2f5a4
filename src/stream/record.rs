//! The bytes of a stream beside those of memory, as pure data: `docs/stream-format.md` describes each field.

use crate::image::chunk::{CHUNK, Digest, PAGE, field};
use crate::image::header::{AREA, MACHINE, MOST_JSON};
use crate::model::error::ImageFault;
use crate::model::format::hex;

/// Bytes of the head, of each record, and of the answer.
pub const SIZE: usize = 64;
/// The most bytes of blobs.
pub const MOST_BLOBS: u64 = 256 << 20;
/// The most bytes of a blob's name, and of a reason.
pub const MOST_TEXT: u64 = 4096;

const MAGIC: [u8; 8] = *b"DBSASTRM";
const ANSWER_MAGIC: [u8; 8] = *b"DBSASANS";
const MAJOR: u32 = 1;

/// The bytes of a head, record or answer.
pub type Block = [u8; SIZE];

/// The flaw of bytes that were received.
pub type Flaw = (ImageFault, String);

fn corrupt<T>(why: impl Into<String>) -> Result<T, Flaw> {
    Err((ImageFault::Corrupt, why.into()))
}

fn block(fields: &[&[u8]]) -> Block {
    let mut bytes = [0; SIZE];
    let values = fields.iter().copied().flatten();
    bytes.iter_mut().zip(values).for_each(|(byte, value)| *byte = *value);
    bytes
}

fn long(bytes: &Block, at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

fn short(bytes: &Block, at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

/// The beginning of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The bytes that the data has room for.
    pub data_size: u64,
    /// The generation of the map.
    pub generation: u64,
    /// The bytes of JSON that follow.
    pub json_size: u64,
    /// The bytes of memory that have data, at first.
    pub expected: u64,
}

impl Head {
    /// The bytes.
    pub fn encode(&self) -> Block {
        let units = [PAGE, CHUNK].map(|unit| unit.trailing_zeros().to_le_bytes()).concat();
        let version = [MAJOR, 0].map(u32::to_le_bytes).concat();
        let machine = [0, MACHINE].map(u32::to_le_bytes).concat();
        let numbers = [self.data_size, self.generation, self.json_size, self.expected].map(u64::to_le_bytes).concat();
        block(&[&MAGIC, &version, &units, &machine, &numbers])
    }

    /// The head that some bytes are.
    pub fn parse(bytes: &Block) -> Result<Self, Flaw> {
        if field(bytes, 0) != MAGIC {
            return corrupt("it does not begin with \"DBSASTRM\": the other side does not send memory");
        }
        if short(bytes, 8) > MAJOR {
            let message = format!("its format is version {}, and this package reads up to {MAJOR}", short(bytes, 8));
            return Err((ImageFault::TooNew, message));
        }
        let [data_size, generation, json_size, expected] = [32, 40, 48, 56].map(|at| long(bytes, at));
        let units = [16, 20].map(|at| short(bytes, at));
        let is_known = short(bytes, 8) == MAJOR && units == [PAGE.trailing_zeros(), CHUNK.trailing_zeros()];
        if !is_known || short(bytes, 12) != 0 || short(bytes, 24) != 0 || !data_size.is_multiple_of(AREA) {
            return corrupt("a field of its head has a value that no version sends");
        }
        if short(bytes, 28) != MACHINE {
            let message = format!("it comes from another architecture (ELF machine {})", short(bytes, 28));
            return Err((ImageFault::Mismatch, message));
        }
        if json_size > MOST_JSON {
            return corrupt(format!("its JSON has {} bytes, more than {}", hex(json_size), hex(MOST_JSON)));
        }
        Ok(Self { data_size, generation, json_size, expected })
    }
}

/// The kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pages of a chunk.
    Chunk,
    /// The end of a pass over memory.
    Pass,
    /// A blob, behind its name.
    Blob,
    /// All has been sent.
    End,
    /// The sender gives up, for a reason; the source goes on.
    GivenUp,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Chunk, Self::Pass, Self::Blob, Self::End, Self::GivenUp];

    const fn number(self) -> u32 {
        match self {
            Self::Chunk => 1,
            Self::Pass => 2,
            Self::Blob => 3,
            Self::End => 4,
            Self::GivenUp => 5,
        }
    }
}

/// One record, which bytes may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its kind.
    pub kind: Kind,
    /// Of a chunk: the pages whose bytes follow, a bit each.
    pub pages: u16,
    /// Of a chunk: the pages that have become zero.
    pub zeroed: u16,
    /// The number of the chunk or of the pass, or the bytes of the blob's name.
    pub number: u64,
    /// The bytes that follow.
    pub size: u64,
    /// The digest of what follows; of the end, that of all memory.
    pub digest: Digest,
}

impl Record {
    /// A record without anything.
    pub const fn new(kind: Kind, digest: Digest) -> Self {
        Self { kind, pages: 0, zeroed: 0, number: 0, size: 0, digest }
    }

    /// The bytes.
    pub fn encode(&self) -> Block {
        let masks = [self.pages, self.zeroed].map(u16::to_le_bytes).concat();
        let numbers = [self.number, self.size, 0].map(u64::to_le_bytes).concat();
        block(&[&self.kind.number().to_le_bytes(), &masks, &numbers, &self.digest])
    }

    /// The record that some bytes are, of a stream whose data has so many chunks.
    pub fn parse(bytes: &Block, chunks: u64) -> Result<Self, Flaw> {
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.number() == short(bytes, 0)) else {
            return corrupt(format!("a record is of kind {}, which there is not", short(bytes, 0)));
        };
        let [pages, zeroed] = [4, 6].map(|at| u16::from_le_bytes(field(bytes, at)));
        let record =
            Self { kind, pages, zeroed, number: long(bytes, 8), size: long(bytes, 16), digest: field(bytes, 32) };
        if long(bytes, 24) == 0 && record.is_possible(chunks) {
            return Ok(record);
        }
        corrupt(format!("a record of kind {} has a value that can't be", kind.number()))
    }

    fn is_possible(&self, chunks: u64) -> bool {
        let Self { pages, zeroed, number, size, .. } = *self;
        let has_masks = pages | zeroed != 0;
        match self.kind {
            Kind::Chunk => {
                has_masks && pages & zeroed == 0 && number < chunks && size == u64::from(pages.count_ones()) * PAGE
            }
            Kind::Pass => !has_masks && size == 0 && self.digest == Digest::default(),
            Kind::Blob => !has_masks && number <= size.min(MOST_TEXT) && size <= MOST_BLOBS,
            Kind::End => !has_masks && number == 0 && size == 32,
            Kind::GivenUp => !has_masks && number == 0 && size <= MOST_TEXT,
        }
    }
}

/// The receiver's answer, which text follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it has published the memory.
    pub is_published: bool,
    /// The bytes of text that follow: why it refused.
    pub size: u64,
    /// The digest of the memory that it published.
    pub content: Digest,
}

impl Answer {
    /// The bytes.
    pub fn encode(&self) -> Block {
        let status = if self.is_published { 1u32 } else { 2 };
        let numbers = [self.size, 0].map(u64::to_le_bytes).concat();
        block(&[&ANSWER_MAGIC, &status.to_le_bytes(), &[0; 4], &numbers, &self.content])
    }

    /// The answer that some bytes are.
    pub fn parse(bytes: &Block) -> Result<Self, Flaw> {
        let (status, size, content) = (short(bytes, 8), long(bytes, 16), field(bytes, 32));
        let is_known = field(bytes, 0) == ANSWER_MAGIC && short(bytes, 12) == 0 && long(bytes, 24) == 0;
        if !is_known || !matches!(status, 1 | 2) || size > MOST_TEXT {
            return corrupt("the other side does not answer as a receiver does");
        }
        Ok(Self { is_published: status == 1, size, content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head { data_size: AREA, generation: 7, json_size: 3, expected: 4096 };

    fn chunk() -> Record {
        Record { pages: 0b101, zeroed: 0b10, number: 31, size: 2 * PAGE, ..Record::new(Kind::Chunk, [1; 32]) }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Head::parse(&HEAD.encode()), Ok(HEAD));
        let blob = Record { number: 3, size: 5, ..Record::new(Kind::Blob, [2; 32]) };
        let end = Record { size: 32, ..Record::new(Kind::End, [3; 32]) };
        for record in [chunk(), blob, end, Record::new(Kind::GivenUp, [4; 32]), Record::new(Kind::Pass, [0; 32])] {
            assert_eq!(Record::parse(&record.encode(), 32), Ok(record));
        }
        for is_published in [false, true] {
            let answer = Answer { is_published, size: 4, content: [5; 32] };
            assert_eq!(Answer::parse(&answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn a_record_that_can_not_be_is_refused() {
        for wrong in [
            Record { number: 32, ..chunk() },
            Record { size: 3 * PAGE, ..chunk() },
            Record { zeroed: 0b1, ..chunk() },
            Record { pages: 0, zeroed: 0, size: 0, ..chunk() },
            Record { number: 6, size: 5, ..Record::new(Kind::Blob, [2; 32]) },
            Record { size: MOST_BLOBS + 1, ..Record::new(Kind::Blob, [2; 32]) },
            Record { size: u64::MAX, ..Record::new(Kind::GivenUp, [2; 32]) },
            Record { size: 31, ..Record::new(Kind::End, [2; 32]) },
            Record::new(Kind::Pass, [1; 32]),
        ] {
            assert!(Record::parse(&wrong.encode(), 32).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_bit_of_a_head_counts() {
        for at in 0..SIZE {
            let mut bytes = HEAD.encode();
            bytes[at] ^= 0x10;
            let read = Head::parse(&bytes);
            assert!(read.as_ref() != Ok(&HEAD), "{at}");
        }
        let mut newer = HEAD.encode();
        newer[8] = 2;
        assert!(matches!(Head::parse(&newer), Err((ImageFault::TooNew, _))));
    }
}
