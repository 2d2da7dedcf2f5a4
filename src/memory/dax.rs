//! Files, or parts of them, mapped into a DAX window while the guest runs.

use std::fs::File;
use std::os::fd::AsRawFd;

use super::dax_table::{DaxMapping, Window};
use super::region::MappedRegion;
use super::source::failed;
use crate::model::error::{Error, Result};
use crate::model::format::{hex, protection, size as size_text};
use crate::model::int::usize_of;
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::model::region::{MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_NONE};
use crate::sys::span;

/// Maps part of a file into a window. What is not there in the file is `MemoryFault` when it is accessed.
#[allow(unsafe_code, reason = "a part of our own window, in which nothing is, is mapped over")]
pub fn map_file(
    region: &MappedRegion,
    offset: u64,
    file: &File,
    identity: (u64, u64),
    file_offset: u64,
    size: u64,
    prot_flags: i32,
) -> Result<()> {
    check(region, offset, size, Some(file_offset))?;
    let window = window(region)?;
    let mut sections = window.lock();
    let end = offset.saturating_add(size);
    if let Some((_, other)) = sections.range(..end).next_back().filter(|(_, other)| other.end() > offset) {
        let (at, bytes) = (hex(other.offset), hex(other.size));
        let why = format!("something is mapped at offset {at} (size {bytes}): unmap it first");
        return Err(refusal(region, offset, size, &why));
    }
    let (host, length) = (region.mapping.host(offset), usize_of(size));
    // SAFETY: whole pages of our own window, where nothing is mapped.
    let mapped = unsafe { span::replace(host, length, prot_flags, MAP_SHARED, Some((file.as_raw_fd(), file_offset))) };
    if let Err(error) = mapped {
        // Some refusals come after the kernel has unmapped what was there.
        let _ = clear(host, length);
        let what = format!("mapping a file ({}) at offset {} failed", protection(prot_flags), hex(offset));
        return Err(failed(&region.desc, &what, &error));
    }
    sections.insert(offset, DaxMapping { offset, size, file_offset, prot_flags, file: identity });
    Ok(())
}

/// Takes what is mapped in a range out of the window; the range may cut sections and cover holes.
pub fn unmap(region: &MappedRegion, offset: u64, size: u64) -> Result<()> {
    check(region, offset, size, None)?;
    let window = window(region)?;
    let mut sections = window.lock();
    let (base, end) = (region.desc.base(), offset.saturating_add(size));
    let range = Range::between(base.saturating_add(offset), base.saturating_add(end));
    let held = region.leases.held().into_iter();
    let held: Vec<_> = held
        .filter(|lease| Range::between(lease.address, lease.address.saturating_add(lease.size)).overlaps(&range))
        .filter(|lease| lease.what != super::region::DAX_LEASE)
        .collect();
    if !held.is_empty() {
        let message = format!("cannot unmap {range} of {}: views of it are held", region.desc);
        return Err(Error::Busy { message, region: region.desc.clone(), leases: held });
    }
    clear(region.mapping.host(offset), usize_of(size))
        .map_err(|error| failed(&region.desc, &format!("unmapping {range} failed"), &error))?;
    let cut: Vec<DaxMapping> =
        sections.range(..end).map(|(_, section)| *section).filter(|section| section.end() > offset).collect();
    for section in cut {
        sections.remove(&section.offset);
        if section.offset < offset {
            sections.insert(section.offset, section.part(section.offset, offset));
        }
        if section.end() > end {
            sections.insert(end, section.part(end, section.end()));
        }
    }
    Ok(())
}

/// Back to what a window is made of.
#[allow(unsafe_code, reason = "a part of our own window is mapped over")]
fn clear(host: *mut u8, size: usize) -> std::io::Result<()> {
    // SAFETY: part of our own window; whoever accesses it does so through the kernel.
    unsafe { span::replace(host, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, None) }
}

fn window(region: &MappedRegion) -> Result<&Window> {
    region.mapping.window().ok_or_else(|| {
        Invalid::argument(format!("{} is not a DAX window: create it with create_dax_region", region.desc))
            .about(Some(region.desc.base()), Some(region.desc.size()))
            .into()
    })
}

fn check(region: &MappedRegion, offset: u64, size: u64, file_offset: Option<u64>) -> Result<()> {
    let end = offset.checked_add(size).filter(|end| *end <= region.desc.size());
    if size == 0 || end.is_none() {
        return Err(refusal(region, offset, size, &format!("the window has {}", size_text(region.desc.size()))));
    }
    let page_size = region.mapping.backing().page_size;
    for (what, value) in [("offset", offset), ("size", size), ("file offset", file_offset.unwrap_or_default())] {
        if !value.is_multiple_of(page_size) {
            return Err(Error::Misaligned {
                message: format!("{}: the {what} {} is not a multiple of {}", region.desc, hex(value), hex(page_size)),
                address: Some(region.desc.base().saturating_add(offset)),
                size: Some(size),
                region: Some(region.desc.clone()),
            });
        }
    }
    Ok(())
}

fn refusal(region: &MappedRegion, offset: u64, size: u64, why: &str) -> Error {
    Invalid::at(
        format!("cannot map or unmap {} bytes at offset {} of {}: {why}", hex(size), hex(offset), region.desc),
        Some(region.desc.base().saturating_add(offset)),
        Some(size),
    )
    .into()
}
