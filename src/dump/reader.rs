//! The reader of a dump: it finds the bytes of guest physical addresses in the file each time that they are asked for.

use std::fs::File;
use std::io::{self, Result};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::avml::Frames;
use super::buffer::{place, read_at};
use super::kdump::PackedPages;
use super::piece::Piece;
use crate::model::bytes::is_zero;
use crate::model::error;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::room::{self, Room};
use crate::model::source::ReadBytes;

/// Bytes that are copied at a time.
const STEP: u64 = 1 << 20;
/// Bytes that are left out, or have no room, together.
const PAGE: u64 = 4096;

/// How the bytes lie in the file.
#[derive(Debug)]
pub enum Content {
    /// As they are, in pieces by ascending address; those without an offset are zeroes.
    Pieces(Vec<Piece>),
    /// As a compressed kdump has them.
    Pages(PackedPages),
    /// As AVML has them.
    Frames(Frames),
}

/// The memory of a dump, whose places are guest physical addresses.
#[derive(Debug)]
pub struct DumpReader {
    file: Arc<File>,
    content: Content,
    covered: Vec<Range>,
}

impl DumpReader {
    /// For the addresses in `covered`, which ascend.
    pub const fn new(file: Arc<File>, content: Content, covered: Vec<Range>) -> Self {
        Self { file, content, covered }
    }

    /// Copies all that is there to the beginning of another file, one range behind the other, and zeroes to holes: the pieces of that file.
    /// With `is_partial` it lacks damaged pages; else they are refused.
    pub fn copy_to(&self, to: &File, is_partial: bool, interrupt: &dyn Interrupt) -> error::Result<Vec<Piece>> {
        let (mut buffer, mut pieces, mut end) = (room::zeroed(usize_of(STEP))?, Vec::new(), 0u64);
        for range in &self.covered {
            let mut left = *range;
            while !left.is_empty() {
                interrupt.check()?;
                let part = left.take(STEP);
                match self.copy_part(part, to, end, &mut buffer) {
                    Ok(()) => pieces.add(Piece { range: part, at: Some(end) })?,
                    Err(error) if !is_partial => return Err(super::wrong(error.to_string(), None)),
                    Err(_) => self.copy_pages(part, to, end, &mut pieces)?,
                }
                end = end.saturating_add(part.size());
                left = left.skip(part.size());
            }
        }
        to.set_len(end).map_err(|error| super::wrong(error.to_string(), None))?;
        Ok(pieces)
    }

    fn copy_part(&self, part: Range, to: &File, end: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = buffer.get_mut(..usize_of(part.size())).unwrap_or_default();
        self.read(part.base(), bytes)?;
        for (number, page) in (0u64..).zip(bytes.chunks(usize_of(PAGE))) {
            if !is_zero(page) {
                to.write_all_at(page, end.saturating_add(number.saturating_mul(PAGE)))?;
            }
        }
        Ok(())
    }

    /// The same page by page, as far as there are any.
    fn copy_pages(&self, part: Range, to: &File, end: u64, pieces: &mut Vec<Piece>) -> error::Result<()> {
        let mut buffer = room::zeroed(usize_of(PAGE))?;
        let mut left = part;
        while !left.is_empty() {
            let range = left.take(PAGE);
            let at = end.saturating_add(range.base().abs_diff(part.base()));
            let is_copied = self.copy_part(range, to, at, &mut buffer).is_ok();
            pieces.add(Piece { range, at: is_copied.then_some(at) })?;
            left = left.skip(PAGE);
        }
        Ok(())
    }

    fn read_pieces(&self, pieces: &[Piece], at: u64, bytes: &mut [u8]) -> Result<()> {
        let mut left = Range::at(at, u64_of(bytes.len()));
        let first = pieces.partition_point(|piece| piece.range.end() <= at);
        for piece in pieces.iter().skip(first) {
            if left.is_empty() {
                break;
            }
            let part = piece.range.intersection(&left);
            let bytes = place(bytes, part, at);
            match piece.at {
                Some(start) => {
                    let start = start.saturating_add(part.base().abs_diff(piece.range.base()));
                    read_at(&self.file, bytes, start)?;
                }
                None => bytes.fill(0),
            }
            left = Range::between(part.end(), left.end());
        }
        Ok(())
    }
}

impl ReadBytes for DumpReader {
    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        if self.first_run(Range::at(at, u64_of(bytes.len()))).size() < u64_of(bytes.len()) {
            return Err(io::Error::other("not all of it is in the dump"));
        }
        match &self.content {
            Content::Pieces(pieces) => self.read_pieces(pieces, at, bytes),
            Content::Pages(pages) => pages.read(&self.file, at, bytes),
            Content::Frames(frames) => frames.read(&self.file, at, bytes),
        }
    }

    fn first_run(&self, range: Range) -> Range {
        let first = self.covered.partition_point(|covered| covered.end() <= range.base());
        let run = self.covered.get(first).map(|covered| covered.intersection(&range));
        run.filter(|run| !run.is_empty()).unwrap_or(Range::between(range.end(), range.end()))
    }
}
