//! Records as LiME and AVML write them: a header of 32 bytes with a magic number, a version, and the first and the last address.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{not_addresses, wrong};
use crate::model::error::Result;
use crate::model::int::u64_of;
use crate::model::range::Range;

/// The bytes of a header.
pub(super) const HEADER: u64 = 32;

/// A magic number and a version, which headers begin with.
pub(super) type Kind = (u32, u32);

/// A file of records, of which nothing is read behind its size.
pub(super) struct RecordFile<'a> {
    pub(super) file: &'a File,
    pub(super) size: u64,
}

impl RecordFile<'_> {
    /// The addresses of the record whose header is at a place.
    pub(super) fn record(&self, position: u64, (magic, version): Kind) -> Result<Range> {
        let header: [u8; 32] = self.bytes(position, "the header of a record")?;
        let (first, last, found) = (u64_at(&header, 8), u64_at(&header, 16), u32_at(&header, 4));
        if u32_at(&header, 0) != magic {
            return Err(wrong("no record begins here".into(), Some(position)));
        }
        if found != version {
            return Err(wrong(format!("version {found} is not known, only {version}"), Some(position)));
        }
        let Some(size) = last.checked_sub(first) else {
            let message = format!("a record ends at {last:#x}, before it begins at {first:#x}");
            return Err(wrong(message, Some(position)));
        };
        let size = size.saturating_add(1);
        Range::new(first, size).map_err(|_| not_addresses(first, size))
    }

    /// Some bytes at a place, of what a refusal names.
    pub(super) fn bytes<const N: usize>(&self, position: u64, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.check(position, u64_of(N), what)?;
        self.file.read_exact_at(&mut bytes, position).map_err(|error| wrong(error.to_string(), Some(position)))?;
        Ok(bytes)
    }

    /// Refuses bytes that the file does not have.
    pub(super) fn check(&self, position: u64, size: u64, what: &str) -> Result<()> {
        let end = position.saturating_add(size);
        if end <= self.size {
            return Ok(());
        }
        let missing = end.saturating_sub(self.size.max(position));
        let message = format!(
            "truncated: of {what}, [{position:#x}, {end:#x}), {missing:#x} bytes are missing; the file has {:#x}",
            self.size
        );
        Err(wrong(message, Some(position)))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u64::from_le_bytes)
}
