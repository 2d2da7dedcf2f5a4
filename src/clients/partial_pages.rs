//! Regions that begin or end inside a page, and clients that can only show whole pages.

use std::sync::Arc;

use crate::memory::region::MappedRegion;
use crate::model::error::{Error, Result};
use crate::model::format::hex;
use crate::model::int::u64_of;
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::sys::host::page_size;

/// The treatment of a region that has parts of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartialPages {
    /// It refuses the region.
    #[default]
    Refuse,
    /// It shows the whole pages inside, and leaves the rest out.
    Skip,
}

impl PartialPages {
    /// Parses a name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Invalid::named("partial_pages", text, [("refuse", Self::Refuse), ("skip", Self::Skip)])
    }

    /// The whole pages of a region; `None` when all of it is left out.
    pub(super) fn of(self, region: &MappedRegion, client: &str) -> Result<Option<MappedRegion>> {
        if region.storage().reader().is_some() {
            return Err(without_pages(region, client));
        }
        match region.whole_pages() {
            Some(whole) if self == Self::Skip || whole.shown_at() == region.range() => Ok(Some(whole)),
            None if self == Self::Skip => Ok(None),
            _ => Err(refused(region, client)),
        }
    }
}

/// The parts of a range that are not shown; what is shown is in ascending order.
pub fn left_out(range: Range, shown: &[Range]) -> Vec<Range> {
    let shown = shown.iter().filter(|shown| shown.overlaps(&range));
    let (mut left, mut at) = (Vec::new(), range.base());
    for shown in shown {
        left.push(Range::between(at, shown.base()));
        at = shown.end();
    }
    left.push(Range::between(at, range.end()));
    left.retain(|part| !part.is_empty());
    left
}

/// The refusal of bytes that are in no page.
fn without_pages(region: &MappedRegion, client: &str) -> Error {
    let desc = region.desc();
    Error::Unsupported {
        message: format!("{client} can't show {desc}{}", region.why_guarded()),
        feature: "pages of a dump that is not mapped",
        how: "load(..., copy=True)".into(),
        region: Some(Arc::clone(desc)),
    }
}

fn refused(region: &MappedRegion, client: &str) -> Error {
    let (desc, page) = (region.desc(), page_size());
    let why = match [("begins", desc.base()), ("ends", desc.end())].iter().find(|(_, at)| !at.is_multiple_of(page)) {
        Some((verb, at)) => format!("it {verb} at {}, inside a page", hex(*at)),
        None => format!(
            "its pages begin {} bytes into pages of the host",
            hex(u64_of(region.start().addr()) & page.wrapping_sub(1))
        ),
    };
    Error::Misaligned {
        message: format!(
            "{client} can't show {desc}, for it takes whole pages of {}: {why}; partial_pages=\"skip\" leaves such parts out",
            hex(page)
        ),
        address: Some(desc.base()),
        size: Some(desc.size()),
        region: Some(Arc::clone(desc)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shown_is_left_out() {
        let range = Range::between(0x1100, 0x5200);
        let left = |shown: &[Range]| left_out(range, shown).iter().map(|part| (part.base(), part.end())).collect();
        let none: Vec<(u64, u64)> = left(&[]);
        assert_eq!(none, [(0x1100, 0x5200)]);
        let ends: Vec<(u64, u64)> = left(&[Range::between(0, 0x1000), Range::between(0x2000, 0x5000)]);
        assert_eq!(ends, [(0x1100, 0x2000), (0x5000, 0x5200)]);
        let between: Vec<(u64, u64)> = left(&[Range::between(0x1100, 0x2000), Range::between(0x3000, 0x5200)]);
        assert_eq!(between, [(0x2000, 0x3000)]);
    }
}
