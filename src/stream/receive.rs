//! The side that receives, into memory that nobody sees yet.

use super::connection::{Connection, broken};
use super::digests::Digests;
use super::record::{Flaw, Head, Kind, MOST_BLOBS, Record, SIZE};
use crate::image::chain::Image;
use crate::image::chunk::{self, Buffer, CHUNK, Digest};
use crate::image::restore::Piece;
use crate::memory::buffer::Output;
use crate::memory::section::Section;
use crate::model::error::{Error, ImageFault, Result};
use crate::model::format::hex;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::quote::quoted;
use crate::model::range::Range;
use crate::model::room::Room;

/// The most blobs.
const MOST: usize = 4096;

/// A blob's name and content.
pub type Blob = (Vec<u8>, Vec<u8>);

/// A stream of which the map is known.
#[derive(Debug)]
pub struct Receiver {
    connection: Connection,
    head: Head,
    json: Vec<u8>,
    /// Of the head, the JSON and all records.
    framing: blake3::Hasher,
    digests: Digests,
    blobs: Vec<Blob>,
    passes: u64,
    /// The bytes of pages that came.
    done: u64,
    /// The digest of the memory, once all has come.
    content: Digest,
}

impl Receiver {
    /// Receives the head and the JSON.
    pub fn begin(mut connection: Connection, interrupt: &dyn Interrupt) -> Result<Self> {
        let received = Self::head(&mut connection, interrupt);
        let (head, json, framing) = received.inspect_err(|error| {
            connection.reply(None, &error.to_string());
            connection.shut();
        })?;
        let digests = Digests::default();
        Ok(Self {
            connection,
            head,
            json,
            framing,
            digests,
            blobs: Vec::new(),
            passes: 0,
            done: 0,
            content: Digest::default(),
        })
    }

    fn head(connection: &mut Connection, interrupt: &dyn Interrupt) -> Result<(Head, Vec<u8>, blake3::Hasher)> {
        let block = connection.block(interrupt)?;
        let head = Head::parse(&block)?;
        let json = connection.bytes(head.json_size, interrupt)?;
        let mut framing = blake3::Hasher::new();
        framing.update(&block).update(&json);
        if connection.bytes(32, interrupt)? == framing.finalize().as_bytes() {
            return Ok((head, json, framing));
        }
        Err(broken(ImageFault::Corrupt, "its head or JSON is not what was sent", None))
    }

    /// The description of the map.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The bytes that the data has room for.
    pub const fn room(&self) -> u64 {
        self.head.data_size
    }

    /// The bytes that came.
    pub const fn moved(&self) -> u64 {
        self.connection.moved()
    }

    /// The passes over memory that ended.
    pub const fn passes(&self) -> u64 {
        self.passes
    }

    /// The blobs that came, the newest last.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// The digest of the memory, once all has come.
    pub const fn content(&self) -> Digest {
        self.content
    }

