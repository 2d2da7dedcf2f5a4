//! Accesses to guest physical ranges: planned whole, refused before anything is touched, or done.

use std::sync::Arc;

use super::buffer::{Input, Output};
use super::lease::Lease;
use super::mapped_regions::{MappedRegions, Need};
use super::region::MappedRegion;
use super::section::Section;
use crate::model::error::{Error, Result};
use crate::model::format::hex;
use crate::model::int::u64_of;
use crate::model::int::usize_of;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::model::region_map::RegionMap;

/// A guest physical range, what is done with it, and where.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The map, to explain refusals.
    pub map: &'a RegionMap,
    /// The memory.
    pub memory: &'a MappedRegions,
    /// `"read"`, `"write"`, `"view"`: for messages and leases.
    pub verb: &'static str,
    /// What the verb needs of the memory.
    pub need: Need,
    /// The addresses.
    pub range: Range,
}

impl Access<'_> {
    /// The sections of regions that the range consists of, or the reason at its first bad address.
    pub fn sections(&self) -> Result<Vec<Section>> {
        let mut sections = Vec::new();
        let mut address = self.range.base();
        while address < self.range.end() {
            let section = self.section_at(address)?;
            address = section.region.desc.end();
            sections.push(section);
        }
        Ok(sections)
    }

    /// Like [`sections`](Self::sections), but what has no memory is left out.
    pub fn sections_with_holes(&self) -> Result<Vec<Section>> {
        self.memory
            .overlapping(self.range)
            .map(|region| self.section_at(region.desc.base().max(self.range.base())))
            .collect()
    }

    fn section_at(&self, address: u64) -> Result<Section> {
        let region = self.memory.find(address).ok_or_else(|| self.unmapped(address))?;
        let end = region.desc.end().min(self.range.end());
        match region.first_denied(address, end, self.need.bits()) {
            Some(denied) => Err(self.denied(denied, region)),
            None => Ok(self.section(region, address, end)),
        }
    }

    /// The one section of a range that must not cross from one mapping into another.
    pub fn single_section(&self) -> Result<Section> {
        let mut sections = self.sections()?;
        match (sections.pop(), sections.pop()) {
            (Some(section), None) => Ok(section),
            (Some(section), Some(before)) => Err(self.not_contiguous(&before, &section)),
            (None, _) => Err(self.unmapped(self.range.base())),
        }
    }

    /// Pieces with leases on their regions, so that they can be used after the snapshot is let go.
    ///
    /// `Err` is a region that a change is deciding about, or that is gone: wait for what it decides, then ask again.
    pub fn lease(&self, sections: Vec<Section>) -> Result<LeasedSections, Arc<MappedRegion>> {
        let lease = |section: &Section| {
            let region = &section.region;
            // Who asks for no protection asks for the address, and may write whenever he likes.
            let is_writable = self.need == Need::Any && region.desc.prot_flags & PROT_WRITE != 0;
            let lease = region.lease(self.verb, section.address(), u64_of(section.size), is_writable);
            lease.map_err(|_| Arc::clone(region))
        };
        let leases = sections.iter().map(lease).collect::<Result<_, _>>()?;
        Ok(LeasedSections { sections, leases })
    }

    /// Pieces of regions that allow what is needed and touch each other: the first that begin in the range, up to `most` bytes.
    #[must_use]
    pub fn run(&self, most: usize) -> Vec<Section> {
        let allows = |region: &&Arc<MappedRegion>| region.desc.prot_flags & self.need.bits() == self.need.bits();
        let mut run: Vec<Section> = Vec::new();
        let (mut reached, mut left) = (None, u64_of(most));
        for region in self.memory.overlapping(self.range).filter(allows) {
            let start = region.desc.base().max(self.range.base());
            let end = region.desc.end().min(self.range.end()).min(start.saturating_add(left));
            if reached.is_some_and(|reached| reached != start) || end <= start {
                break;
            }
            run.push(self.section(region, start, end));
            left = left.saturating_sub(end.saturating_sub(start));
            reached = Some(end);
        }
        run
    }

    /// How many bytes can be accessed before the first that can't.
    #[must_use]
    pub fn reach(&self) -> u64 {
        let run = self.run(usize::MAX);
        let begins = run.first().is_some_and(|first| first.at == 0);
        if begins { end(&run) } else { 0 }
    }

    /// All sections of regions that may be read; what has no memory and what may not be read is left out.
    #[must_use]
    pub fn readable(&self) -> Vec<Section> {
        let readable = self.memory.overlapping(self.range).filter(|region| region.desc.prot_flags & PROT_READ != 0);
        readable.map(|region| self.section_of(region)).collect()
    }

    /// The bytes of [`readable`](Self::readable).
    #[must_use]
    pub fn readable_size(&self) -> u64 {
        self.readable().iter().fold(0, |sum: u64, section| sum.saturating_add(u64_of(section.size)))
    }

    /// The part of a region that lies in the range.
    fn section_of(&self, region: &Arc<MappedRegion>) -> Section {
        let (start, end) = (region.desc.base().max(self.range.base()), region.desc.end().min(self.range.end()));
        self.section(region, start, end)
    }

    fn section(&self, region: &Arc<MappedRegion>, start: u64, end: u64) -> Section {
        Section {
            region: Arc::clone(region),
            offset: start.saturating_sub(region.desc.base()),
            size: usize_of(end.saturating_sub(start)),
            at: usize_of(start.saturating_sub(self.range.base())),
        }
    }

    fn asked(&self) -> String {
        format!("{} of {} bytes at {}", self.verb, hex(self.range.size()), hex(self.range.base()))
    }

    /// The refusal of an address that has no memory.
    #[must_use]
    pub fn unmapped(&self, address: u64) -> Error {
        let device = self.map.find(address).filter(|region| !region.has_memory());
        let at = if address == self.range.base() {
            String::new()
        } else {
            format!(" ({} bytes in)", hex(address.saturating_sub(self.range.base())))
        };
        match device {
            Some(region) => Error::Unmapped {
                message: format!(
                    "{}: {}{at} belongs to the device region {region}, which has no memory",
                    self.asked(),
                    hex(address)
                ),
                address: Some(address),
                size: Some(self.range.size()),
                region: Some(Arc::clone(region)),
            },
            None => self
                .sized(self.map.unmapped(address, &format!("{}: no region holds {}{at}", self.asked(), hex(address)))),
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
        let protection = crate::model::format::protection(region.desc.prot_flags);
        let hint = if self.need == Need::Write { "; force=True writes through a protection" } else { "" };
        Error::AccessDenied {
            message: format!("{}: {} lies in {}, which is {protection}{hint}", self.asked(), hex(address), region.desc),
            address,
            size: self.range.size(),
            region: Arc::clone(&region.desc),
        }
    }

    fn not_contiguous(&self, before: &Section, behind: &Section) -> Error {
        Error::NotContiguous {
            message: format!(
                "{}: crosses the joint at {} between {} and {}, which are mapped apart; take one of each, or read()",
                self.asked(),
                hex(behind.region.desc.base()),
                before.region.desc,
                behind.region.desc
            ),
            address: behind.region.desc.base(),
            size: self.range.size(),
            region: Arc::clone(&before.region.desc),
            conflict: Some(Arc::clone(&behind.region.desc)),
        }
    }
}

