//! Accesses to guest physical ranges: planned whole, refused before anything is touched, or done.

use std::sync::Arc;

use super::buffer::{Input, Output};
use super::copy::Piece;
use super::lease::{Lease, Refused};
use super::map::{MappedMap, Need};
use super::mapping::usize_of;
use super::region::MappedRegion;
use crate::model::error::{Error, Result};
use crate::model::map::Map;
use crate::model::range::Range;
use crate::model::text::hex;

/// A guest physical range, what is done with it, and where.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The map, to explain refusals.
    pub map: &'a Map,
    /// The memory.
    pub memory: &'a MappedMap,
    /// `"read"`, `"write"`, `"view"`: for messages and leases.
    pub verb: &'static str,
    /// What the verb needs of the memory.
    pub need: Need,
    /// The addresses.
    pub range: Range,
}

impl Access<'_> {
    /// The pieces of regions that the range consists of, or the reason at its first bad address.
    pub fn pieces(&self) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut address = self.range.base();
        while address < self.range.end() {
            let piece = self.piece_at(address)?;
            address = piece.region.meta.end();
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// Like [`pieces`](Self::pieces), but what has no memory is left out.
    pub fn pieces_with_holes(&self) -> Result<Vec<Piece>> {
        let regions = self.map.overlapping(self.range).iter().filter(|region| region.has_memory());
        regions.map(|region| self.piece_at(region.base().max(self.range.base()))).collect()
    }

    fn piece_at(&self, address: u64) -> Result<Piece> {
        let region = self.memory.find(address).ok_or_else(|| self.unmapped(address))?;
        if region.meta.prot_flags & self.need.bits() != self.need.bits() {
            return Err(self.denied(address, region));
        }
        let end = region.meta.end().min(self.range.end());
        Ok(Piece {
            region: Arc::clone(region),
            offset: address.saturating_sub(region.meta.base()),
            size: usize_of(end.saturating_sub(address)),
            at: usize_of(address.saturating_sub(self.range.base())),
        })
    }

    /// The one piece of a range that must not cross from one mapping into another.
    pub fn single_piece(&self) -> Result<Piece> {
        let mut pieces = self.pieces()?;
        match (pieces.pop(), pieces.pop()) {
            (Some(piece), None) => Ok(piece),
            (Some(piece), Some(before)) => Err(self.not_contiguous(&before, &piece)),
            (None, _) => Err(self.unmapped(self.range.base())),
        }
    }

    /// Leases on all pieces, so that they can be used after the snapshot is let go.
    pub fn hold(&self, pieces: &[Piece]) -> Result<Vec<Lease>, HoldRefused> {
        let size = |piece: &Piece| u64::try_from(piece.size).unwrap_or(u64::MAX);
        let lease = |piece: &Piece| {
            piece
                .region
                .lease(self.verb, piece.address(), size(piece))
                .map_err(|refused| HoldRefused { refused, region: Arc::clone(&piece.region) })
        };
        pieces.iter().map(lease).collect()
    }

    fn asked(&self) -> String {
        format!("{} of {} bytes at {}", self.verb, hex(self.range.size()), hex(self.range.base()))
    }

    /// The refusal of an address that has no memory.
    #[must_use]
    pub fn unmapped(&self, address: u64) -> Error {
        let device = self.map.find(address).filter(|region| !region.has_memory());
        let at = if address == self.range.base() {
            String::new()
        } else {
            format!(" ({} bytes in)", hex(address.saturating_sub(self.range.base())))
        };
        match device {
            Some(region) => Error::Unmapped {
                message: format!(
                    "{}: {}{at} belongs to the device region {region}, which has no memory",
                    self.asked(),
                    hex(address)
                ),
                address: Some(address),
                size: Some(self.range.size()),
                region: Some(Arc::clone(region)),
            },
            None => self
                .sized(self.map.unmapped(address, &format!("{}: no region holds {}{at}", self.asked(), hex(address)))),
        }
    }

    fn sized(&self, error: Error) -> Error {
        match error {
            Error::Unmapped { message, address, region, .. } => {
                Error::Unmapped { message, address, size: Some(self.range.size()), region }
            }
            other => other,
        }
    }

    fn denied(&self, address: u64, region: &MappedRegion) -> Error {
        let protection = crate::model::text::protection(region.meta.prot_flags);
        let hint = if self.need == Need::Write { "; force=True writes through a protection" } else { "" };
        Error::AccessDenied {
            message: format!("{}: {} lies in {}, which is {protection}{hint}", self.asked(), hex(address), region.meta),
            address,
            size: self.range.size(),
            region: Arc::clone(&region.meta),
        }
    }

    fn not_contiguous(&self, before: &Piece, behind: &Piece) -> Error {
        Error::NotContiguous {
            message: format!(
                "{}: crosses the joint at {} between {} and {}, which are mapped apart; take one of each, or read()",
                self.asked(),
                hex(behind.region.meta.base()),
                before.region.meta,
                behind.region.meta
            ),
            address: behind.region.meta.base(),
            size: self.range.size(),
            region: Arc::clone(&before.region.meta),
            conflict: Some(Arc::clone(&behind.region.meta)),
        }
    }
}

/// A region that a change is deciding about, or that is gone.
#[derive(Debug)]
pub struct HoldRefused {
    /// Why.
    pub refused: Refused,
    /// The region, to wait for.
    pub region: Arc<MappedRegion>,
}

/// Copies pieces out.
pub fn read(pieces: &[Piece], output: &Output<'_>) -> Result<()> {
    pieces.iter().try_for_each(|piece| piece.read(output)).map_err(|error| of_whole(error, pieces))
}

/// Copies pieces in.
pub fn write(pieces: &[Piece], input: Input<'_>, force: bool) -> Result<()> {
    pieces.iter().try_for_each(|piece| piece.write(input, force)).map_err(|error| of_whole(error, pieces))
}

/// A fault of one piece, told with the size of the whole access.
fn of_whole(mut error: Error, pieces: &[Piece]) -> Error {
    if let (Error::Fault { size, .. }, Some(last)) = (&mut error, pieces.last()) {
        *size = u64::try_from(last.at.saturating_add(last.size)).unwrap_or(u64::MAX);
    }
    error
}