    /// Fills memory with all that comes, and checks that it is what was sent.
    pub fn fill(&mut self, pieces: &[Piece<'_>], interrupt: &dyn Interrupt) -> Result<()> {
        let mut chunks = Incoming::new(pieces)?;
        loop {
            let block = self.connection.block(interrupt)?;
            let record = Record::parse(&block, self.head.data_size / CHUNK).map_err(|flaw| self.located(flaw))?;
            self.framing.update(&block);
            match record.kind {
                Kind::Chunk => self.chunk(&record, &mut chunks, interrupt)?,
                Kind::Pass => self.pass(&record)?,
                Kind::Blob => self.blob(&record, interrupt)?,
                Kind::End => return self.end(&record, interrupt),
                Kind::GivenUp => return Err(self.given_up(&record, interrupt)?),
            }
        }
    }

    fn chunk(&mut self, record: &Record, chunks: &mut Incoming<'_>, interrupt: &dyn Interrupt) -> Result<()> {
        let number = record.number;
        let corrupt = |why: &str| broken(ImageFault::Corrupt, format!("chunk {number} {why}"), Some(number));
        if !self.digests.ascends(number) {
            return Err(corrupt("comes behind one with a greater number"));
        }
        chunks.clear(!record.pages);
        for (at, size) in chunk::runs(record.pages) {
            let room = chunks.buffer.get_mut(usize_of(at)..usize_of(at.saturating_add(size)));
            self.connection.receive(room.unwrap_or_default(), interrupt)?;
        }
        if chunk::digest_of(&chunks.buffer) != record.digest {
            return Err(corrupt("is not what was sent"));
        }
        if !chunks.put(number, record.pages | record.zeroed)? {
            return Err(corrupt("lies in no region"));
        }
        let is_new = self.digests.was_zero(number);
        let digest = if is_new { record.digest } else { chunks.digest(number)? };
        self.digests.note(number, digest)?;
        self.done = self.done.saturating_add(record.size);
        Ok(interrupt.progress("receive", self.done, self.head.expected.max(self.done))?)
    }

    fn pass(&mut self, record: &Record) -> Result<()> {
        self.passes = self.passes.saturating_add(1);
        if record.number != self.passes {
            return Err(broken(ImageFault::Corrupt, format!("a pass is missing before pass {}", record.number), None));
        }
        self.digests.end_pass()
    }

    fn blob(&mut self, record: &Record, interrupt: &dyn Interrupt) -> Result<()> {
        let held: u64 = self.blobs.iter().map(|(name, content)| u64_of(name.len().saturating_add(content.len()))).sum();
        if held.saturating_add(record.size) > MOST_BLOBS || self.blobs.len() == MOST {
            return Err(broken(ImageFault::Corrupt, "its blobs have more than 256 MiB, or are more than 4096", None));
        }
        let name = self.connection.bytes(record.number, interrupt)?;
        let content = self.connection.bytes(record.size.saturating_sub(record.number), interrupt)?;
        let mut hasher = blake3::Hasher::new();
        if hasher.update(&name).update(&content).finalize() != record.digest {
            let name = quoted(&String::from_utf8_lossy(&name));
            return Err(broken(ImageFault::Corrupt, format!("the blob {name} is not what was sent"), None));
        }
        self.blobs.add((name, content))
    }

    fn end(&mut self, record: &Record, interrupt: &dyn Interrupt) -> Result<()> {
        if self.connection.bytes(32, interrupt)? != self.framing.finalize().as_bytes() {
            return Err(broken(ImageFault::Corrupt, "its records are not what was sent", None));
        }
        self.content = self.digests.content();
        if self.content == record.digest {
            return Ok(interrupt.progress("receive", self.done, self.done)?);
        }
        Err(broken(ImageFault::Corrupt, "the memory that came is not what was sent", None))
    }

    fn given_up(&mut self, record: &Record, interrupt: &dyn Interrupt) -> Result<Error> {
        let why = self.connection.bytes(record.size, interrupt)?;
        if chunk::digest_of(&why) != record.digest {
            return Err(broken(ImageFault::Corrupt, "the reason why the sender gave up is not what was sent", None));
        }
        let message = format!("the sender gave up: {}", String::from_utf8_lossy(&why));
        Ok(broken(ImageFault::Refused, message, None))
    }

    fn located(&self, (kind, why): Flaw) -> Error {
        let at = hex(self.moved().saturating_sub(u64_of(SIZE)));
        broken(kind, format!("at {at}: {why}"), None)
    }

    /// Says that the memory is published.
    pub fn accept(&self) {
        self.connection.reply(Some(self.content), "");
    }

    /// Says why it is not, and ends the conversation.
    pub fn refuse(&self, why: &str) {
        Self::decline(&self.connection, why);
    }

    /// The same before anything was heard.
    pub fn decline(connection: &Connection, why: &str) {
        connection.reply(None, why);
        connection.shut();
    }
}

/// The memory that is filled, and the chunk at hand.
struct Incoming<'a> {
    pieces: Vec<Piece<'a>>,
    buffer: Buffer,
}

impl<'a> Incoming<'a> {
    fn new(pieces: &[Piece<'a>]) -> Result<Self> {
        let mut sorted = Vec::new();
        sorted.add_all(pieces.iter().copied())?;
        sorted.sort_unstable_by_key(|piece| piece.at);
        Ok(Self { pieces: sorted, buffer: Image::buffer()? })
    }

    /// Makes zeroes of pages of the buffer.
    fn clear(&mut self, pages: u16) {
        for (at, size) in chunk::runs(pages) {
            let room = self.buffer.get_mut(usize_of(at)..usize_of(at.saturating_add(size)));
            room.unwrap_or_default().fill(0);
        }
    }

    /// The parts of memory in a run of the data, and the offset of each in the run.
    fn parts(&self, run: Range) -> impl Iterator<Item = (Section<'a>, usize)> {
        let end = |piece: &Piece<'_>| piece.at.saturating_add(piece.section.size());
        let first = self.pieces.partition_point(|piece| end(piece) <= run.base());
        let touching = self.pieces.iter().skip(first).take_while(move |piece| piece.at < run.end());
        touching.map(move |piece| {
            let part = Range::between(piece.at, end(piece)).intersection(&run);
            let section = piece.section.skip(part.base().abs_diff(piece.at)).take(part.size()).alone();
            (section, usize_of(part.base().abs_diff(run.base())))
        })
    }

    /// Writes pages of the buffer to memory; whether any memory is there.
    fn put(&self, number: u64, pages: u16) -> Result<bool> {
        let mut is_there = false;
        for (at, size) in chunk::runs(pages) {
            let run = Range::at(number.saturating_mul(CHUNK).saturating_add(at), size);
            let bytes = self.buffer.get(usize_of(at)..).unwrap_or_default();
            for (section, offset) in self.parts(run) {
                let part = bytes.get(offset..offset.saturating_add(section.len())).unwrap_or_default();
                section.store(part)?;
                is_there = true;
            }
        }
        Ok(is_there)
    }

    /// The digest of a chunk as memory has it.
    fn digest(&mut self, number: u64) -> Result<Digest> {
        let chunk = Range::at(number.saturating_mul(CHUNK), CHUNK);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.fill(0);
        for (section, offset) in self.parts(chunk) {
            let room = buffer.get_mut(offset..offset.saturating_add(section.len())).unwrap_or_default();
            section.scan(&Output::from(room))?;
        }
        self.buffer = buffer;
        Ok(chunk::digest_of(&self.buffer))
    }
}
