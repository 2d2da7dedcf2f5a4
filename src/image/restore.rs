//! Filling memory from an image.

use super::chain::Image;
use super::chunk::{self, CHUNK};
use crate::memory::section::Section;
use crate::model::error::Result;
use crate::model::ids::Lineage;
use crate::model::int::usize_of;
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::room;

/// Memory to be filled.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The memory, which nobody has written.
    pub section: Section<'a>,
    /// Where its bytes begin in the data of the image.
    pub at: u64,
    /// The identity of its bytes, where they are all that have it.
    pub lineage: Option<Lineage>,
}

/// Copies the memory of an image into new memory, in several threads, each chunk of it checked before.
pub fn fill(image: &Image, pieces: &[Piece<'_>], threads: Option<usize>, interrupt: &dyn Interrupt) -> Result<()> {
    let chunks_of = |piece: &Piece<'_>| image.chunks_in(piece.at, piece.at.saturating_add(piece.section.size()));
    let wanted = pieces.iter().flat_map(|piece| chunks_of(piece).iter().map(move |(number, _)| (*number, piece)));
    let put = |(number, piece): &(u64, &Piece<'_>), bytes: &[u8]| piece.put(number.saturating_mul(CHUNK), bytes);
    image.each(&room::collected(wanted)?, ("restore", threads), interrupt, put).map(drop)
}

impl Piece<'_> {
    /// Gives the memory the identity that its bytes have in the image.
    pub fn descend(&self) {
        let storage = self.section.region().storage();
        self.lineage.into_iter().for_each(|lineage| storage.descend_from(lineage));
    }

    /// Writes what lies in it of a chunk; pages of zeroes stay holes.
    fn put(&self, start: u64, bytes: &[u8]) -> Result<()> {
        let here = Range::at(self.at, self.section.size());
        for (at, size) in chunk::runs(chunk::used_pages(bytes)) {
            let run = Range::at(start.saturating_add(at), size).intersection(&here);
            let from = usize_of(run.base().saturating_sub(start));
            let Some(part) = bytes.get(from..from.saturating_add(usize_of(run.size()))) else { continue };
            let to = self.section.skip(run.base().saturating_sub(self.at)).take(run.size()).alone();
            to.store(part)?;
        }
        Ok(())
    }
}
