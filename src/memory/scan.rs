//! Looking at many bytes, without allocating those that no one has written.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use super::buffer::Output;
use super::extent::ExtentKind;
use super::progress::Progress;
use super::section::Section;
use super::team::{Step, share_out, threads_for};
use crate::model::error::Result;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::range::Range;
use crate::model::room::{self, Room};

/// Bytes that are copied out at a time: few enough to stay in a cache.
pub const CHUNK: usize = 128 << 10;
/// Bytes of a guest page.
pub(super) const PAGE: u64 = 4096;

/// Some bytes of the guest.
#[derive(Clone, Copy, Debug)]
pub enum Chunk<'a> {
    /// A copy of them.
    Data(&'a [u8]),
    /// Zeroes, for which a shared file has no pages.
    Hole,
}

/// Calls `look(part, what it is)` for parts of the sections in turn, until it breaks.
pub fn walk<T>(
    sections: &[Section<'_>],
    stage: &'static str,
    interrupt: &dyn Interrupt,
    mut look: impl FnMut(&Section<'_>, Chunk<'_>) -> Result<ControlFlow<T>>,
) -> Result<Option<T>> {
    let total = sections.iter().map(Section::size).sum();
    let mut buffer = room::unwritten(CHUNK.min(usize_of(total)))?;
    let mut progress = Progress::new(stage, total, interrupt);
    for section in sections {
        let mut left = *section;
        while !left.is_empty() {
            let (alike, kind) = first_extent(&left);
            left = left.skip(alike.size());
            for part in alike.chunks(if kind == ExtentKind::Hole { STEP } else { u64_of(CHUNK) }) {
                let chunk = match kind {
                    ExtentKind::Hole => Chunk::Hole,
                    kind => {
                        let copied = copy_out(&part, kind, &mut buffer);
                        Chunk::Data(copied.map_err(|error| error.after(progress.done()).of(total))?)
                    }
                };
                if let ControlFlow::Break(result) = look(&part, chunk)? {
                    return Ok(Some(result));
                }
                progress.advance(part.size())?;
            }
        }
    }
    Ok(None)
}

/// Has `look` done for all sections at once by one thread, or for parts of them by several, which end at a multiple of `unit` of the buffer;
/// what it gives is returned in order, up to the first that breaks off.
pub fn together<T: Send>(
    sections: &[Section<'_>],
    (stage, unit): (&'static str, u64),
    threads: Option<usize>,
    interrupt: &dyn Interrupt,
    look: impl Fn(&[Section<'_>], &dyn Interrupt) -> Step<T> + Sync + Send,
) -> Result<Vec<T>> {
    let size_in = |range: Range| within(sections, range).map(|part| part.size()).sum::<u64>();
    let total = sections.iter().map(Section::size).sum();
    let threads = threads_for(total, threads);
    // Who waits for a fault's handler does so in the caller's thread, which can be told to give up.
    if threads == 1 || sections.iter().any(Section::may_block) {
        let (ControlFlow::Continue(given) | ControlFlow::Break(given)) = look(sections, interrupt)?;
        return Ok(vec![given]);
    }
    let (steps, done) = (steps(sections, unit)?, AtomicU64::new(0));
    let step = |index: usize, interrupt: &dyn Interrupt| {
        let range = steps.get(index).copied().unwrap_or(Range::between(0, 0));
        let given = look(&room::collected(within(sections, range))?, interrupt)
            .map_err(|error| error.after(size_in(Range::between(0, range.base()))).of(total))?;
        done.fetch_add(size_in(range), Ordering::Relaxed);
        Ok(given)
    };
    share_out(steps.len(), threads, step, &mut || interrupt.progress(stage, done.load(Ordering::Relaxed), total))
}

/// Ranges of the buffer, one behind the other, with about [`STEP`] bytes of the sections each, which end at a multiple of `unit`.
fn steps(sections: &[Section<'_>], unit: u64) -> Result<Vec<Range>> {
    let (mut steps, mut begin, mut missing) = (Vec::new(), 0, STEP);
    for section in sections {
        let mut left = Range::between(begin.max(section.buffer().base()), section.buffer().end());
        while left.size() >= missing {
            let end = left.skip(missing).base().checked_next_multiple_of(unit).unwrap_or(u64::MAX);
            steps.add(Range::between(begin, end))?;
            (begin, left, missing) = (end, Range::between(end, left.end()), STEP);
        }
        missing = missing.saturating_sub(left.size());
    }
    steps.add(Range::between(begin, u64::MAX))?;
    Ok(steps)
}

/// The parts of sections, which ascend in their buffer, that lie in a range of it.
pub(super) fn within<'a>(sections: &[Section<'a>], range: Range) -> impl Iterator<Item = Section<'a>> {
    let from = sections.partition_point(|section| section.buffer().end() <= range.base());
    let touching = sections.iter().skip(from).take_while(move |section| section.buffer().base() < range.end());
    touching.map(move |section| {
        let inside = section.buffer().intersection(&range);
        section.skip(inside.base().abs_diff(section.buffer().base())).take(inside.size())
    })
}

/// The first bytes that are alike in having pages, up to the end of a guest page.
///
/// When a region begins in the midst of a page of its file, holes end in the midst of guest pages: their kind is unknown.
fn first_extent<'a>(section: &Section<'a>) -> (Section<'a>, ExtentKind) {
    let extent = section.extent();
    let end = section.take(extent.size).range().end();
    let up_to = |end: u64| section.take(Range::between(section.address(), end).size());
    let page_end = |end: u64| end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    let last_page = end & !(PAGE - 1);
    match extent.kind {
        // A hole ends where data begins, maybe inside a guest page: only pages without any data are passed.
        ExtentKind::Hole if last_page > section.address() => (up_to(last_page), ExtentKind::Hole),
        ExtentKind::Hole => (up_to(page_end(end)), ExtentKind::Unknown),
        kind => (up_to(page_end(end)), kind),
    }
}

/// A copy of bytes that are alike in having pages, in a buffer that has room for them.
fn copy_out<'a>(part: &Section<'_>, kind: ExtentKind, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
    buffer.clear();
    // SAFETY: the room of the buffer, which nobody else has.
    let output = unsafe { Output::new(buffer.as_mut_ptr(), buffer.capacity()) };
    match kind {
        // Data has its pages, and may be touched; all else is read in a way that allocates none.
        ExtentKind::Data => part.alone().read(&output)?,
        ExtentKind::Hole | ExtentKind::Unknown => part.alone().scan(&output)?,
    }
    // SAFETY: as many bytes were written.
    unsafe { buffer.set_len(part.len()) };
    Ok(buffer)
}

/// Passes on `size` zeroes, in parts.
pub fn zeroes(size: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
    let mut left = Range::between(0, size);
    while !left.is_empty() {
        let part = ZEROES.get(..usize_of(left.size())).unwrap_or(&ZEROES);
        take(part)?;
        left = left.skip(u64_of(part.len()));
    }
    Ok(())
}
