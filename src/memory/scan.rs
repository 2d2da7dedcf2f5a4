//! Looking at many bytes, without allocating those that no one has written.

use std::ops::ControlFlow;

use super::buffer::{Bytes, Output};
use super::mapping::Extent;
use super::section::Section;
use crate::model::error::Result;
use crate::model::int::u64_of;
use crate::model::int::usize_of;
use crate::model::interrupt::Interrupt;
use crate::model::range::{Range, joined};

/// Bytes that are copied out at a time: few enough to stay in a cache.
pub const CHUNK: usize = 128 << 10;
/// Bytes of a hole that are passed at a time, between two looks at the caller's [`Interrupt`].
const HOLE_STEP: u64 = 64 << 20;
/// Bytes of a guest page.
const PAGE: u64 = 4096;

/// Some bytes of the guest.
#[derive(Clone, Copy, Debug)]
pub enum Chunk<'a> {
    /// A copy of them.
    Data(&'a [u8]),
    /// That many zeroes, which a shared file has no pages for.
    Hole(u64),
}

/// Calls `look(address, chunk)` for all bytes of the sections in turn, until it breaks.
pub fn walk<T>(
    sections: &[Section],
    stage: &'static str,
    interrupt: &dyn Interrupt,
    mut look: impl FnMut(u64, Chunk<'_>) -> Result<ControlFlow<T>>,
) -> Result<Option<T>> {
    let total = sections.iter().fold(0u64, |sum, section| sum.saturating_add(u64_of(section.size)));
    let mut buffer = vec![0; CHUNK.min(usize_of(total))];
    let mut done = 0u64;
    for section in sections {
        let mut skip = 0u64;
        let mut extent = Extent::Data(0);
        while skip < u64_of(section.size) {
            if matches!(extent, Extent::Data(0) | Extent::Hole(0)) {
                extent = whole_page_extent(section, skip);
            }
            let address = section.address().saturating_add(skip);
            let (size, flow) = match &mut extent {
                Extent::Data(left) => {
                    let data = chunk(section, skip, *left, &mut buffer).map_err(|error| error.after(done).of(total))?;
                    let size = u64_of(data.len());
                    *left = left.saturating_sub(size);
                    (size, look(address, Chunk::Data(data))?)
                }
                Extent::Hole(left) => {
                    let size = HOLE_STEP.min(*left);
                    *left = left.saturating_sub(size);
                    (size, look(address, Chunk::Hole(size))?)
                }
            };
            if let ControlFlow::Break(result) = flow {
                return Ok(Some(result));
            }
            skip = skip.saturating_add(size);
            done = done.saturating_add(size);
            interrupt.progress(stage, done, total)?;
        }
    }
    Ok(None)
}

/// What lies at `skip`, up to the end of a guest page; a file's holes, when the region begins in the midst of one of its pages, end
/// in the midst of guest pages, which are data then.
fn whole_page_extent(section: &Section, skip: u64) -> Extent {
    let address = section.address().saturating_add(skip);
    let data_to = |end: u64| {
        let end = end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        Extent::Data(end.saturating_sub(address).min(u64_of(section.size).saturating_sub(skip)))
    };
    match section.extent_at(skip) {
        Extent::Data(size) => data_to(address.saturating_add(size)),
        Extent::Hole(size) => match address.saturating_add(size) & !(PAGE - 1) {
            end if end > address => Extent::Hole(end.saturating_sub(address)),
            _ => data_to(address.saturating_add(1)),
        },
    }
}

/// Some of the `left` bytes of data from `skip` on, as many as the buffer holds.
fn chunk<'a>(section: &Section, skip: u64, left: u64, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    let (data, _) = buffer.split_at_mut(usize_of(left).min(buffer.len()));
    section.part(skip, data.len()).read_data(&Output::from(&mut *data))?;
    Ok(data)
}

