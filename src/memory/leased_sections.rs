//! Sections of regions that leases keep in place, for work that lets the snapshot go.

use super::access::Side;
use super::held_lease::Writes;
use super::lease::{Lease, WeakRegion};
use super::protection::Need;
use super::region::MappedRegion;
use super::section::Section;
use crate::model::error::Result;
use crate::model::range::Range;
use crate::model::region::PROT_WRITE;
use crate::model::room::Room;

/// Parts of regions, each with its place in the caller's buffer, that can be used for as long as this is held.
#[derive(Debug, Default)]
pub struct LeasedSections(Vec<(Lease, Range, Range)>);

impl LeasedSections {
    /// Takes a lease for each section of each side, under the snapshot that they were planned on.
    ///
    /// `Err` in the result is a region that a change is deciding about, or that is gone: let the snapshot go, wait for what the change decides, then
    /// plan again, for nothing known before the wait holds.
    pub fn lease_all<const N: usize>(
        sides: [Side<'_>; N],
        plans: &[Vec<Section<'_>>; N],
    ) -> Result<Result<[Self; N], WeakRegion>> {
        let mut all = [const { Self(Vec::new()) }; N];
        for ((leased, (verb, _)), plan) in all.iter_mut().zip(sides).zip(plans) {
            for section in plan {
                let (region, range) = (section.region(), section.range());
                // Those taken so far are let go with a refusal: kept, they would veto the change that is to be waited for.
                let Ok(lease) = Lease::take(region, verb.name, range, writes(verb.need, region), false) else {
                    return Ok(Err(WeakRegion::from(region)));
                };
                leased.0.add((lease, range, section.buffer()))?;
            }
        }
        Ok(Ok(all))
    }

    /// The sections.
    pub fn sections(&self) -> impl Iterator<Item = Section<'_>> {
        self.0.iter().map(|(lease, range, buffer)| Section::new(lease.region(), *range, *buffer))
    }

    /// Whether dropping it unmaps memory, which may take long.
    pub fn is_last_user(&self) -> bool {
        self.0.iter().any(|(lease, ..)| lease.is_last_user())
    }
}

fn writes(need: Need, region: &MappedRegion) -> Writes {
    let is_writable = region.desc().prot_flags & PROT_WRITE != 0;
    match need {
        // The holder of an address may write there unseen, if the region is writable at all.
        Need::Address if is_writable => Writes::Unseen,
        Need::Show if is_writable => Writes::Marked,
        // A forced write needs nothing.
        Need::Write | Need::ReadWrite | Need::Nothing => Writes::Marked,
        Need::Read | Need::Show | Need::Address => Writes::Never,
    }
}