/// Pieces of regions that leases keep in place.
#[derive(Debug, Default)]
pub struct LeasedSections {
    /// The sections.
    pub sections: Vec<Section>,
    leases: Vec<Lease>,
}

impl LeasedSections {
    /// Adds sections whose places in the buffer count from `at`.
    pub fn add(&mut self, other: Self, at: usize) {
        self.sections.extend(other.sections.iter().map(|section| section.at(section.at.saturating_add(at))));
        self.leases.extend(other.leases);
    }

    /// Whether dropping it unmaps memory, which may take long.
    #[must_use]
    pub fn is_last_user(&self) -> bool {
        self.sections.iter().any(|section| Arc::strong_count(&section.region) == 1)
    }
}

/// Copies sections out.
pub fn read(sections: &[Section], output: &Output<'_>) -> Result<()> {
    sections.iter().try_for_each(|section| section.read(output)).map_err(|error| error.of(end(sections)))
}

/// Copies sections in.
pub fn write(sections: &[Section], input: Input<'_>, force: bool) -> Result<()> {
    sections.iter().try_for_each(|section| section.write(input, force)).map_err(|error| error.of(end(sections)))
}

/// Where in the buffer the last section ends.
fn end(sections: &[Section]) -> u64 {
    sections.last().map_or(0, |last| u64_of(last.at.saturating_add(last.size)))
}
