//! Dumps of LiME, version 1: records of a range of addresses, whose bytes follow as they are.

use std::fs::File;

use super::piece::Piece;
use super::record::{HEADER, Kind, RecordFile};
use crate::model::error::Result;
use crate::model::interrupt::Interrupt;
use crate::model::room::Room;

const KIND: Kind = (0x4c69_4d45, 1);

/// The memory of all records of a file. With `is_partial` a header that is cut is its end.
pub fn pieces(file: &File, size: u64, is_partial: bool, interrupt: &dyn Interrupt) -> Result<Vec<Piece>> {
    let (records, mut pieces, mut position) = (RecordFile { file, size }, Vec::new(), 0u64);
    while position < size && !(is_partial && size.saturating_sub(position) < HEADER) {
        interrupt.check()?;
        let (range, at) = (records.record(position, KIND)?, position.saturating_add(HEADER));
        pieces.add(Piece { range, at: Some(at) })?;
        position = at.saturating_add(range.size());
    }
    Ok(pieces)
}
