//! The memory in dumps that other programs wrote: where its bytes are in the file, and how they are read there.
//!
//! Nothing is believed of a file but its size.

pub mod avml;
mod buffer;
mod cache;
pub mod elf;
pub mod kdump;
pub mod lime;
pub mod pages;
pub mod piece;
pub mod reader;
mod record;

use crate::model::error::Error;
use crate::model::invalid::Invalid;

/// The refusal of a file, whose offset is the error's address.
fn wrong(message: String, offset: Option<u64>) -> Error {
    Invalid::argument(message).about(offset, None).into()
}

/// The refusal of bytes behind the last address.
fn not_addresses(base: u64, size: u64) -> Error {
    wrong(format!("{size:#x} bytes at {base:#x} are not a range of addresses below 2^64 - 1"), None)
}
