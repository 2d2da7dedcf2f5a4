//! A caller's bytes: where guest memory is copied to, or from.

use std::marker::PhantomData;

use crate::model::error::{Errno, Error, Result};
use crate::model::int::usize_of;
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::invalid::Invalid;
use crate::sys::copy as kernel;
use crate::sys::errno::EFAULT;

/// Integers that verbs on many of them copy at a time: a small part of a stack.
pub const BLOCK: usize = 512;

/// Bytes that may be written, and that others may write too.
#[derive(Debug)]
pub struct Output<'a> {
    start: *mut u8,
    size: usize,
    /// Whether a touch may fault, so that only the kernel copies there.
    pub(super) may_fault: bool,
    lifetime: PhantomData<&'a mut [u8]>,
}

// SAFETY: its maker promises that the bytes may be written for `'a`, from any thread.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl Output<'_> {
    /// # Safety
    /// `start` is valid for writing `size` bytes for `'a`.
    pub const unsafe fn new(start: *mut u8, size: usize) -> Self {
        Self { start, size, may_fault: false, lifetime: PhantomData }
    }

    /// The same, of which a touch may fault.
    #[must_use]
    pub const fn guarded(self, may_fault: bool) -> Self {
        Self { may_fault, ..self }
    }

    /// The number of bytes.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Sets every byte of memory that can't fault, unless the caller stops it.
    pub fn fill(&self, byte: u8, interrupt: &dyn Interrupt) -> Result<()> {
        let step = usize_of(STEP);
        for at in (0..self.size).step_by(step) {
            // SAFETY: the promise of `new`; the part ends with the output.
            unsafe { std::ptr::write_bytes(self.start.wrapping_add(at), byte, step.min(self.size.abs_diff(at))) };
            interrupt.check()?;
        }
        Ok(())
    }

    /// The start of `size` bytes from `at` on.
    #[inline]
    pub(super) fn part(&self, at: usize, size: usize) -> Result<*mut u8> {
        check(self.size, at, size).map(|()| self.start.wrapping_add(at))
    }

    /// `size` bytes of it from `at` on.
    pub fn slice(&self, at: usize, size: usize) -> Result<Self> {
        // SAFETY: the promise of `new`, for a part.
        Ok(unsafe { Self::new(self.part(at, size)?, size) }.guarded(self.may_fault))
    }

    /// Writes bytes at `at`.
    #[inline]
    pub fn put(&self, at: usize, bytes: &[u8]) -> Result<()> {
        let to = self.part(at, bytes.len())?;
        if self.may_fault {
            // SAFETY: the caller's bytes, and the kernel checks the target, which the user gave to be written.
            return unsafe { kernel::write_guarded(to, bytes.as_ptr(), bytes.len()) }.map_err(|_| unreachable_buffer());
        }
        // SAFETY: the promise of `new`, and as many bytes as there are.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Writes integers at `at`.
    #[inline]
    pub fn put_integers(&self, at: usize, integers: &[u64]) -> Result<()> {
        // SAFETY: the bytes of the integers.
        self.put(at, unsafe { std::slice::from_raw_parts(integers.as_ptr().cast(), size_of_val(integers)) })
    }
}

impl<'a> From<&'a mut [u8]> for Output<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self { start: bytes.as_mut_ptr(), size: bytes.len(), may_fault: false, lifetime: PhantomData }
    }
}

/// The source of a write to guest memory.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Bytes that others may write meanwhile.
    Bytes(Bytes<'a>),
    /// One byte, repeated.
    Fill(u8),
}

/// Bytes that may be read.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    start: *const u8,
    size: usize,
    /// Whether a touch may fault, so that only the kernel copies from there.
    pub(super) may_fault: bool,
    lifetime: PhantomData<&'a [u8]>,
}

// SAFETY: its maker promises that the bytes may be read for `'a`, from any thread.
unsafe impl Send for Bytes<'_> {}
// SAFETY: as above.
unsafe impl Sync for Bytes<'_> {}

