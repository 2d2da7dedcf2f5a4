//! The segments of ELF64 core dumps. QEMU, when it dumps virtual addresses, writes more than 65,535 of them.

use super::piece::Piece;
use super::{not_addresses, wrong};
use crate::model::error::Result;
use crate::model::range::Range;
use crate::model::room::Room;

/// A program header of a segment that is loaded.
struct Segment {
    offset: u64,
    virtual_address: u64,
    base: u64,
    stored: u64,
    size: u64,
}

const LOAD: u32 = 1;

impl Segment {
    /// The segment of a header; `None` of another kind.
    fn of(header: &[u8]) -> Option<Self> {
        let number = |at: usize| header.get(at..).and_then(<[u8]>::first_chunk).copied().map(u64::from_le_bytes);
        let kind = header.first_chunk().copied().map(u32::from_le_bytes);
        kind.filter(|kind| *kind == LOAD)?;
        let (offset, virtual_address, base) = (number(8)?, number(16)?, number(24)?);
        Some(Self { offset, virtual_address, base, stored: number(32)?, size: number(40)? })
    }

    /// The part that is in the file, and the part that was left out of it, which is not zero.
    fn pieces(&self) -> Result<[Piece; 2]> {
        let Self { base, stored, size, .. } = *self;
        if stored > size {
            let message = format!("the segment at {base:#x} has {stored:#x} bytes in the file and {size:#x} in memory");
            return Err(wrong(message, None));
        }
        let range = Range::new(base, size).map_err(|_| not_addresses(base, size))?;
        Ok([Piece { range: range.take(stored), at: Some(self.offset) }, Piece { range: range.skip(stored), at: None }])
    }
}

/// The memory of the program headers in a table, each of so many bytes.
pub fn pieces(table: &[u8], stride: usize) -> Result<Vec<Piece>> {
    let (mut pieces, mut is_virtual, mut is_physical) = (Vec::new(), false, false);
    for segment in table.chunks_exact(stride.max(1)).filter_map(Segment::of) {
        is_virtual |= segment.virtual_address > 0 && segment.virtual_address < 1 << 63;
        is_physical |= segment.base > 0;
        pieces.add_all(segment.pieces()?.into_iter().filter(|piece| !piece.range.is_empty()))?;
    }
    if is_virtual && !is_physical {
        return Err(wrong("it is the core of a process, whose segments have no physical addresses".into(), None));
    }
    Ok(pieces)
}
