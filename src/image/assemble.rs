//! Memory as chunks: the bytes of sections brought together.

use std::ops::ControlFlow;

use super::chain::Image;
use super::chunk::{self, Buffer, CHUNK};
use crate::memory::scan::{self, Chunk};
use crate::memory::section::Section;
use crate::model::error::Result;
use crate::model::int::{index_sum, u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;

/// Takes chunks of memory, one after the other.
pub trait ChunkSink {
    /// Takes all bytes of a chunk; `fed` are the pages of it that are not known to be zero.
    fn put(&mut self, number: u64, bytes: &[u8], fed: u16) -> Result<()>;
}

/// Reads sections, by ascending place in their buffer, which is the data, and gives their chunks to a sink.
pub fn assemble(
    sections: &[Section<'_>],
    stage: &'static str,
    sink: &mut impl ChunkSink,
    interrupt: &dyn Interrupt,
) -> Result<()> {
    let mut assembler = Assembler { sink, number: None, buffer: Image::buffer()?, fed: 0 };
    scan::walk(sections, stage, interrupt, |part, chunk| {
        match chunk {
            Chunk::Data(bytes) => assembler.feed(part.buffer().base(), bytes)?,
            Chunk::Hole => assembler.pass(part.buffer())?,
        }
        Ok(ControlFlow::<()>::Continue(()))
    })?;
    assembler.flush()
}

/// The chunk that is being brought together.
struct Assembler<'w, S> {
    sink: &'w mut S,
    number: Option<u64>,
    buffer: Buffer,
    fed: u16,
}

impl<S: ChunkSink> Assembler<'_, S> {
    fn feed(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let (mut at, mut left) = (at, bytes);
        while !left.is_empty() {
            self.enter(at / CHUNK)?;
            let offset = at % CHUNK;
            let (part, rest) = left.split_at(left.len().min(usize_of(CHUNK.saturating_sub(offset))));
            match u64_of(part.len()) {
                // All of a chunk need not be brought together.
                CHUNK => self.put_whole(part)?,
                size => self.fill(offset, part, size),
            }
            (at, left) = (at.saturating_add(u64_of(part.len())), rest);
        }
        Ok(())
    }

    fn put_whole(&mut self, bytes: &[u8]) -> Result<()> {
        self.number.take().map_or(Ok(()), |number| self.sink.put(number, bytes, chunk::ALL_PAGES))
    }

    fn fill(&mut self, offset: u64, part: &[u8], size: u64) {
        let room = self.buffer.get_mut(usize_of(offset)..index_sum(usize_of(offset), part.len()));
        room.into_iter().for_each(|room| room.copy_from_slice(part));
        self.fed |= chunk::pages_of(offset, size);
    }

    /// Goes over zeroes.
    fn pass(&mut self, place: Range) -> Result<()> {
        (place.base() / CHUNK..place.end().div_ceil(CHUNK)).try_for_each(|number| self.enter(number))
    }

    fn enter(&mut self, number: u64) -> Result<()> {
        if self.number != Some(number) {
            self.flush()?;
            self.number = Some(number);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Some(number) = self.number.take() else { return Ok(()) };
        self.sink.put(number, &self.buffer, self.fed)?;
        self.buffer.fill(0);
        self.fed = 0;
        Ok(())
    }
}
