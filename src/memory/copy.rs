//! Copies from guest memory to guest memory.

use std::sync::Arc;

use super::buffer::{Bytes, Input, Output};
use super::scan::CHUNK;
use super::section::Section;
use crate::model::error::Result;
use crate::model::int::u64_of;
use crate::model::int::usize_of;
use crate::model::interrupt::Interrupt;

/// Bytes that are copied between two looks at the caller's [`Interrupt`].
const STEP: usize = 64 << 20;

/// Copies as if through a buffer between the two ranges, which have the same size and may overlap.
pub fn copy(from: &[Section], to: &[Section], interrupt: &dyn Interrupt) -> Result<()> {
    let total = from.iter().fold(0u64, |sum, section| sum.saturating_add(u64_of(section.size)));
    let is_backward = from.first().zip(to.first()).is_some_and(|(from, to)| {
        let distance = to.address().saturating_sub(from.address());
        0 < distance && distance < total
    });
    let mut steps: Vec<(Section, Section)> = steps(from, to).collect();
    if is_backward {
        steps.reverse();
    }
    let mut done = 0usize;
    for (from, to) in steps {
        step(&from, &to, is_backward).map_err(|error| error.after(u64_of(done)).of(total))?;
        done = done.saturating_add(from.size);
        interrupt.progress("copy", u64_of(done), total)?;
    }
    Ok(())
}

/// Pairs of parts, each inside one region on both sides.
fn steps(from: &[Section], to: &[Section]) -> impl Iterator<Item = (Section, Section)> {
    let mut at = 0usize;
    std::iter::from_fn(move || {
        let (source, target) = (part_at(from, at)?, part_at(to, at)?);
        let length = source.size.min(target.size).min(STEP);
        at = at.saturating_add(length);
        Some((source.part(0, length), target.part(0, length)))
    })
}

/// The rest of the section that has the byte `at` of the whole range.
fn part_at(sections: &[Section], at: usize) -> Option<Section> {
    let index = sections.partition_point(|section| section.at <= at).checked_sub(1)?;
    let section = sections.get(index)?;
    let skip = at.checked_sub(section.at)?;
    let size = section.size.checked_sub(skip).filter(|size| *size > 0)?;
    Some(section.part(u64_of(skip), size))
}

fn step(from: &Section, to: &Section, is_backward: bool) -> Result<()> {
    let (source, target) = (&from.region.mapping, &to.region.mapping);
    if Arc::ptr_eq(source, target) {
        let Some(_direct) = source.direct() else { return through_buffer(from, to, is_backward) };
        // SAFETY: both parts lie in a mapping that can't fault meanwhile.
        unsafe { std::ptr::copy(from.host(), to.host(), from.size) };
        to.mark_dirty(to.size);
        return Ok(());
    }
    if let Some(_direct) = source.direct() {
        // SAFETY: the part lies in a mapping that can't fault meanwhile.
        return to.write(Input::Bytes(unsafe { Bytes::new(from.host(), from.size) }), false);
    }
    let Some(_direct) = target.direct() else { return through_buffer(from, to, is_backward) };
    // SAFETY: the part lies in a mapping that can't fault meanwhile, and may be written.
    let read = from.read(&unsafe { Output::new(to.host(), to.size) });
    to.mark_dirty(to.size);
    read
}

fn through_buffer(from: &Section, to: &Section, is_backward: bool) -> Result<()> {
    let mut buffer = vec![0; CHUNK.min(from.size)];
    let mut done = 0usize;
    while done < from.size {
        let size = CHUNK.min(from.size.saturating_sub(done));
        let skip = if is_backward { from.size.saturating_sub(done).saturating_sub(size) } else { done };
        let (chunk, _) = buffer.split_at_mut(size);
        let copied = from.part(u64_of(skip), size).read(&Output::from(&mut *chunk));
        // What was read before a fault is written, unless what lies behind it was written first.
        let there =
            copied.as_ref().map_or_else(|error| if is_backward { 0 } else { usize_of(error.completed()) }, |()| size);
        let (chunk, _) = chunk.split_at(there);
        let written = to.part(u64_of(skip), there).write(Input::Bytes(Bytes::from(chunk)), false);
        let copied = written.and(copied.map_err(|error| error.completing(u64_of(there))));
        copied.map_err(|error| error.after(u64_of(done)))?;
        done = done.saturating_add(size);
    }
    Ok(())
}
