//! An image: a file, and those that it is a difference from.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::chunk::{self, Buffer, CHUNK, Digest, Named};
use super::part::Part;
use crate::memory::lazy::Haste;
use crate::memory::team::{share_out, threads_for};
use crate::model::error::{Error, ImageFault, Result};
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::room;

/// Chunks that a thread reads before it looks for other work.
const AT_A_TIME: usize = 64;

/// The memory that a chain of files describes.
#[derive(Debug)]
pub struct Image {
    newest: Arc<Part>,
    /// The parent, its parent and so on.
    older: Vec<Arc<Part>>,
    chunks: Vec<Named>,
}

impl Image {
    /// The image of a file and its ancestors, each of which must be the one that the file before names.
    pub fn of(newest: Arc<Part>, older: Vec<Arc<Part>>) -> Result<Self> {
        let mut child = &newest;
        for parent in &older {
            if child.header().parent != Some(parent.header().root) {
                let message = format!("{} is not the parent that it names", parent.path().display());
                return Err(child.fault(ImageFault::Mismatch, message, None));
            }
            child = parent;
        }
        if child.header().parent.is_some() {
            return Err(child.fault(ImageFault::Mismatch, "its parent is missing", None));
        }
        let oldest_first = older.iter().rev().chain([&newest]);
        let merge = |all: Vec<Named>, part: &Arc<Part>| chunk::merged(&all, part.chunks());
        let chunks = oldest_first.into_iter().try_fold(Vec::new(), merge)?;
        if chunk::content_of(&chunks) != newest.header().content {
            let message = "its chunks and its parent's are not the content that it names";
            return Err(newest.fault(ImageFault::Corrupt, message, None));
        }
        Ok(Self { newest, older, chunks })
    }

    /// The file that is named.
    pub const fn newest(&self) -> &Arc<Part> {
        &self.newest
    }

    /// The file, its parent and so on.
    pub fn parts(&self) -> impl Iterator<Item = &Arc<Part>> {
        [&self.newest].into_iter().chain(&self.older)
    }

    /// The chunks of memory that are not zero.
    pub fn chunks(&self) -> &[Named] {
        &self.chunks
    }

    /// Those that lie in part of the data, at least with a byte.
    pub fn chunks_in(&self, start: u64, end: u64) -> &[Named] {
        let first =
            self.chunks.partition_point(|(number, _)| number.saturating_mul(CHUNK).saturating_add(CHUNK) <= start);
        let last = self.chunks.partition_point(|(number, _)| number.saturating_mul(CHUNK) < end);
        self.chunks.get(first..last).unwrap_or_default()
    }

    /// The digest of a chunk.
    pub fn digest(&self, number: u64) -> Digest {
        let index = self.chunks.binary_search_by_key(&number, |chunk| chunk.0).ok();
        index.and_then(|index| self.chunks.get(index)).map(|chunk| chunk.1).unwrap_or_default()
    }

    /// Room for the bytes of a chunk.
    pub fn buffer() -> Result<Buffer> {
        room::zeroed(usize_of(CHUNK))
    }

    /// Reads chunks of a list and has them looked at, in several threads, by default in as many as help; what that gives, in their order.
    pub fn each<J: Sync, T: Send>(
        &self,
        wanted: &[(u64, J)],
        (stage, threads): (&'static str, Option<usize>),
        interrupt: &dyn Interrupt,
        look: impl Fn(&(u64, J), &[u8]) -> Result<T> + Sync + Send,
    ) -> Result<Vec<T>> {
        let total = u64_of(wanted.len()).saturating_mul(CHUNK);
        let (parts, done) = (room::collected(wanted.chunks(AT_A_TIME))?, AtomicU64::new(0));
        let step = |index: usize, interrupt: &dyn Interrupt| {
            let part = parts.get(index).copied().unwrap_or_default();
            let (mut buffer, mut given) = (Self::buffer()?, room::unwritten(part.len())?);
            for one in part {
                self.read(one.0, &mut buffer)?;
                given.push(look(one, &buffer)?);
                done.fetch_add(CHUNK, Ordering::Relaxed);
                interrupt.check()?;
            }
            Ok(ControlFlow::Continue(given))
        };
        let ask = &mut || interrupt.progress(stage, done.load(Ordering::Relaxed), total);
        let given = share_out(parts.len(), threads_for(total, threads), step, ask)?;
        room::collected(given.into_iter().flatten())
    }

    /// Reads a chunk from the files that have its pages, and checks its digest.
    pub fn read(&self, number: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_in(number, buffer, Haste::Waits).map(drop)
    }

    /// The same; `false` when it would have to wait.
    pub fn read_in(&self, number: u64, buffer: &mut [u8], haste: Haste) -> Result<bool> {
        if !read_from(self.parts(), number, buffer, haste)? {
            return Ok(false);
        }
        if chunk::digest_of(buffer) == self.digest(number) {
            return Ok(true);
        }
        Err(self.damage(number))
    }

    /// The error of a chunk that is damaged, with the file in which: the oldest that does not have with its ancestors what it names.
    fn damage(&self, number: u64) -> Error {
        let parts: Vec<_> = self.parts().collect();
        let is_damaged = |index: &usize| {
            let part = parts.get(*index)?;
            let named = part.find(number)?.digest;
            let mut bytes = Self::buffer().ok()?;
            let read = read_from(parts.iter().skip(*index).copied(), number, &mut bytes, Haste::Waits);
            (!read.is_ok_and(|_| chunk::digest_of(&bytes) == named)).then_some(*part)
        };
        let damaged = (0..parts.len()).rev().find_map(|index| is_damaged(&index)).unwrap_or(&self.newest);
        let of = if Arc::ptr_eq(damaged, &self.newest) {
            String::new()
        } else {
            format!(", which {} builds on", self.newest.path().display())
        };
        let message = format!("chunk {number}{of} is not what was written; restore another image");
        damaged.fault(ImageFault::Corrupt, message, Some(number))
    }
}

/// Reads a chunk as the first of some files has it, whose ancestors are the others; `false` when that would have to wait.
fn read_from<'a>(
    parts: impl Iterator<Item = &'a Arc<Part>>,
    number: u64,
    buffer: &mut [u8],
    haste: Haste,
) -> Result<bool> {
    buffer.fill(0);
    let mut missing = chunk::ALL_PAGES;
    for part in parts {
        let Some(chunk) = part.find(number) else { continue };
        if chunk.is_zero() || missing == 0 {
            break;
        }
        if !part.read_pages(number, chunk.pages & missing, buffer, haste)? {
            return Ok(false);
        }
        missing &= !chunk.pages;
    }
    Ok(true)
}
