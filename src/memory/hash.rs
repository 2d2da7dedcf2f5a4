//! Digests of guest memory.

use std::ops::ControlFlow;

use super::scan::{self, Chunk};
use super::section::Section;
use crate::model::error::Result;
use crate::model::interrupt::Interrupt;

/// Takes bytes one after the other, to make a digest of them.
pub trait Digest {
    /// Takes some more.
    fn update(&mut self, bytes: &[u8]) -> Result<()>;
}

impl Digest for blake3::Hasher {
    fn update(&mut self, bytes: &[u8]) -> Result<()> {
        self.update(bytes);
        Ok(())
    }
}

/// Feeds all bytes to a digest.
pub fn hash(sections: &[Section<'_>], digest: &mut dyn Digest, interrupt: &dyn Interrupt) -> Result<()> {
    let feed = |part: &Section<'_>, chunk: Chunk<'_>| {
        match chunk {
            Chunk::Data(bytes) => digest.update(bytes)?,
            Chunk::Hole => scan::zeroes(part.size(), |bytes| digest.update(bytes))?,
        }
        Ok(ControlFlow::<()>::Continue(()))
    };
    scan::walk(sections, "hash", interrupt, feed).map(drop)
}
