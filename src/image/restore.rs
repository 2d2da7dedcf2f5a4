//! Filling memory from an image.

use super::chain::Image;
use super::chunk::{self, CHUNK};
use crate::memory::buffer::{Bytes, Input};
use crate::memory::section::Section;
use crate::model::error::Result;
use crate::model::ids::Lineage;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;

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

/// Copies the memory of an image into new memory, chunk by chunk, each of which is checked before.
pub fn fill(image: &Image, pieces: &[Piece<'_>], interrupt: &dyn Interrupt) -> Result<()> {
    let chunks_of = |piece: &Piece<'_>| image.chunks_in(piece.at, piece.at.saturating_add(piece.section.size()));
    let total =
        pieces.iter().map(|piece| chunks_of(piece).len()).fold(0u64, |sum, count| sum.saturating_add(bytes_of(count)));
    let mut buffer = Image::buffer()?;
    let mut done = 0u64;
    for piece in pieces {
        for (number, _) in chunks_of(piece) {
            image.read(*number, &mut buffer)?;
            piece.put(number.saturating_mul(CHUNK), &buffer)?;
            done = done.saturating_add(CHUNK);
            interrupt.progress("restore", done, total)?;
        }
    }
    Ok(())
}

fn bytes_of(count: usize) -> u64 {
    u64_of(count).saturating_mul(CHUNK)
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
            to.write(Input::Bytes(Bytes::from(part)), true)?;
        }
        Ok(())
    }
}