/// The first address at which the guest's bytes differ from `data`, which has as many.
pub fn first_difference(sections: &[Section], data: Bytes<'_>, interrupt: &dyn Interrupt) -> Result<Option<u64>> {
    let mut expected = Vec::new();
    let mut at = 0usize;
    walk(sections, "compare", interrupt, |address, chunk| {
        let size = match chunk {
            Chunk::Data(bytes) => bytes.len(),
            Chunk::Hole(size) => usize_of(size),
        };
        let difference = match chunk {
            Chunk::Data(bytes) => {
                expected.resize(size, 0);
                data.copy_to(at, &mut expected)?;
                mismatch(bytes, &expected)
            }
            Chunk::Hole(_) => first_nonzero(data, at, size, &mut expected)?,
        };
        at = at.saturating_add(size);
        Ok(match difference {
            Some(index) => ControlFlow::Break(address.saturating_add(u64_of(index))),
            None => ControlFlow::Continue(()),
        })
    })
}

fn mismatch(one: &[u8], other: &[u8]) -> Option<usize> {
    if one == other { None } else { one.iter().zip(other).position(|(one, other)| one != other) }
}

fn first_nonzero(data: Bytes<'_>, at: usize, size: usize, buffer: &mut Vec<u8>) -> Result<Option<usize>> {
    let mut done = 0usize;
    while done < size {
        buffer.resize(CHUNK.min(size.saturating_sub(done)), 0);
        data.copy_to(at.saturating_add(done), buffer)?;
        if let Some(index) = buffer.iter().position(|byte| *byte != 0) {
            return Ok(Some(done.saturating_add(index)));
        }
        done = done.saturating_add(buffer.len());
    }
    Ok(None)
}

/// Passes on `size` zeroes, in parts.
pub fn zeroes(mut size: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
    while size > 0 {
        let part = ZEROES.get(..usize_of(size)).unwrap_or(&ZEROES);
        take(part)?;
        size = size.saturating_sub(u64_of(part.len()));
    }
    Ok(())
}

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
pub fn hash(sections: &[Section], digest: &mut dyn Digest, interrupt: &dyn Interrupt) -> Result<()> {
    let feed = |_, chunk: Chunk<'_>| {
        match chunk {
            Chunk::Data(bytes) => digest.update(bytes)?,
            Chunk::Hole(size) => zeroes(size, |part| digest.update(part))?,
        }
        Ok(ControlFlow::<()>::Continue(()))
    };
    walk(sections, "hash", interrupt, feed).map(drop)
}

/// The guest pages of 4 KiB, whole in one region, that hold nothing but zeroes; touching ones are joined.
pub fn zero_pages(sections: &[Section], interrupt: &dyn Interrupt) -> Result<Vec<Range>> {
    let whole: Vec<Section> = sections.iter().filter_map(whole_pages).collect();
    let mut found = Vec::new();
    walk(&whole, "find_zero_pages", interrupt, |address, chunk| {
        match chunk {
            Chunk::Hole(size) => found.extend(pages(address, size)),
            Chunk::Data(bytes) => {
                let zero = bytes.chunks(usize_of(PAGE)).zip((address..).step_by(usize_of(PAGE)));
                found.extend(zero.filter(|(page, _)| is_zero(page)).filter_map(|(_, at)| pages(at, PAGE)));
            }
        }
        Ok(ControlFlow::<()>::Continue(()))
    })?;
    Ok(joined(found))
}

fn pages(address: u64, size: u64) -> Option<Range> {
    Range::new(address, size).ok()
}

/// The part of a section that consists of whole guest pages.
fn whole_pages(section: &Section) -> Option<Section> {
    let skip = section.address().checked_next_multiple_of(PAGE)?.checked_sub(section.address())?;
    let size = u64_of(section.size).checked_sub(skip)? & !(PAGE - 1);
    (size > 0).then(|| section.part(skip, usize_of(size)))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |sum, byte| sum | byte) == 0
}
