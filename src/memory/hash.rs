//! Digests of guest memory.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::scan::{self, Chunk};
use super::section::Section;
use super::team::{share_out, threads_for};
use crate::model::error::Result;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::range::Range;
use crate::model::room;

const STAGE: &str = "hash";

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

/// The BLAKE3 digest of all bytes.
pub fn blake3(sections: &[Section<'_>], threads: Option<usize>, interrupt: &dyn Interrupt) -> Result<blake3::Hash> {
    let total = sections.iter().map(Section::size).sum();
    let threads = threads_for(total, threads);
    if threads == 1 || total <= STEP || sections.iter().any(Section::may_block) {
        let mut hasher = blake3::Hasher::new();
        hash(sections, &mut hasher, interrupt)?;
        return Ok(hasher.finalize());
    }
    let (done, begin) = (AtomicU64::new(0), sections.first().map_or(0, |first| first.buffer().base()));
    let whole = Range::at(begin, total);
    let step = |index: usize, interrupt: &dyn Interrupt| {
        let at = u64_of(index).saturating_mul(STEP);
        let part = room::collected(scan::within(sections, whole.skip(at).take(STEP)))?;
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(at);
        hash(&part, &mut hasher, interrupt).map_err(|error| error.after(at).of(total))?;
        done.fetch_add(part.iter().map(Section::size).sum(), Ordering::Relaxed);
        Ok(ControlFlow::Continue(hasher.finalize_non_root()))
    };
    let steps = usize_of(total.div_ceil(STEP));
    let ask = &mut || interrupt.progress(STAGE, done.load(Ordering::Relaxed), total);
    let subtrees = share_out(steps, threads, step, ask)?;
    let (left, right) = subtrees.split_at(left_of(subtrees.len()));
    Ok(merge_subtrees_root(&merged(left), &merged(right), Mode::Hash))
}

/// How many of so many subtrees of one size are left of the joint above them: the greatest power of two that leaves some for the right.
const fn left_of(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

fn merged(subtrees: &[ChainingValue]) -> ChainingValue {
    match subtrees {
        [] => ChainingValue::default(),
        [one] => *one,
        more => {
            let (left, right) = more.split_at(left_of(more.len()));
            merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
        }
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
    scan::walk(sections, STAGE, interrupt, feed).map(drop)
}
