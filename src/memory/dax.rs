//! Files, or parts of them, mapped into a DAX window while the guest runs.

use std::fs::File;
use std::sync::Arc;

use super::dax_window::{DaxFailure, DaxMapping, DaxWindow};
use super::places::Veto;
use super::region::MappedRegion;
use super::source_error::failed;
use crate::model::error::{Error, Result};
use crate::model::format::{hex, protection, size as size_text};
use crate::model::invalid::Invalid;
use crate::model::range::Range;

/// The name of the lease that a change of a DAX window holds.
pub const DAX_LEASE: &str = "change of a DAX window";

/// Maps part of a file into a window. Pages beyond the file's end are `MemoryFault` when accessed.
pub fn map_file(region: &MappedRegion, file: &File, mapping: DaxMapping) -> Result<()> {
    let window = window(region)?;
    check(region, mapping.range, mapping.file_offset)?;
    window.map_file(file, mapping).map_err(|failure| match failure {
        DaxFailure::Taken(DaxMapping { range: other, .. }) => {
            let (offset, size) = (hex(other.base()), hex(other.size()));
            let why = format!("something is mapped at offset {offset} (size {size}): unmap it first");
            invalid(region, mapping.range, &why)
        }
        DaxFailure::Kernel(error) => {
            let (prot_flags, offset) = (protection(mapping.prot_flags), hex(mapping.range.base()));
            failed(region.desc(), &format!("mapping a file ({prot_flags}) at offset {offset} failed"), &error)
        }
    })
}

/// Takes what is mapped in a range out of the window; the range may cut mappings and cover holes.
pub fn unmap(region: &MappedRegion, range: Range) -> Result<()> {
    let window = window(region)?;
    check(region, range, 0)?;
    let (desc, guest) = (region.desc(), region.range().skip(range.base()).take(range.size()));
    // Changes lease the whole window, and so does this one. Others wait until it is done.
    let closed = region.leases().narrowed(guest).close_beside(Veto::All, DAX_LEASE)?;
    let ticket = closed.map_err(|leases| {
        let message = format!("cannot unmap {guest} of {desc}: views of it are held");
        Error::Busy { message, region: Arc::clone(desc), leases }
    })?;
    let unmapped = window.unmap(range);
    region.storage().places().reopen(ticket);
    unmapped.map_err(|error| failed(desc, &format!("unmapping {guest} failed"), &error))
}

/// The window that a region is, or why it is not one.
pub fn check_window(region: &MappedRegion) -> Result<()> {
    window(region).map(drop)
}

fn window(region: &MappedRegion) -> Result<&DaxWindow> {
    let desc = region.desc();
    region.storage().dax_window().ok_or_else(|| {
        let message = format!("{desc} is not a DAX window: create it with create_dax_region");
        Invalid::argument(message).about(Some(desc.base()), Some(desc.size())).into()
    })
}

fn check(region: &MappedRegion, range: Range, file_offset: u64) -> Result<()> {
    let desc = region.desc();
    if range.is_empty() {
        return Err(invalid(region, range, "the size is 0"));
    }
    if range.end() > desc.size() {
        return Err(invalid(region, range, &format!("the window has {}", size_text(desc.size()))));
    }
    let page_size = region.storage().page_size();
    for (what, value) in [("offset", range.base()), ("size", range.size()), ("file offset", file_offset)] {
        if !value.is_multiple_of(page_size) {
            return Err(Error::Misaligned {
                message: format!("{desc}: the {what} {} is not a multiple of {}", hex(value), hex(page_size)),
                address: Some(region.range().skip(range.base()).base()),
                size: Some(range.size()),
                region: Some(Arc::clone(desc)),
            });
        }
    }
    Ok(())
}

fn invalid(region: &MappedRegion, range: Range, why: &str) -> Error {
    let (desc, offset, size) = (region.desc(), hex(range.base()), hex(range.size()));
    Invalid::at(
        format!("cannot map or unmap {size} bytes at offset {offset} of {desc}: {why}"),
        desc.base().checked_add(range.base()),
        Some(range.size()),
    )
    .into()
}
