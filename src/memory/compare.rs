//! Comparing guest memory with given bytes.

use std::ops::ControlFlow;

use super::buffer::Bytes;
use super::scan::{self, CHUNK, Chunk};
use super::section::Section;
use crate::model::error::Result;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::room::Room;

const STAGE: &str = "compare";

/// The first address at which the guest's bytes differ from `data`, which has as many.
pub fn first_difference(
    sections: &[Section<'_>],
    data: Bytes<'_>,
    threads: Option<usize>,
    interrupt: &dyn Interrupt,
) -> Result<Option<u64>> {
    let given = scan::together(sections, (STAGE, scan::PAGE), threads, interrupt, |part, interrupt| {
        Ok(match difference(part, data, interrupt)? {
            None => ControlFlow::Continue(None),
            found => ControlFlow::Break(found),
        })
    })?;
    Ok(given.into_iter().flatten().next())
}

fn difference(sections: &[Section<'_>], data: Bytes<'_>, interrupt: &dyn Interrupt) -> Result<Option<u64>> {
    // Others may write to the data meanwhile, so that it is compared as a copy too.
    let mut expected = Vec::new();
    scan::walk(sections, STAGE, interrupt, |part, chunk| {
        let data = data.slice(usize_of(part.buffer().base()), part.len())?;
        let difference = match chunk {
            Chunk::Data(bytes) => {
                expected.fit(bytes.len())?;
                data.copy_to(0, &mut expected)?;
                mismatch(bytes, &expected)
            }
            Chunk::Hole => first_nonzero(data, &mut expected)?,
        };
        Ok(match difference {
            Some(index) => ControlFlow::Break(part.skip(u64_of(index)).address()),
            None => ControlFlow::Continue(()),
        })
    })
}

fn mismatch(one: &[u8], other: &[u8]) -> Option<usize> {
    // `==` is memcmp: only a chunk that differs is looked at byte by byte.
    if one == other { None } else { one.iter().zip(other).position(|(one, other)| one != other) }
}

fn first_nonzero(data: Bytes<'_>, buffer: &mut Vec<u8>) -> Result<Option<usize>> {
    for at in (0..data.size()).step_by(CHUNK) {
        buffer.fit(CHUNK.min(data.size().abs_diff(at)))?;
        data.copy_to(at, buffer)?;
        if let Some(index) = buffer.iter().position(|byte| *byte != 0) {
            return Ok(at.checked_add(index));
        }
    }
    Ok(None)
}
