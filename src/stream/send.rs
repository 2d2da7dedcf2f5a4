//! The side that sends.

use std::io::IoSlice;

use super::connection::{Connection, broken};
use super::digests::Digests;
use super::record::{Head, Kind, MOST_BLOBS, MOST_TEXT, Record};
use crate::image::assemble::{ChunkSink, assemble};
use crate::image::chain::Image;
use crate::image::chunk::{self, Buffer, CHUNK, Digest};
use crate::image::pace::Pace;
use crate::image::plan::Plan;
use crate::memory::leased_sections::LeasedSections;
use crate::memory::section::Section;
use crate::model::error::{ImageFault, Result};
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::invalid::Invalid;
use crate::model::quote::quoted;
use crate::model::range::Range;
use crate::model::room;

const STAGE: &str = "send";

/// Sends the memory that leases hold.
#[derive(Debug)]
pub struct Sender {
    leased: LeasedSections,
    outgoing: Outgoing,
    passes: u64,
    blobs: u64,
}

/// A connection, and what was said on it.
#[derive(Debug)]
struct Outgoing {
    connection: Connection,
    /// Of the head, the JSON and all records.
    framing: blake3::Hasher,
    digests: Digests,
    masked: Buffer,
}

impl Sender {
    /// Sends the head and the JSON.
    pub fn begin(
        connection: Connection,
        leased: LeasedSections,
        (generation, json): (u64, &[u8]),
        interrupt: &dyn Interrupt,
    ) -> Result<Self> {
        let plan = Plan::of(leased.sections(), &[], 0)?;
        let head = Head {
            data_size: plan.data_size(0).next_multiple_of(crate::image::header::AREA),
            generation,
            json_size: u64_of(json.len()),
            expected: plan.to_read(None)?.iter().map(Section::size).sum(),
        };
        drop(plan);
        let framing = blake3::Hasher::new();
        let mut outgoing = Outgoing { connection, framing, digests: Digests::default(), masked: Image::buffer()? };
        let block = head.encode();
        let digest = outgoing.framing.update(&block).update(json).finalize();
        let mut parts = [&block[..], json, digest.as_bytes()].map(IoSlice::new);
        let begun = outgoing.connection.send(&mut parts, interrupt);
        begun.inspect_err(|_| outgoing.connection.shut())?;
        Ok(Self { leased, outgoing, passes: 0, blobs: 0 })
    }

    /// Sends what pages of some addresses have, which ascend; `None` stands for all memory. At most `rate` bytes a second.
    pub fn pass(&mut self, dirty: Option<&[Range]>, rate: Option<u64>, interrupt: &dyn Interrupt) -> Result<()> {
        let plan = Plan::of(self.leased.sections(), &[], 0)?;
        let wanted = dirty.map(|dirty| plan.places_of(dirty)).transpose()?;
        let sections = dirty.map_or_else(|| plan.to_read(None), |dirty| plan.again(dirty))?;
        let (begun_at, pace) = (self.outgoing.connection.moved(), Pace::begin(rate));
        let mut pass = Pass { outgoing: &mut self.outgoing, wanted, pace, begun_at, interrupt };
        assemble(&sections, STAGE, &mut pass, interrupt)?;
        self.passes = self.passes.saturating_add(1);
        self.outgoing.digests.end_pass()?;
        self.outgoing.record(
            Record { number: self.passes, ..Record::new(Kind::Pass, Digest::default()) },
            &[],
            interrupt,
        )
    }