impl Bytes<'_> {
    /// # Safety
    /// `start` is valid for reading `size` bytes for `'a`.
    pub const unsafe fn new(start: *const u8, size: usize) -> Self {
        Self { start, size, may_fault: false, lifetime: PhantomData }
    }

    /// The same, of which a touch may fault.
    #[must_use]
    pub const fn guarded(self, may_fault: bool) -> Self {
        Self { may_fault, ..self }
    }

    /// The number of bytes.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// The start of `size` bytes from `at` on.
    #[inline]
    pub(super) fn part(&self, at: usize, size: usize) -> Result<*const u8> {
        check(self.size, at, size).map(|()| self.start.wrapping_add(at))
    }

    /// `size` bytes of it from `at` on.
    pub fn slice(&self, at: usize, size: usize) -> Result<Self> {
        // SAFETY: the promise of `new`, for a part.
        Ok(unsafe { Self::new(self.part(at, size)?, size) }.guarded(self.may_fault))
    }

    /// Copies the bytes from `at` on that fill `to`.
    pub fn copy_to(&self, at: usize, to: &mut [u8]) -> Result<()> {
        let from = self.part(at, to.len())?;
        if self.may_fault {
            // SAFETY: the caller's place, and the kernel checks the source.
            let copied = unsafe { kernel::read_guarded(from, to.as_mut_ptr(), to.len()) };
            return copied.map_err(|_| unreachable_buffer());
        }
        // SAFETY: the promise of `new`, and as many bytes as there are.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copies all of it to the start of `to`, unless the caller stops it.
    pub fn copy_all(&self, to: &Output<'_>, interrupt: &dyn Interrupt) -> Result<()> {
        let step = usize_of(STEP);
        for at in (0..self.size).step_by(step) {
            let size = step.min(self.size.abs_diff(at));
            let (from, to_part) = (self.part(at, size)?, to.part(at, size)?);
            if self.may_fault || to.may_fault {
                // SAFETY: the kernel checks both, which the user gave to be read and to be written.
                unsafe { kernel::read_guarded(from, to_part, size) }.map_err(|_| unreachable_buffer())?;
            } else {
                // SAFETY: the promises of both, for parts; the user may have given overlapping ones.
                unsafe { std::ptr::copy(from, to_part, size) };
            }
            interrupt.check()?;
        }
        Ok(())
    }

    /// Copies integers of 8 bytes from `at` on, as many as there are and as fit into `block`.
    #[inline]
    pub fn integers<'a>(&self, at: usize, block: &'a mut [u64]) -> Result<&'a [u64]> {
        let there = self.size.saturating_sub(at).checked_div(size_of::<u64>()).unwrap_or_default();
        let count = block.len().min(there);
        let (block, _) = block.split_at_mut(count);
        // SAFETY: the bytes of the block, which may be any.
        self.copy_to(at, unsafe { std::slice::from_raw_parts_mut(block.as_mut_ptr().cast(), size_of_val(block)) })?;
        Ok(block)
    }

    /// The integer of 8 bytes at `at`.
    #[inline]
    pub fn integer(&self, at: usize) -> Result<u64> {
        if self.may_fault {
            let mut bytes = [0; size_of::<u64>()];
            return self.copy_to(at, &mut bytes).map(|()| u64::from_ne_bytes(bytes));
        }
        let from = self.part(at, size_of::<u64>())?;
        // SAFETY: the promise of `new`; a `u64` can have any bits.
        Ok(unsafe { from.cast::<u64>().read_unaligned() })
    }
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { start: bytes.as_ptr(), size: bytes.len(), may_fault: false, lifetime: PhantomData }
    }
}

/// The error of a buffer that can't be reached. The one of a copy between it and guest memory names the region.
fn unreachable_buffer() -> Error {
    let message =
        "the caller's buffer can't be reached: the file of its mmap was cut, or its file system is full".into();
    Error::Backing { message, errno: Errno::Failed(EFAULT), region: None }
}

/// A buffer shorter than the access it was made for would be a bug here; it is refused rather than overrun.
#[inline]
fn check(available: usize, at: usize, size: usize) -> Result<()> {
    match at.checked_add(size) {
        Some(end) if end <= available => Ok(()),
        _ => Err(Invalid::argument("the buffer is shorter than the access").into()),
    }
}
