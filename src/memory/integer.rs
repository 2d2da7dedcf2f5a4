//! Atomic loads and stores of naturally aligned integers in memory that can't fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::access::Access;
use super::copy::Piece;
use crate::model::error::{Error, Result};
use crate::model::text::hex;

/// A place of 1, 2, 4 or 8 bytes that an atomic operation may use for as long as the snapshot is held.
#[derive(Debug)]
pub struct Cell {
    piece: Piece,
}

impl Cell {
    /// The place, or why it can't be used atomically.
    pub fn new(access: &Access<'_>) -> Result<Self> {
        let (address, size) = (access.range.base(), access.range.size());
        if !address.is_multiple_of(size.max(1)) {
            return Err(Error::Misaligned {
                message: format!(
                    "{} of {size} bytes at {}: an atomic access needs an address that is a multiple of its size",
                    access.verb,
                    hex(address)
                ),
                address: Some(address),
                size: Some(size),
                region: None,
            });
        }
        let piece = access.single_piece()?;
        if piece.region.mapping.is_guarded() {
            return Err(Error::Unsupported {
                message: format!(
                    "{} at {}: {} may fault, and atomics have no guarded form; use read_u* and write_u*",
                    access.verb,
                    hex(address),
                    piece.region.meta
                ),
                feature: "atomic access to guarded memory",
                how: "use read_u8..read_u64 and write_u8..write_u64".into(),
                region: Some(Arc::clone(&piece.region.meta)),
            });
        }
        Ok(Self { piece })
    }

    fn host(&self) -> *mut u8 {
        self.piece.region.mapping.host(self.piece.offset)
    }

    /// The value, read as little-endian.
    #[must_use]
    pub fn load(&self, order: Ordering) -> u64 {
        let host = self.host();
        // SAFETY: inside a mapping that can't fault, naturally aligned, and only touched by copies and atomics.
        unsafe {
            match self.piece.size {
                1 => AtomicU8::from_ptr(host).load(order).into(),
                2 => u16::from_le(AtomicU16::from_ptr(host.cast()).load(order)).into(),
                4 => u32::from_le(AtomicU32::from_ptr(host.cast()).load(order)).into(),
                _ => u64::from_le(AtomicU64::from_ptr(host.cast()).load(order)),
            }
        }
    }

    /// Stores the low bytes of a value, as little-endian.
    pub fn store(&self, value: u64, order: Ordering) {
        let (host, b) = (self.host(), value.to_le_bytes());
        // SAFETY: inside a mapping that can't fault, naturally aligned, and only touched by copies and atomics.
        unsafe {
            match self.piece.size {
                1 => AtomicU8::from_ptr(host).store(b[0], order),
                2 => AtomicU16::from_ptr(host.cast()).store(u16::from_ne_bytes([b[0], b[1]]), order),
                4 => AtomicU32::from_ptr(host.cast()).store(u32::from_ne_bytes([b[0], b[1], b[2], b[3]]), order),
                _ => AtomicU64::from_ptr(host.cast()).store(u64::from_ne_bytes(b), order),
            }
        }
    }
}
