//! Parts of a caller's buffer, and the bytes that come into them.

use std::fs::File;
use std::io::{self, Result};
use std::os::unix::fs::FileExt;

use crate::model::int::usize_of;
use crate::model::range::Range;

/// The place in a buffer, whose first byte is that at an address, of those at some addresses.
pub(super) fn place(bytes: &mut [u8], part: Range, at: u64) -> &mut [u8] {
    let start = usize_of(part.base().abs_diff(at));
    bytes.get_mut(start..start.saturating_add(usize_of(part.size()))).unwrap_or_default()
}

/// Bytes at an offset of the file.
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            let size = bytes.len();
            io::Error::other(format!(
                "reaches behind the end of the file: {size:#x} bytes at {offset:#x} are not in it"
            ))
        }
        _ => io::Error::other(format!("can't be read: {error}")),
    })
}

/// Copies the bytes of a block from one on.
pub(super) fn copy(block: &[u8], start: usize, to: &mut [u8]) {
    let from = block.get(start..).unwrap_or_default();
    let size = from.len().min(to.len());
    if let Some((to, from)) = to.get_mut(..size).zip(from.get(..size)) {
        to.copy_from_slice(from);
    }
}
