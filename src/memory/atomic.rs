//! Atomic operations on naturally aligned integers in memory that can't fault.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::access::{Access, Shape};
use super::operation::{Operation, apply};
use super::section::Section;
use crate::model::error::{Error, Result};
use crate::model::format::hex;
use crate::model::int::usize_of;
use crate::model::invalid::Invalid;
use crate::model::region::{PROT_READ, PROT_WRITE};

/// A place of 1, 2, 4 or 8 bytes that an atomic operation may use for as long as the snapshot is held.
#[derive(Debug)]
pub struct Cell<'a> {
    verb: &'static str,
    section: Section<'a>,
}

impl<'a> Cell<'a> {
    /// The place, or why it can't be used atomically.
    pub fn new(access: &Access<'a>) -> Result<Self> {
        let (name, range) = (access.verb.name, access.range);
        let (address, size) = (range.base(), range.size());
        if ![1, 2, 4, 8].contains(&size) {
            let message = format!("{name} of {size} bytes: an atomic access has 1, 2, 4 or 8");
            return Err(Invalid::at(message, Some(address), Some(size)).into());
        }
        if !address.is_multiple_of(size) {
            let message = format!(
                "{name} of {size} bytes at {}: an atomic access needs an address that is a multiple of its size",
                hex(address)
            );
            return Err(Error::Misaligned { message, address: Some(address), size: Some(size), region: None });
        }
        let single = Access { verb: access.verb.shaped(Shape::Single), ..*access };
        let section = single.sections()?.pop().ok_or_else(|| access.unmapped(address))?;
        Ok(Self { verb: name, section })
    }

    /// A place that an atomic operation may use if its memory can't fault.
    pub(super) const fn of(section: Section<'a>) -> Self {
        Self { verb: "load", section }
    }

    /// The place in its region.
    pub(super) const fn section(&self) -> &Section<'a> {
        &self.section
    }

    /// Does one operation and returns the value before it.
    ///
    /// Values are the low bytes, little-endian. The order of a compare-exchange that fails is that of its load.
    pub fn apply(&self, operation: Operation, order: Ordering) -> Result<u64> {
        let bits = if operation == Operation::Load { PROT_READ } else { PROT_WRITE };
        // The path is held across the operation, for it may be the permit.
        let (path, host) = (self.section.path(bits), self.section.host());
        if !path.is_direct() {
            return Err(self.guarded());
        }
        if !host.addr().is_multiple_of(usize_of(self.section.size())) {
            return Err(self.misaligned_on_the_host());
        }
        // SAFETY: inside a mapping that can't fault meanwhile and is only touched by copies and atomics. As many bytes as `new` lets
        // pass, naturally aligned on both sides.
        let old = unsafe { apply(host, self.section.size(), operation, order) };
        if operation != Operation::Load {
            self.section.mark_dirty();
        }
        Ok(old)
    }

    /// The value, unless the memory may fault, or is not aligned in this process.
    pub(super) fn loaded(&self) -> Option<u64> {
        // As in `apply`.
        let (path, host) = (self.section.path(PROT_READ), self.section.host());
        let is_cell = path.is_direct() && host.addr().is_multiple_of(usize_of(self.section.size()));
        // SAFETY: as there.
        is_cell.then(|| unsafe { apply(host, self.section.size(), Operation::Load, Ordering::Acquire) })
    }

    /// A buffer begins anywhere, and a file may be shown from anywhere in it.
    fn misaligned_on_the_host(&self) -> Error {
        let (verb, size, address) = (self.verb, self.section.size(), self.section.address());
        let region = self.section.region().desc();
        Error::Misaligned {
            message: format!(
                "{verb} of {size} bytes at {}: the buffer or file of {region} begins at no multiple of {size} bytes in this process",
                hex(address)
            ),
            address: Some(address),
            size: Some(size),
            region: Some(Arc::clone(region)),
        }
    }

    fn guarded(&self) -> Error {
        let (address, region) = (hex(self.section.address()), self.section.region().desc());
        let why = self.section.region().why_guarded();
        Error::Unsupported {
            message: format!(
                "{} at {address}: {region} may fault{why}; atomics have no guarded form: use read_u* and write_u*",
                self.verb
            ),
            feature: "atomic access to guarded memory",
            how: "use read_u8..read_u64 and write_u8..write_u64".into(),
            region: Some(Arc::clone(region)),
        }
    }
}
