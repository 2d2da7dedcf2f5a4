//! The digests of the chunks that were sent, which both sides keep.

use crate::image::chunk::{self, Chunk, Digest, Named};
use crate::model::error::Result;
use crate::model::room::Room;

/// The memory as far as it was sent.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// Behind the last pass.
    all: Vec<Named>,
    /// Of this pass, by ascending number.
    pass: Vec<Chunk>,
}

impl Digests {
    /// Whether a chunk was zero before this pass.
    pub(super) fn was_zero(&self, number: u64) -> bool {
        self.all.binary_search_by_key(&number, |chunk| chunk.0).is_err()
    }

    /// Whether a chunk lies behind all those of this pass.
    pub(super) fn ascends(&self, number: u64) -> bool {
        self.pass.last().is_none_or(|last| last.number < number)
    }

    /// Notes what a chunk is now.
    pub(super) fn note(&mut self, number: u64, digest: Digest) -> Result<()> {
        self.pass.add(Chunk { number, pages: 0, digest })
    }

    /// Ends the pass.
    pub(super) fn end_pass(&mut self) -> Result<()> {
        self.all = chunk::merged(&self.all, &self.pass)?;
        self.pass.clear();
        Ok(())
    }

    /// The digest of all memory, as an image has it.
    pub(super) fn content(&self) -> Digest {
        chunk::content_of(&self.all)
    }
}