    /// Sends a blob, in the place of one of the same name that was sent before.
    pub fn blob(&mut self, name: &str, content: &[u8], interrupt: &dyn Interrupt) -> Result<()> {
        let (number, size) = (u64_of(name.len()), u64_of(name.len().saturating_add(content.len())));
        self.blobs = self.blobs.saturating_add(size);
        if number > MOST_TEXT || self.blobs > MOST_BLOBS {
            let message =
                format!("send: the blob {} has too long a name, or all together have more than 256 MiB", quoted(name));
            return Err(Invalid::argument(message).into());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(name.as_bytes()).update(content);
        let record = Record { number, size, ..Record::new(Kind::Blob, hasher.finalize().into()) };
        self.outgoing.record(record, &[name.as_bytes(), content], interrupt)
    }

    /// Says that all has been sent, and waits until the receiver has published it; the digest of the memory.
    pub fn finish(&mut self, interrupt: &dyn Interrupt) -> Result<Digest> {
        let content = self.outgoing.digests.content();
        let record = Record { size: 32, ..Record::new(Kind::End, content) };
        let mut framing = self.outgoing.framing.clone();
        let root = framing.update(&record.encode()).finalize();
        self.outgoing.record(record, &[root.as_bytes()], interrupt)?;
        if self.outgoing.connection.answer(interrupt)?.content == content {
            return Ok(content);
        }
        Err(broken(ImageFault::Corrupt, "the receiver has published other memory than was sent", None))
    }

    /// Says that nothing more will come, and why. The connection can be used again.
    pub fn give_up(&mut self, why: &str, interrupt: &dyn Interrupt) -> Result<()> {
        let record = Record { size: u64_of(why.len()), ..Record::new(Kind::GivenUp, chunk::digest_of(why.as_bytes())) };
        self.outgoing.record(record, &[why.as_bytes()], interrupt)
    }

    /// Ends the conversation in the midst of it.
    pub fn abandon(&self) {
        self.outgoing.connection.shut();
    }

    /// The bytes that were sent.
    pub const fn moved(&self) -> u64 {
        self.outgoing.connection.moved()
    }
}

impl Outgoing {
    fn record(&mut self, record: Record, parts: &[&[u8]], interrupt: &dyn Interrupt) -> Result<()> {
        let block = record.encode();
        self.framing.update(&block);
        let all = [&block[..]].into_iter().chain(parts.iter().copied()).map(IoSlice::new);
        self.connection.send(&mut room::collected(all)?, interrupt)
    }

    /// The digest of a chunk in which all pages but some are zero.
    fn digest_of_pages(&mut self, bytes: &[u8], pages: u16) -> Digest {
        self.masked.fill(0);
        for (at, size) in chunk::runs(pages) {
            let place = usize_of(at)..usize_of(at.saturating_add(size));
            let both = self.masked.get_mut(place.clone()).zip(bytes.get(place));
            both.into_iter().for_each(|(to, from)| to.copy_from_slice(from));
        }
        chunk::digest_of(&self.masked)
    }
}

/// One pass over memory.
struct Pass<'a> {
    outgoing: &'a mut Outgoing,
    /// The places of the pages to send; `None` for all.
    wanted: Option<Vec<Range>>,
    pace: Pace,
    /// The bytes that were moved before it.
    begun_at: u64,
    interrupt: &'a dyn Interrupt,
}

impl Pass<'_> {
    fn wanted_pages(&self, number: u64) -> u16 {
        let Some(wanted) = &self.wanted else { return chunk::ALL_PAGES };
        let here = Range::at(number.saturating_mul(CHUNK), CHUNK);
        let first = wanted.partition_point(|place| place.end() <= here.base());
        let touching = wanted.iter().skip(first).take_while(|place| place.base() < here.end());
        touching
            .map(|place| place.intersection(&here))
            .fold(0, |pages, part| pages | chunk::pages_of(part.base().abs_diff(here.base()), part.size()))
    }
}

impl ChunkSink for Pass<'_> {
    fn put(&mut self, number: u64, bytes: &[u8], _fed: u16) -> Result<()> {
        let (used, wanted) = (chunk::used_pages(bytes), self.wanted_pages(number));
        let was_zero = self.outgoing.digests.was_zero(number);
        let (pages, zeroed) = (used & wanted, if was_zero { 0 } else { !used & wanted });
        if pages | zeroed == 0 {
            return Ok(());
        }
        let whole = if was_zero && pages != used { None } else { Some(chunk::digest_of(bytes)) };
        let sent = whole.filter(|_| pages == used);
        let digest = sent.unwrap_or_else(|| self.outgoing.digest_of_pages(bytes, pages));
        // Of a chunk of zeroes the receiver has what is sent; else what is here, once no page of it is dirty any more.
        self.outgoing.digests.note(number, whole.unwrap_or(digest))?;
        let size = u64::from(pages.count_ones()).saturating_mul(chunk::PAGE);
        let record = Record { pages, zeroed, number, size, ..Record::new(Kind::Chunk, digest) };
        let runs =
            chunk::runs(pages).filter_map(|(at, size)| bytes.get(usize_of(at)..usize_of(at.saturating_add(size))));
        self.outgoing.record(record, &room::collected(runs)?, self.interrupt)?;
        self.pace.wait(self.outgoing.connection.moved().abs_diff(self.begun_at), self.interrupt)
    }
}
