//! The pages of a compressed kdump, which are unpacked when they are asked for.

use std::fs::File;
use std::io::{Error, Result};

use miniz_oxide::inflate::{TINFLStatus, decompress_slice_iter_to_slice};
use snap::raw::{Decoder, decompress_len};

use super::buffer::{copy, place, read_at};
use super::cache::BlockCache;
use crate::model::error;
use crate::model::int::{u64_of, usize_of};
use crate::model::range::Range;
use crate::model::room::{self, Room};

/// Bytes of the bitmap whose ones are counted once.
const COUNTED: usize = 4096;
/// Bytes of a descriptor: offset, size, flags, and flags of the page.
const DESCRIPTOR: u64 = 24;
const ZLIB: u32 = 1;
const LZO: u32 = 2;
const SNAPPY: u32 = 4;
const ZSTD: u32 = 0x20;

/// The index of a dump: which pages are in it, and where their descriptors begin.
#[derive(Debug)]
pub struct PackedPages {
    block: u64,
    stored: Vec<u8>,
    /// The ones before each [`COUNTED`] bytes of the bitmap.
    before: Vec<u64>,
    descriptors_at: u64,
    cache: BlockCache,
}

impl PackedPages {
    /// For blocks of so many bytes, those whose bits are set, and the place of the first descriptor.
    pub fn new(block: u64, stored: Vec<u8>, descriptors_at: u64) -> error::Result<Self> {
        let (mut before, mut count) = (Vec::new(), 0u64);
        for bytes in stored.chunks(COUNTED) {
            before.add(count)?;
            count = count.saturating_add(ones(bytes));
        }
        Ok(Self { block: block.max(1), stored, before, descriptors_at, cache: BlockCache::default() })
    }

    /// Reads as many bytes at an address as there is room for; those of pages that were left out are zeroes.
    pub(super) fn read(&self, file: &File, at: u64, bytes: &mut [u8]) -> Result<()> {
        let mut left = Range::at(at, u64_of(bytes.len()));
        while !left.is_empty() {
            let frame = left.base().checked_div(self.block).unwrap_or_default();
            let base = frame.saturating_mul(self.block);
            let part = Range::at(base, self.block).intersection(&left);
            let to = place(bytes, part, at);
            if self.is_stored(frame) {
                let start = usize_of(part.base().abs_diff(base));
                let block = || self.unpacked(file, frame).map_err(|error| about(base, &error));
                self.cache.with(frame, block, |block| copy(block, start, to))?;
            } else {
                to.fill(0);
            }
            left = left.skip(part.size());
        }
        Ok(())
    }

    fn is_stored(&self, frame: u64) -> bool {
        self.stored.get(usize_of(frame / 8)).is_some_and(|byte| byte >> (frame % 8) & 1 == 1)
    }

    /// The number of pages in the file before one.
    fn rank(&self, frame: u64) -> u64 {
        let byte = usize_of(frame / 8);
        let chunk = byte / COUNTED;
        let bytes = self.stored.get(chunk.saturating_mul(COUNTED)..byte).unwrap_or_default();
        let last = self.stored.get(byte).map_or(0, |byte| byte & !(u8::MAX << (frame % 8)));
        let before = self.before.get(chunk).copied().unwrap_or_default();
        before.saturating_add(ones(bytes)).saturating_add(u64::from(last.count_ones()))
    }

    fn unpacked(&self, file: &File, frame: u64) -> Result<Vec<u8>> {
        let place = self.descriptors_at.saturating_add(self.rank(frame).saturating_mul(DESCRIPTOR));
        let mut descriptor = [0; 24];
        read_at(file, &mut descriptor, place)?;
        let number =
            |at: usize| descriptor.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_le_bytes);
        let (offset, size, flags) = (u64::from(number(4)) << 32 | u64::from(number(0)), number(8), number(12));
        if u64::from(size) > self.block {
            return Err(Error::other(format!("has {size:#x} bytes, more than a block")));
        }
        let mut packed = room::zeroed(usize_of(size.into())).map_err(Error::other)?;
        read_at(file, &mut packed, offset)?;
        let block = self.unpack(packed, flags)?;
        match u64_of(block.len()) {
            size if size == self.block => Ok(block),
            size => Err(Error::other(format!("has {size:#x} of {:#x} bytes", self.block))),
        }
    }

    fn unpack(&self, packed: Vec<u8>, flags: u32) -> Result<Vec<u8>> {
        match flags {
            0 => Ok(packed),
            flags if flags & ZLIB != 0 => self.inflated(&packed),
            flags if flags & SNAPPY != 0 => unpacked_by_snappy(&packed, self.block),
            flags => {
                let name = match flags {
                    flags if flags & LZO != 0 => "LZO".into(),
                    flags if flags & ZSTD != 0 => "Zstd".into(),
                    flags => format!("method {flags:#x}"),
                };
                Err(Error::other(format!("is packed by {name}, which is not read: makedumpfile -c packs by zlib")))
            }
        }
    }

    /// A block, and no more.
    fn inflated(&self, packed: &[u8]) -> Result<Vec<u8>> {
        let mut block = room::zeroed(usize_of(self.block)).map_err(Error::other)?;
        match decompress_slice_iter_to_slice(&mut block, std::iter::once(packed), true, false) {
            Ok(size) => block.truncate(size),
            Err(TINFLStatus::HasMoreOutput) => {
                return Err(Error::other(format!("has more than {:#x} bytes", self.block)));
            }
            Err(_) => return Err(Error::other("can't be unpacked: it is damaged")),
        }
        Ok(block)
    }
}

fn ones(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(byte.count_ones())).sum()
}

fn unpacked_by_snappy(packed: &[u8], most: u64) -> Result<Vec<u8>> {
    let unpacked = decompress_len(packed).and_then(|size| match u64_of(size) > most {
        true => Err(snap::Error::TooBig { given: u64_of(size), max: most }),
        false => Decoder::new().decompress_vec(packed),
    });
    unpacked.map_err(|error| Error::other(format!("can't be unpacked: {error}")))
}

fn about(base: u64, error: &Error) -> Error {
    Error::other(format!("the page at {base:#x} {error}"))
}
