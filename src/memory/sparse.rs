//! Guest memory in a fresh file, of which pages of zeroes stay holes.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::scan::{self, Chunk, PAGE};
use super::section::Section;
use crate::model::bytes::is_zero;
use crate::model::error::{Error, Result};
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::room;
use crate::sys::errno;

const STAGE: &str = "dump";

/// A file in which nothing was written yet where memory comes, and the name by which its user knows it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The file.
    pub file: &'a File,
    /// The name.
    pub path: &'a Path,
}

impl Target<'_> {
    /// Writes sections in several threads. What lies in one buffer goes, one behind the other, to places in the file, which ascend.
    pub fn write(
        &self,
        sections: &[Section<'_>],
        places: &[Range],
        threads: Option<usize>,
        interrupt: &dyn Interrupt,
    ) -> Result<()> {
        let placed = placed(sections, places)?;
        let written = scan::together(&placed, (STAGE, PAGE), threads, interrupt, |part, interrupt| {
            scan::walk(part, STAGE, interrupt, |part, chunk| {
                if let Chunk::Data(bytes) = chunk {
                    self.put(bytes, part.buffer().base())?;
                }
                Ok(ControlFlow::<()>::Continue(()))
            })?;
            Ok(ControlFlow::Continue(()))
        });
        written.map(drop)
    }

    /// Writes those pages of the file that have a byte that is not zero.
    fn put(&self, bytes: &[u8], at: u64) -> Result<()> {
        let slice = |part: Range| {
            let from = usize_of(part.base().abs_diff(at));
            bytes.get(from..).and_then(|bytes| bytes.get(..usize_of(part.size()))).unwrap_or_default()
        };
        let (mut left, mut run) = (Range::at(at, u64_of(bytes.len())), Range::at(at, 0));
        while !left.is_empty() {
            let page = left.take(PAGE.saturating_sub(left.base() % PAGE));
            left = left.skip(page.size());
            if is_zero(slice(page)) {
                continue;
            }
            if run.end() != page.base() {
                self.write_at(slice(run), run.base())?;
                run = page;
            }
            run = Range::between(run.base(), page.end());
        }
        self.write_at(slice(run), run.base())
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> Result<()> {
        self.file.write_all_at(bytes, position).map_err(|error| Error::File {
            message: error.to_string(),
            errno: errno::of(&error),
            path: self.path.into(),
        })
    }
}

/// The sections with their places in the file as their buffer.
fn placed<'a>(sections: &[Section<'a>], places: &[Range]) -> Result<Vec<Section<'a>>> {
    let (mut all, mut left, mut begin) = (room::unwritten(sections.len())?, sections.iter().peekable(), 0u64);
    for place in places {
        let end = begin.saturating_add(place.size());
        while let Some(section) = left.next_if(|section| section.buffer().base() < end) {
            all.push(section.placed(place.skip(section.buffer().base().abs_diff(begin)).base()));
        }
        begin = end;
    }
    Ok(all)
}
