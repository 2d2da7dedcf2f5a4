//! The way of short accesses to bytes of one region that may always be touched directly: no lock, no allocation, no pointer to chase.

use std::sync::atomic::Ordering;

use vm_memory::ByteValued;

use super::buffer::{Bytes, Output};
use super::dirty::DirtyBitmap;
use super::operation::{self, Operation};
use super::path::Touch;
use super::protection::Need;
use super::region::MappedRegion;
use super::untorn;
use crate::model::int::{u64_of, usize_of};

/// The facts of a region that the fast path needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct FastPath {
    size: u64,
    host: *mut u8,
    /// The protections under which it can be touched directly for as long as it is mapped; 0 for guarded memory.
    direct: i32,
    /// The bitmap that writes are marked in; null when they are not tracked.
    dirty: *const DirtyBitmap,
    /// The offset of the region's first byte in the bitmap.
    dirty_at: u64,
}

impl FastPath {
    pub(super) fn of(region: &MappedRegion) -> Self {
        let storage = region.storage();
        let direct = match storage.touch() {
            Touch::Always => region.desc().prot_flags,
            // These must be asked again each time, which the long way does.
            Touch::InItsProcess | Touch::FromPopulatedToExported | Touch::FromFilled | Touch::Never(_) => 0,
        };
        let dirty = storage.dirty().map_or(std::ptr::null(), std::ptr::from_ref);
        let dirty_at = region.window().shown().base();
        Self { size: region.desc().size(), host: region.start(), direct, dirty, dirty_at }
    }

    /// Whether bytes can be touched directly.
    #[inline]
    pub(super) fn allows(&self, offset: u64, size: usize, need: Need) -> bool {
        let fits = self.size.checked_sub(offset).is_some_and(|left| u64_of(size) <= left);
        fits && self.direct & need.bits() != 0
    }
}

/// Bytes of one region that can be touched directly, for as long as the snapshot is held.
#[derive(Debug)]
pub struct DirectBytes<'a> {
    pub(super) path: &'a FastPath,
    pub(super) offset: u64,
    pub(super) size: usize,
}

impl DirectBytes<'_> {
    #[inline]
    fn host(&self) -> *mut u8 {
        self.path.host.wrapping_add(usize_of(self.offset))
    }

    /// The number of bytes.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Copies them to their place in an output; `false`, and nothing is done, when that ends before or may fault.
    #[inline]
    pub fn copy_to(&self, output: &Output<'_>, at: usize) -> bool {
        let Ok(to) = output.part(at, self.size) else { return false };
        if output.may_fault {
            return false;
        }
        // SAFETY: the bytes lie in one mapping, which can't fault, and the output has as many.
        unsafe { untorn::copy_out(self.host(), to, self.size) };
        true
    }

    /// Copies as many bytes in; `false`, and nothing is done, when the input has fewer or may fault.
    #[inline]
    pub(super) fn copy_from(&self, input: Bytes<'_>) -> bool {
        let Ok(from) = input.part(0, self.size) else { return false };
        if input.may_fault {
            return false;
        }
        // SAFETY: the bytes lie in one mapping, which can't fault, and the input has as many.
        unsafe { untorn::copy_in(from, self.host(), self.size) };
        self.mark_dirty();
        true
    }

    /// Reads an integer, if it has as many bytes.
    #[inline]
    pub(super) fn read_int<T: ByteValued>(&self) -> Option<T> {
        // SAFETY: the bytes lie in one mapping, which can't fault, and are those of a `T`.
        (size_of::<T>() == self.size).then(|| unsafe { untorn::read_int(self.host().cast()) })
    }

    /// Writes an integer, if it has as many bytes; else `false`.
    #[inline]
    pub(super) fn write_int<T: ByteValued>(&self, value: T) -> bool {
        if size_of::<T>() != self.size {
            return false;
        }
        // SAFETY: the bytes lie in one mapping, which can't fault, and are those of a `T`.
        unsafe { untorn::write_int(self.host().cast(), value) };
        self.mark_dirty();
        true
    }

    /// Loads an integer atomically; `None` where it is not aligned on the host, or has no integer's bytes.
    #[inline]
    pub(super) fn load(&self, order: Ordering) -> Option<u64> {
        // SAFETY: the bytes lie in one mapping, which can't fault, and `is_cell`.
        self.is_cell().then(|| unsafe { operation::apply(self.host(), u64_of(self.size), Operation::Load, order) })
    }

    /// Stores an integer atomically; `false`, and nothing is done, where it is not aligned or has no integer's bytes.
    #[inline]
    pub(super) fn store(&self, value: u64, order: Ordering) -> bool {
        if !self.is_cell() {
            return false;
        }
        // SAFETY: the bytes lie in one mapping, which can't fault, and `is_cell`.
        unsafe { operation::apply(self.host(), u64_of(self.size), Operation::Store(value), order) };
        self.mark_dirty();
        true
    }

    /// Whether an atomic access can be made of them.
    #[inline]
    fn is_cell(&self) -> bool {
        matches!(self.size, 1 | 2 | 4 | 8) && self.host().addr().is_multiple_of(self.size)
    }

    /// Marks the bytes, which were written before this call.
    #[inline]
    fn mark_dirty(&self) {
        // SAFETY: null, or the bitmap of a mapping that the snapshot keeps.
        if let Some(dirty) = unsafe { self.path.dirty.as_ref() } {
            dirty.mark(self.path.dirty_at.saturating_add(self.offset), u64_of(self.size));
        }
    }
}
