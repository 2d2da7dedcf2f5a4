//! Copies from guest memory to guest memory.

use super::buffer::{Bytes, Input, Output};
use super::progress::Progress;
use super::scan::CHUNK;
use super::section::Section;
use super::untorn;
use crate::model::error::Result;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::{Interrupt, STEP, Uninterrupted};
use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::model::room::{self, Room};

/// Copies as if through a buffer between the two ranges, which have the same size and may overlap.
pub fn copy(from: &[Section<'_>], to: &[Section<'_>], interrupt: &dyn Interrupt) -> Result<()> {
    let total: u64 = from.iter().map(Section::size).sum();
    let mut steps = steps(from, to)?;
    // Bytes in both ranges must be read before they are written over.
    let is_backward = from
        .first()
        .zip(to.first())
        .is_some_and(|(from, to)| from.address() < to.address() && to.address().abs_diff(from.address()) < total);
    if is_backward {
        steps.reverse();
    }
    let mut progress = Progress::new("copy", total, interrupt);
    for (from, to) in steps {
        step(from, to, is_backward).map_err(|error| error.after(progress.done()).of(total))?;
        progress.advance(from.size())?;
    }
    Ok(())
}

/// Pairs of parts, each inside one region on both sides and alone in its buffer.
fn steps<'a>(from: &[Section<'a>], to: &[Section<'a>]) -> Result<Vec<(Section<'a>, Section<'a>)>> {
    let (mut sources, mut targets) = (from.iter().copied(), to.iter().copied());
    let (mut source, mut target) = (sources.next(), targets.next());
    let mut steps = Vec::new();
    while let (Some(from), Some(to)) = (source, target) {
        let size = from.size().min(to.size()).min(STEP);
        steps.add((from.take(size).alone(), to.take(size).alone()))?;
        source = Some(from.skip(size)).filter(|rest| !rest.is_empty()).or_else(|| sources.next());
        target = Some(to.skip(size)).filter(|rest| !rest.is_empty()).or_else(|| targets.next());
    }
    Ok(steps)
}

fn step(from: Section<'_>, to: Section<'_>, is_backward: bool) -> Result<()> {
    // Both paths are held to the end, for either may be a permit.
    let (source, target) = (from.path(PROT_READ), to.path(PROT_WRITE));
    match (source.is_direct(), target.is_direct()) {
        (true, true) => {
            // SAFETY: both parts lie in mappings that can't fault meanwhile.
            unsafe { untorn::copy_within(from.host(), to.host(), from.len()) };
            to.mark_dirty();
            Ok(())
        }
        (true, false) if !to.may_block() => {
            // SAFETY: the part lies in a mapping that can't fault meanwhile.
            to.write(Input::Bytes(unsafe { Bytes::new(from.host(), from.len()) }), false)
        }
        (false, true) if !from.may_block() => {
            // SAFETY: the part lies in a mapping that can't fault meanwhile, and may be written.
            let read = from.read(&unsafe { Output::new(to.host(), to.len()) });
            to.mark_dirty();
            read
        }
        _ => {
            // Whoever closes the gate of one side would wait, in vain, for a disk or a fault handler of the other.
            drop((source, target));
            through_buffer(from, to, is_backward)
        }
    }
}

fn through_buffer(from: Section<'_>, to: Section<'_>, is_backward: bool) -> Result<()> {
    let mut buffer = room::zeroed(CHUNK.min(from.len()))?;
    let mut chunks = room::collected(from.chunks(u64_of(CHUNK)).zip(to.chunks(u64_of(CHUNK))))?;
    if is_backward {
        chunks.reverse();
    }
    let mut progress = Progress::new("copy", from.size(), &Uninterrupted);
    for (from, to) in chunks {
        let (chunk, _) = buffer.split_at_mut(from.len());
        let copied = from.alone().read(&Output::from(&mut *chunk));
        // Bytes read before a fault are written, unless later ones were written first.
        let there =
            copied.as_ref().map_or_else(|error| if is_backward { 0 } else { error.completed() }, |()| from.size());
        let (chunk, _) = chunk.split_at(usize_of(there));
        let written = to.alone().take(there).write(Input::Bytes(Bytes::from(chunk)), false);
        let copied = written.and(copied.map_err(|error| error.completing(there)));
        copied.map_err(|error| error.after(progress.done()))?;
        progress.advance(from.size())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::section::tests::region;
    use crate::model::range::Range;

    #[test]
    fn each_step_lies_in_one_section_on_both_sides() {
        let region = region(0);
        let cut = |sizes: &[u64]| {
            let mut left = Section::whole(&region);
            let part = |size: &u64| {
                let part = left.take(*size);
                left = left.skip(*size);
                part
            };
            sizes.iter().map(part).collect::<Vec<_>>()
        };
        let (from, to) = (cut(&[3, 1, 6, 2]), cut(&[5, 5, 2]));
        let ranges: Vec<_> = steps(&from, &to).unwrap().iter().map(|(from, to)| (from.range(), to.range())).collect();
        let expected: Vec<_> = [(0, 3), (3, 4), (4, 5), (5, 10), (10, 12)]
            .map(|(base, end)| (Range::between(base, end), Range::between(base, end)))
            .into();
        assert_eq!(ranges, expected);
    }
}
