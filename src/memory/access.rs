//! Accesses to guest physical ranges: planned whole, refused before anything is touched, or done.

use std::sync::Arc;

use super::buffer::{Input, Output};
use super::mapped_regions::MappedRegions;
use super::protection::Need;
use super::region::MappedRegion;
use super::section::Section;
use crate::model::error::{Error, Result};
use crate::model::format::{self, hex};
use crate::model::ids::RegionId;
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionMap;
use crate::model::room::Room;

/// The parts of a range that a verb takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All of it: a hole, a device region and a protection are refused.
    Whole,
    /// All of it, inside one mapping: so is a joint.
    Single,
    /// All of it, in that very region: one that took its place is refused.
    Of(RegionId),
    /// The parts that have memory: a protection is refused, the rest left out.
    Mapped,
    /// The parts that allow what the verb needs: the rest is left out.
    Allowed,
    /// Of [`Self::Allowed`] the first bytes that touch each other, at most so many.
    Run(u64),
}

/// The size from which on a copy takes long.
pub const LONG_COPY: u64 = 4 << 20;

/// A way to use memory.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    /// The name, for messages and leases.
    pub name: &'static str,
    /// The protection that it needs.
    pub need: Need,
    /// The parts of a range that it takes.
    pub shape: Shape,
    /// The size from which on it takes longer than giving the interpreter's lock away and getting it back.
    pub long_from: u64,
}

impl Verb {
    /// A verb that takes all of a range.
    pub const fn new(name: &'static str, need: Need) -> Self {
        Self { name, need, shape: Shape::Whole, long_from: LONG_COPY }
    }

    /// The verb with another shape.
    pub const fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// The verb as one that takes long from this size on.
    pub const fn long_from(self, size: u64) -> Self {
        Self { long_from: size, ..self }
    }

    /// The verb as one that takes long whatever the size, because it may wait or runs Python code.
    pub const fn slow(self) -> Self {
        self.long_from(0)
    }
}

/// A verb, and the ranges that it is about; they lie one after the other in the caller's buffer.
pub type Side<'a> = (Verb, &'a [Range]);

/// A verb on a guest physical range of one snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The map, to explain refusals.
    pub map: &'a RegionMap,
    /// The memory.
    pub memory: &'a MappedRegions,
    /// The way to use it.
    pub verb: Verb,
    /// The addresses.
    pub range: Range,
}

/// Finds the sections of each side, or the reason at the first bad address.
pub fn plan<'a, const N: usize>(
    map: &'a RegionMap,
    memory: &'a MappedRegions,
    sides: [Side<'_>; N],
) -> Result<[Vec<Section<'a>>; N]> {
    let mut plans = [const { Vec::new() }; N];
    for (plan, (verb, ranges)) in plans.iter_mut().zip(sides) {
        let mut free = Range::between(0, u64::MAX);
        for range in ranges {
            let buffer = free.take(range.size());
            if buffer.size() < range.size() {
                let message = format!("{}: the ranges have more than 2^64 bytes together", verb.name);
                return Err(Invalid::argument(message).into());
            }
            free = free.skip(range.size());
            Access { map, memory, verb, range: *range }.find(buffer, plan)?;
        }
    }
    Ok(plans)
}

