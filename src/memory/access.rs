//! Accesses to guest physical ranges: planned whole, refused before anything is touched, or done.

use std::sync::Arc;

use super::buffer::{Input, Output};
use super::lease::Lease;
use super::map::{MappedMap, Need};
use super::piece::Piece;
use super::region::MappedRegion;
use crate::model::error::{Error, Result};
use crate::model::int::u64_of;
use crate::model::int::usize_of;
use crate::model::map::Map;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE};
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
        self.memory
            .overlapping(self.range)
            .map(|region| self.piece_at(region.meta.base().max(self.range.base())))
            .collect()
    }

    fn piece_at(&self, address: u64) -> Result<Piece> {
        let region = self.memory.find(address).ok_or_else(|| self.unmapped(address))?;
        let end = region.meta.end().min(self.range.end());
        match region.first_denied(address, end, self.need.bits()) {
            Some(denied) => Err(self.denied(denied, region)),
            None => Ok(self.piece(region, address, end)),
        }
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

    /// Pieces with leases on their regions, so that they can be used after the snapshot is let go.
    ///
    /// `Err` is a region that a change is deciding about, or that is gone: wait for what it decides, then ask again.
    pub fn hold(&self, pieces: Vec<Piece>) -> Result<Held, Arc<MappedRegion>> {
        let lease = |piece: &Piece| {
            let region = &piece.region;
            // Who asks for no protection asks for the address, and may write whenever he likes.
            let is_writable = self.need == Need::Any && region.meta.prot_flags & PROT_WRITE != 0;
            let lease = region.lease(self.verb, piece.address(), u64_of(piece.size), is_writable);
            lease.map_err(|_| Arc::clone(region))
        };
        let leases = pieces.iter().map(lease).collect::<Result<_, _>>()?;
        Ok(Held { pieces, leases })
    }

    /// Pieces of regions that allow what is needed and touch each other: the first that begin in the range, up to `most` bytes.
    #[must_use]
    pub fn run(&self, most: usize) -> Vec<Piece> {
        let allows = |region: &&Arc<MappedRegion>| region.meta.prot_flags & self.need.bits() == self.need.bits();
        let mut run: Vec<Piece> = Vec::new();
        let (mut reached, mut left) = (None, u64_of(most));
        for region in self.memory.overlapping(self.range).filter(allows) {
            let start = region.meta.base().max(self.range.base());
            let end = region.meta.end().min(self.range.end()).min(start.saturating_add(left));
            if reached.is_some_and(|reached| reached != start) || end <= start {
                break;
            }
            run.push(self.piece(region, start, end));
            left = left.saturating_sub(end.saturating_sub(start));
            reached = Some(end);
        }
        run
    }

    /// How many bytes can be accessed before the first that can't.
    #[must_use]
    pub fn reach(&self) -> u64 {
        let run = self.run(usize::MAX);
        let begins = run.first().is_some_and(|first| first.at == 0);
        if begins { end(&run) } else { 0 }
    }

    /// All pieces of regions that may be read; what has no memory and what may not be read is left out.
    #[must_use]
    pub fn readable(&self) -> Vec<Piece> {
        let readable = self.memory.overlapping(self.range).filter(|region| region.meta.prot_flags & PROT_READ != 0);
        readable.map(|region| self.piece_of(region)).collect()
    }

    /// The bytes of [`readable`](Self::readable).
    #[must_use]
    pub fn readable_size(&self) -> u64 {
        self.readable().iter().fold(0, |sum: u64, piece| sum.saturating_add(u64_of(piece.size)))
    }

    /// The part of a region that lies in the range.
    fn piece_of(&self, region: &Arc<MappedRegion>) -> Piece {
        let (start, end) = (region.meta.base().max(self.range.base()), region.meta.end().min(self.range.end()));
        self.piece(region, start, end)
    }

    fn piece(&self, region: &Arc<MappedRegion>, start: u64, end: u64) -> Piece {
        Piece {
            region: Arc::clone(region),
            offset: start.saturating_sub(region.meta.base()),
            size: usize_of(end.saturating_sub(start)),
            at: usize_of(start.saturating_sub(self.range.base())),
        }
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

/// Pieces of regions that leases keep in place.
#[derive(Debug, Default)]
pub struct Held {
    /// The pieces.
    pub pieces: Vec<Piece>,
    leases: Vec<Lease>,
}

impl Held {
    /// Adds pieces whose places in the buffer count from `at`.
    pub fn add(&mut self, other: Self, at: usize) {
        self.pieces.extend(other.pieces.iter().map(|piece| piece.at(piece.at.saturating_add(at))));
        self.leases.extend(other.leases);
    }

    /// Whether dropping it unmaps memory, which may take long.
    #[must_use]
    pub fn is_last_user(&self) -> bool {
        self.pieces.iter().any(|piece| Arc::strong_count(&piece.region) == 1)
    }
}

/// Copies pieces out.
pub fn read(pieces: &[Piece], output: &Output<'_>) -> Result<()> {
    pieces.iter().try_for_each(|piece| piece.read(output)).map_err(|error| error.of(end(pieces)))
}

/// Copies pieces in.
pub fn write(pieces: &[Piece], input: Input<'_>, force: bool) -> Result<()> {
    pieces.iter().try_for_each(|piece| piece.write(input, force)).map_err(|error| error.of(end(pieces)))
}

/// Where in the buffer the last piece ends.
fn end(pieces: &[Piece]) -> u64 {
    pieces.last().map_or(0, |last| u64_of(last.at.saturating_add(last.size)))
}
