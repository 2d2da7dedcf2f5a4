//! Guest pages that hold nothing but zeroes.

use std::ops::ControlFlow;

use super::scan::{self, Chunk, PAGE};
use super::section::Section;
use crate::model::bytes::is_zero;
use crate::model::error::Result;
use crate::model::int::usize_of;
use crate::model::interrupt::Interrupt;
use crate::model::range::{Range, joined};
use crate::model::room::{self, Room};

const STAGE: &str = "find_zero_pages";

/// The guest pages of 4 KiB, whole in one region, that hold nothing but zeroes; touching ones are joined.
pub fn zero_pages(sections: &[Section<'_>], threads: Option<usize>, interrupt: &dyn Interrupt) -> Result<Vec<Range>> {
    // In a buffer that is all of the address space, so that it is cut between guest pages.
    let whole = room::collected(sections.iter().map(whole_pages).map(|pages| pages.placed(pages.address())))?;
    let found = scan::together(&whole, (STAGE, PAGE), threads, interrupt, |part, interrupt| {
        Ok(ControlFlow::Continue(pages_of_zeroes(part, interrupt)?))
    })?;
    Ok(joined(room::collected(found.into_iter().flatten())?))
}

fn pages_of_zeroes(whole: &[Section<'_>], interrupt: &dyn Interrupt) -> Result<Vec<Range>> {
    let mut found = Vec::new();
    scan::walk(whole, STAGE, interrupt, |part, chunk| {
        match chunk {
            Chunk::Hole => found.add(part.range())?,
            Chunk::Data(bytes) => {
                let pages = bytes.chunks(usize_of(PAGE)).zip(part.chunks(PAGE));
                found.add_all(pages.filter(|(bytes, _)| is_zero(bytes)).map(|(_, page)| page.range()))?;
            }
        }
        Ok(ControlFlow::<()>::Continue(()))
    })?;
    Ok(found)
}

/// The part of a section that consists of whole guest pages.
fn whole_pages<'a>(section: &Section<'a>) -> Section<'a> {
    let (start, end) = (section.address(), section.range().end() & !(PAGE - 1));
    let first = start.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    section.skip(first.abs_diff(start)).take(Range::between(first, end).size())
}