impl<'a> Access<'a> {
    /// The sections that the verb takes of the range, or the reason at its first bad address.
    pub fn sections(&self) -> Result<Vec<Section<'a>>> {
        let mut sections = Vec::new();
        self.find(Range::between(0, self.range.size()), &mut sections)?;
        Ok(sections)
    }

    /// Adds the sections, for a buffer in which the range lies at `buffer`.
    fn find(&self, buffer: Range, found: &mut Vec<Section<'a>>) -> Result<()> {
        match self.verb.shape {
            Shape::Whole => self.whole(buffer, found)?,
            Shape::Single => {
                let first = found.len();
                self.whole(buffer, found)?;
                match found.get(first..) {
                    Some([_]) => {}
                    Some([before, behind, ..]) => return Err(self.not_contiguous(before, behind)),
                    _ => return Err(self.unmapped(self.range.base())),
                }
            }
            Shape::Of(id) => {
                let first = found.len();
                self.whole(buffer, found)?;
                let other = found.iter().skip(first).find(|section| section.region().id() != id);
                other.map_or(Ok(()), |other| Err(self.replaced(other.region())))?;
            }
            Shape::Mapped => {
                for region in self.memory.overlapping(self.range) {
                    self.check_allowed(region)?;
                    found.add_all(Section::new(region, self.range, buffer).there())?;
                }
            }
            Shape::Allowed => found.add_all(self.allowed(buffer))?,
            Shape::Run(most) => self.run(buffer, most, found),
        }
        Ok(())
    }

    fn whole(&self, buffer: Range, found: &mut Vec<Section<'a>>) -> Result<()> {
        let mut left = self.range;
        while !left.is_empty() {
            let region = self.memory.find(left.base()).ok_or_else(|| self.unmapped(left.base()))?;
            self.check(region)?;
            found.add(Section::new(region, self.range, buffer))?;
            left = Range::between(region.range().end(), left.end());
        }
        Ok(())
    }

    fn run(&self, buffer: Range, most: u64, found: &mut Vec<Section<'a>>) {
        let mut left: Option<Range> = None;
        for section in self.allowed(buffer) {
            let left = left.get_or_insert_with(|| Range::between(section.address(), u64::MAX).take(most));
            if left.is_empty() || left.base() != section.address() {
                break;
            }
            found.push(section.take(left.size()));
            *left = left.skip(section.size());
        }
    }

    fn allowed(&self, buffer: Range) -> impl Iterator<Item = Section<'a>> + use<'a> {
        let (bits, range) = (self.verb.need.bits(), self.range);
        let regions = self.memory.overlapping(range).filter(move |region| region.desc().prot_flags & bits == bits);
        regions.flat_map(move |region| Section::new(region, range, buffer).there())
    }

    /// Refuses a region that does not allow what the verb needs in its part of the range, or does not have all of it.
    fn check(&self, region: &MappedRegion) -> Result<()> {
        self.check_allowed(region)?;
        let lacking = region.first_lacking(region.range().intersection(&self.range));
        lacking.map_or(Ok(()), |lacking| Err(self.denied(lacking, region)))
    }

    fn check_allowed(&self, region: &MappedRegion) -> Result<()> {
        let part = region.range().intersection(&self.range);
        if self.verb.need == Need::Address && region.storage().reader().is_some() {
            return Err(self.without_address(region));
        }
        match region.first_denied(part, self.verb.need.bits())? {
            Some(denied) => Err(self.denied(denied, region)),
            None => Ok(()),
        }
    }

    /// The number of bytes that can be accessed before the first that can't.
    pub fn reach(&self) -> u64 {
        let mut run = Vec::new();
        self.run(self.range, u64::MAX, &mut run);
        let begins = run.first().is_some_and(|first| first.address() == self.range.base());
        if begins { run.iter().map(Section::size).sum() } else { 0 }
    }

    fn asked(&self) -> String {
        format!("{} of {} bytes at {}", self.verb.name, hex(self.range.size()), hex(self.range.base()))
    }

    /// The refusal of an address that has no memory.
    pub fn unmapped(&self, address: u64) -> Error {
        let device = self.map.find(address).filter(|region| !region.has_memory());
        let at = match self.range.offset_of(address) {
            Some(0) | None => String::new(),
            Some(offset) => format!(" ({} bytes in)", hex(offset)),
        };
        match device {
            Some(region) => Error::Unmapped {
                message: self.told_elsewhere(region, address).unwrap_or_else(|| format!(
                    "{}: {}{at} belongs to the device region {region}, which has no memory: space.dispatch(addr, size) asks its handler",
                    self.asked(),
                    hex(address)
                )),
                address: Some(address),
                size: Some(self.range.size()),
                region: Some(Arc::clone(region)),
            },
            None => self
                .sized(self.map.unmapped(address, &format!("{}: no region holds {}{at}", self.asked(), hex(address)))),
        }
    }

    /// The message about a region whose bytes another process alone has.
    fn told_elsewhere(&self, region: &SharedRegion, address: u64) -> Option<String> {
        let (asked, address) = (self.asked(), hex(address));
        let pid = region.source.elsewhere?;
        Some(format!("{asked}: {address} belongs to {region}, whose bytes are private to the leader, process {pid}"))
    }

    /// The refusal of a region that has taken the place of the one that is meant.
    fn replaced(&self, other: &MappedRegion) -> Error {
        let desc = other.desc();
        Error::Unmapped {
            message: format!("{}: the region was removed; {desc} is there now, and another region", self.asked()),
            address: Some(self.range.base()),
            size: Some(self.range.size()),
            region: Some(Arc::clone(desc)),
        }
    }

    fn sized(&self, error: Error) -> Error {
        match error {
            Error::Unmapped { message, address, region, .. } => {
                Error::Unmapped { message, address, size: Some(self.range.size()), region }
            }
            other => other,
        }
    }

    fn denied(&self, address: u64, region: &MappedRegion) -> Error {
        let desc = region.desc();
        let why = match region.window_prot_flags(address) {
            Some(None) => "where no file is mapped".into(),
            Some(Some(flags)) => format!("where a file is mapped {}", format::protection(flags)),
            None if region.first_lacking(Range::at(address, 1)).is_some() => "which is not in the dump there".into(),
            None if matches!(self.verb.need, Need::Write | Need::ReadWrite) => {
                format!(
                    "which is {}; write(force=True) writes through a protection",
                    format::protection(desc.prot_flags)
                )
            }
            None => format!("which is {}", format::protection(desc.prot_flags)),
        };
        Error::AccessDenied {
            message: format!("{}: {} lies in {desc}, {why}", self.asked(), hex(address)),
            address,
            size: self.range.size(),
            region: Arc::clone(desc),
        }
    }

    /// The refusal of an address of bytes that have none.
    fn without_address(&self, region: &MappedRegion) -> Error {
        let desc = region.desc();
        Error::Unsupported {
            message: format!("{}: no host address has the bytes of {desc}{}", self.asked(), region.why_guarded()),
            feature: "an address of bytes of a dump",
            how: "load(..., copy=True)".into(),
            region: Some(Arc::clone(desc)),
        }
    }

    fn not_contiguous(&self, before: &Section<'_>, behind: &Section<'_>) -> Error {
        let (before, behind) = (before.region().desc(), behind.region().desc());
        Error::NotContiguous {
            message: format!(
                "{}: crosses the joint at {} between {before} and {behind}, which are mapped apart; take one of each, or read()",
                self.asked(),
                hex(behind.base()),
            ),
            address: behind.base(),
            size: self.range.size(),
            region: Arc::clone(before),
            conflict: Some(Arc::clone(behind)),
        }
    }
}

/// Copies sections out.
pub fn read(sections: &[Section<'_>], output: &Output<'_>, interrupt: &dyn Interrupt) -> Result<()> {
    in_steps(sections, interrupt, |part| part.read(output))
}

/// Copies sections in.
pub fn write(sections: &[Section<'_>], input: Input<'_>, force: bool, interrupt: &dyn Interrupt) -> Result<()> {
    in_steps(sections, interrupt, |part| part.write(input, force))
}

/// Calls `copy` for the sections in turn, in parts between which the caller is asked whether to go on.
pub(super) fn in_steps(
    sections: &[Section<'_>],
    interrupt: &dyn Interrupt,
    copy: impl Fn(&Section<'_>) -> Result<()>,
) -> Result<()> {
    for (index, part) in sections.iter().flat_map(|section| section.chunks(STEP)).enumerate() {
        // Only between two parts: a look at the clock takes longer than most copies.
        if index > 0 {
            interrupt.check()?;
        }
        copy(&part).map_err(|error| error.of(end(sections)))?;
    }
    Ok(())
}

/// The end of the last section in the buffer.
fn end(sections: &[Section<'_>]) -> u64 {
    sections.last().map_or(0, |last| last.buffer().end())
}
