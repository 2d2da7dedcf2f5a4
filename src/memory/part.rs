//! Parts of a guest's memory that are to be kept.

use std::sync::Arc;

use super::kept::KeptMemory;
use super::region::MappedRegion;
use super::section::Section;
use crate::model::cut;
use crate::model::error::{Error, Result};
use crate::model::format::hex;
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::model::region::Region;

/// Keeps the bytes of sections that touch each other, or says where they don't; with them the description of a region that shows them.
pub fn keep(sections: &[Section<'_>]) -> Result<(KeptMemory, Region)> {
    let Some((first, rest)) = sections.split_first() else {
        return Err(Invalid::number("part needs a size above 0").into());
    };
    let (region, mut part) = (first.region(), first.part());
    for section in rest {
        if !Arc::ptr_eq(section.region().shared_storage(), region.shared_storage())
            || section.part().base() != part.end()
        {
            return Err(apart(section, region));
        }
        part = Range::between(part.base(), section.part().end());
    }
    let desc = cut::described(region.desc(), first.range(), part.size())?;
    region.storage().check_pages(region.desc(), part)?;
    Ok((KeptMemory::of(region.shared_storage(), part), desc))
}

/// The refusal of a part that would go on in another memory.
fn apart(section: &Section<'_>, before: &MappedRegion) -> Error {
    let address = section.range().base();
    let message =
        format!("part: the bytes from {} on are those of another memory than {}", hex(address), before.desc());
    Error::NotContiguous {
        message,
        address,
        size: section.size(),
        region: Arc::clone(before.desc()),
        conflict: Some(Arc::clone(section.region().desc())),
    }
}
