//! Dumps of AVML, version 2: records of a range of addresses, whose bytes are a stream of Snappy's frames of at most 64 KiB.

use std::fs::File;
use std::io::{self, Read};

use snap::read::FrameDecoder;

use super::buffer::{copy, place, read_at};
use super::cache::BlockCache;
use super::piece::Piece;
use super::record::{HEADER, Kind, RecordFile};
use super::wrong;
use crate::model::error::Result;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::room::{self, Room};

const KIND: Kind = (0x4c4d_5641, 2);
/// The most bytes that a frame has unpacked.
const MOST: u64 = 64 << 10;
/// The most that a frame may have packed: a little more than that.
const MOST_PACKED: u64 = 1 << 17;
/// Kinds of chunks: frames of bytes, and the first that may be passed over.
const FRAME: [u8; 2] = [0, 1];
const FIRST_SKIPPED: u8 = 0x80;
/// The chunk that a stream begins with.
const STREAM: &[u8] = b"\xff\x06\x00\x00sNaPpY";

/// The frames of a dump by ascending address: the addresses, and where each lies in the file.
#[derive(Debug)]
pub struct Frames {
    frames: Vec<(Range, Range)>,
    cache: BlockCache,
}

impl Frames {
    /// Goes through all headers of a file. With `is_partial` what is behind the first that can't be is not in the dump.
    pub fn find(file: &File, size: u64, is_partial: bool, interrupt: &dyn Interrupt) -> Result<(Self, Vec<Piece>)> {
        let (mut scan, mut pieces, mut position) =
            (Scan { file: RecordFile { file, size }, frames: Vec::new() }, Vec::new(), 0);
        while position < size {
            let record = scan.file.record(position, KIND)?;
            let first = scan.frames.len();
            let end = scan.frames_of(record, position.saturating_add(HEADER), interrupt);
            let there = scan.frames.get(first..).unwrap_or_default().iter().map(|(range, _)| range.size()).sum();
            pieces.add(Piece { range: record.take(there), at: Some(record.base()) })?;
            match end {
                Ok(end) => position = end,
                Err(error) if !is_partial => return Err(error),
                Err(_) => {
                    pieces.add(Piece { range: record.skip(there), at: None })?;
                    break;
                }
            }
        }
        pieces.retain(|piece| !piece.range.is_empty());
        scan.frames.sort_unstable();
        Ok((Self { frames: scan.frames, cache: BlockCache::default() }, pieces))
    }

    pub(super) fn read(&self, file: &File, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut left = Range::at(at, u64_of(bytes.len()));
        let first = self.frames.partition_point(|(range, _)| range.end() <= at);
        for (number, (range, packed)) in (0u64..).zip(&self.frames).skip(first) {
            let part = range.intersection(&left);
            if part.is_empty() {
                break;
            }
            let to = place(bytes, part, at);
            let start = usize_of(part.base().abs_diff(range.base()));
            self.cache.with(number, || unpacked(file, *range, *packed), |frame| copy(frame, start, to))?;
            left = Range::between(part.end(), left.end());
        }
        Ok(())
    }
}

/// The way through the headers of a file.
struct Scan<'a> {
    file: RecordFile<'a>,
    frames: Vec<(Range, Range)>,
}

impl Scan<'_> {
    /// Notes the frames of a record; the place where the next record begins.
    fn frames_of(&mut self, record: Range, start: u64, interrupt: &dyn Interrupt) -> Result<u64> {
        let what = format!("the memory [{:#x}, {:#x})", record.base(), record.end());
        let (mut position, mut left) = (start, record);
        while !left.is_empty() {
            interrupt.check()?;
            let (kind, size) = self.chunk(position, &what)?;
            if FRAME.contains(&kind) {
                let unpacked = self.unpacked_size(position, kind, size, &what)?;
                if unpacked > left.size() {
                    return Err(wrong(format!("{what} has more bytes than that"), Some(position)));
                }
                self.frames.add((left.take(unpacked), Range::at(position, size.saturating_add(4))))?;
                left = left.skip(unpacked);
            } else if kind < FIRST_SKIPPED {
                return Err(wrong(format!("{what} has a chunk of unknown type {kind:#x}"), Some(position)));
            }
            position = position.saturating_add(4).saturating_add(size);
        }
        let length = u64::from_le_bytes(self.file.bytes(position, &format!("{what}, its length,"))?);
        let passed = position.saturating_sub(start);
        if length != passed {
            let message = format!("{what} has {passed:#x} packed bytes, and {length:#x} by its end");
            return Err(wrong(message, Some(position)));
        }
        Ok(position.saturating_add(8))
    }

    /// The kind of the chunk at a place, and the bytes behind its header.
    fn chunk(&self, position: u64, what: &str) -> Result<(u8, u64)> {
        let word = u32::from_le_bytes(self.file.bytes(position, what)?);
        let [kind, ..] = word.to_le_bytes();
        let size = u64::from(word >> 8);
        if FRAME.contains(&kind) && size > MOST_PACKED {
            return Err(wrong(format!("{what} has a chunk of {size:#x} bytes, which can't be"), Some(position)));
        }
        Ok((kind, size))
    }

    /// The bytes that a frame has unpacked: as many as are stored behind its checksum, or as its first bytes say.
    fn unpacked_size(&self, position: u64, kind: u8, size: u64, what: &str) -> Result<u64> {
        self.file.check(position, size.saturating_add(4), what)?;
        let cannot = || wrong(format!("{what} can't be unpacked: a frame says that it has too much"), Some(position));
        let unpacked = match kind {
            1 => size.saturating_sub(4),
            _ => {
                let mut start = [0; 5];
                let there = usize_of(size.saturating_sub(4).min(5));
                let start = start.get_mut(..there).unwrap_or_default();
                let read = read_at(self.file.file, start, position.saturating_add(8));
                read.map_err(|error| wrong(error.to_string(), Some(position)))?;
                u64_of(snap::raw::decompress_len(start).map_err(|_| cannot())?)
            }
        };
        (unpacked > 0 && unpacked <= MOST).then_some(unpacked).ok_or_else(cannot)
    }
}

/// The bytes of a frame, whose checksum is checked.
fn unpacked(file: &File, range: Range, packed: Range) -> io::Result<Vec<u8>> {
    let mut chunk = room::zeroed(usize_of(packed.size())).map_err(io::Error::other)?;
    read_at(file, &mut chunk, packed.base())?;
    let mut bytes = room::zeroed(usize_of(range.size())).map_err(io::Error::other)?;
    let mut decoder = FrameDecoder::new(STREAM.chain(chunk.as_slice()));
    let read = decoder.read_exact(&mut bytes);
    read.map_err(|error| io::Error::other(format!("the memory at {:#x} can't be unpacked: {error}", range.base())))?;
    Ok(bytes)
}
