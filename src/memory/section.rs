//! Copies between a caller's buffer and one region: directly where a touch can't fault, through the kernel elsewhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::ByteValued;

use super::abandoned_copy::AbandonedCopy;
use super::buffer::{Input, Output};
use super::mapping::Extent;
use super::region::MappedRegion;
use crate::model::error::{Error, LeaseInfo, Result};
use crate::model::format::hex;
use crate::model::int::u64_of;
use crate::model::region::PROT_WRITE;
use crate::sys::copy::{self as kernel, Stopped};
use crate::sys::copy_thread;
use crate::sys::errno::{self, ETIMEDOUT};

/// Bytes that a guarded fill writes at a time, and that a fault handler is given its time for.
const GUARDED_CHUNK: usize = 64 << 10;

/// A part of one region, and where the bytes lie in the caller's buffer.
#[derive(Clone, Debug)]
pub struct Section {
    /// The region.
    pub region: Arc<MappedRegion>,
    /// Where in the region the part begins.
    pub offset: u64,
    /// The number of bytes.
    pub size: usize,
    /// Where in the buffer the part begins.
    pub at: usize,
}

impl Section {
    /// The guest physical address of the part.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.region.desc.base().saturating_add(self.offset)
    }

    /// `size` bytes of it from `skip` on, to or from the start of another buffer.
    #[must_use]
    pub fn part(&self, skip: u64, size: usize) -> Self {
        Self { region: Arc::clone(&self.region), offset: self.offset.saturating_add(skip), size, at: 0 }
    }

    /// The same part, to or from another place in the buffer.
    #[must_use]
    pub fn at(&self, at: usize) -> Self {
        Self { at, ..self.clone() }
    }

    /// Whether a copy may wait for a disk, or for whoever answers its faults.
    #[must_use]
    pub fn may_block(&self) -> bool {
        self.region.desc.source.is_adopted()
    }

    /// Whether the kernel must do its copies.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.region.mapping.is_guarded()
    }

    /// The host address of the part.
    #[must_use]
    pub fn host(&self) -> *mut u8 {
        self.region.mapping.host(self.offset)
    }

    /// What lies at `skip`, as far as it goes inside the section.
    #[must_use]
    pub fn extent_at(&self, skip: u64) -> Extent {
        let rest = u64_of(self.size).saturating_sub(skip);
        match self.region.mapping.extent_at(self.offset.saturating_add(skip)) {
            Extent::Data(size) => Extent::Data(size.min(rest)),
            Extent::Hole(size) => Extent::Hole(size.min(rest)),
        }
    }

    /// Copies the part out.
    pub fn read(&self, output: &Output<'_>) -> Result<()> {
        let to = output.part(self.at, self.size)?;
        let Some(_direct) = self.region.mapping.direct() else { return self.read_guarded(to) };
        // SAFETY: the section lies inside the mapping, which can't fault, and the part inside the output.
        unsafe { std::ptr::copy(self.host(), to, self.size) };
        Ok(())
    }

    /// Copies the part out without allocating pages of a shared file that no one has written.
    pub fn scan(&self, output: &Output<'_>) -> Result<()> {
        match self.region.mapping.readable_file() {
            Some(_) => self.read_guarded(output.part(self.at, self.size)?),
            None => self.read(output),
        }
    }

    /// Copies out what [`extent_at`](Self::extent_at) calls data, where it knows, without allocating pages.
    pub fn read_data(&self, output: &Output<'_>) -> Result<()> {
        if self.region.mapping.knows_holes() { self.read(output) } else { self.scan(output) }
    }

    /// `to` is a part of an output that has `self.size` bytes.
    fn read_guarded(&self, to: *mut u8) -> Result<()> {
        let mapping = &self.region.mapping;
        let result = match mapping.readable_file() {
            _ if mapping.has_fault_handler() => return self.read_patiently(to),
            // SAFETY: the part lies inside the output.
            Some((file, start)) => unsafe { kernel::read_file(file, start.saturating_add(self.offset), to, self.size) },
            // SAFETY: the part lies inside the output, and the kernel checks the source.
            None => unsafe { kernel::read_guarded(self.host(), to, self.size) },
        };
        result.map_err(|stopped| self.fault("read", &stopped))
    }

    /// `to` is a part of an output that has `self.size` bytes.
    fn read_patiently(&self, to: *mut u8) -> Result<()> {
        self.in_chunks(|chunk, done| {
            let bytes = chunk.on_thread("read", |lease| copy_thread::read(chunk.host(), chunk.size, lease))?;
            // SAFETY: `to` has `self.size` bytes, of which this chunk is a part.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.wrapping_add(done), bytes.len()) };
            Ok(())
        })
    }

    /// `from` is a part of an input that has `self.size` bytes.
    fn write_patiently(&self, from: *const u8) -> Result<()> {
        self.in_chunks(|chunk, done| {
            let mut bytes = vec![0; chunk.size];
            // SAFETY: `from` has `self.size` bytes, of which this chunk is a part.
            unsafe { std::ptr::copy_nonoverlapping(from.wrapping_add(done), bytes.as_mut_ptr(), chunk.size) };
            // SAFETY: the lease keeps the memory what it is for as long as the write goes on.
            chunk.on_thread("write", |lease| unsafe { copy_thread::write(chunk.host(), bytes, lease) })
        })
    }

    /// Calls `copy(part, where it begins)` for parts of at most [`GUARDED_CHUNK`].
    fn in_chunks(&self, copy: impl Fn(&Self, usize) -> Result<()>) -> Result<()> {
        (0..self.size).step_by(GUARDED_CHUNK).try_for_each(|done| {
            let chunk = self.part(u64_of(done), self.size.saturating_sub(done).min(GUARDED_CHUNK));
            copy(&chunk.at(self.at.saturating_add(done)), done).map_err(|error| error.of(u64_of(self.size)))
        })
    }

    /// Runs a copy that may be given up; while one that was goes on, no other is begun.
    fn on_thread<T>(
        &self,
        verb: &'static str,
        copy: impl FnOnce(AbandonedCopy) -> std::result::Result<T, Stopped>,
    ) -> Result<T> {
        let timed_out =
            || Stopped { completed: 0, error: Some(errno::refusal(ETIMEDOUT, "an earlier copy still waits")) };
        let size = u64_of(self.size);
        // A write that was given up may still be done, however late.
        let info = LeaseInfo { what: verb, address: self.address(), size, is_writable: verb == "write" };
        let lease = self.region.leases.take_another(&self.region.mapping, self.offset, info);
        let lease = lease.map_err(|_| self.fault(verb, &timed_out()))?;
        if self.region.mapping.pending_copies.load(Ordering::Acquire) != 0 {
            return Err(self.fault(verb, &timed_out()));
        }
        let (abandoned, handle) = AbandonedCopy::new(lease);
        copy(abandoned).map_err(|stopped| {
            handle.give_up(&self.region.mapping);
            self.fault(verb, &stopped)
        })
    }

    /// Copies the part in; `force` lifts a protection for as long as it takes.
    pub fn write(&self, input: Input<'_>, force: bool) -> Result<()> {
        let result = self.write_untracked(input, force);
        self.mark_dirty(self.size);
        result
    }

    /// Marks the first `size` bytes, which were written before this call.
    pub fn mark_dirty(&self, size: usize) {
        if let Some(dirty) = self.region.mapping.dirty() {
            dirty.mark(self.offset, u64_of(size));
        }
    }

    fn write_untracked(&self, input: Input<'_>, force: bool) -> Result<()> {
        if !force || self.region.desc.prot_flags & PROT_WRITE != 0 {
            return self.write_unprotected(input);
        }
        let work = || self.write_unprotected(input);
        self.region.mapping.with_write_access(self.offset, self.size, work).map_err(|error| Error::AccessDenied {
            message: format!("cannot lift the protection of {} for a forced write: {error}", self.region.desc),
            address: self.address(),
            size: u64_of(self.size),
            region: Arc::clone(&self.region.desc),
        })?
    }

    fn write_unprotected(&self, input: Input<'_>) -> Result<()> {
        let (host, direct) = (self.host(), self.region.mapping.direct());
        match input {
            // SAFETY: the section lies inside the mapping, which can't fault, and the part inside the input.
            Input::Bytes(bytes) if direct.is_some() => unsafe {
                std::ptr::copy(bytes.part(self.at, self.size)?, host, self.size)
            },
            // SAFETY: the section lies inside the mapping, which can't fault.
            Input::Fill(byte) if direct.is_some() => unsafe { std::ptr::write_bytes(host, byte, self.size) },
            Input::Bytes(bytes) => self.write_guarded(bytes.part(self.at, self.size)?)?,
            Input::Fill(byte) => self.fill_guarded(byte)?,
        }
        Ok(())
    }

    /// `from` is a part of an input that has `self.size` bytes.
    fn write_guarded(&self, from: *const u8) -> Result<()> {
        if self.region.mapping.has_fault_handler() {
            return self.write_patiently(from);
        }
        // SAFETY: the part lies inside the input, and the kernel checks the target.
        let result = unsafe { kernel::write_guarded(self.host(), from, self.size) };
        result.map_err(|stopped| self.fault("write", &stopped))
    }

    fn fill_guarded(&self, byte: u8) -> Result<()> {
        let pattern = vec![byte; self.size.min(GUARDED_CHUNK)];
        self.in_chunks(|chunk, _| chunk.write_guarded(pattern.as_ptr()))
    }

    /// The error of a copy that the kernel stopped.
    pub(super) fn fault(&self, verb: &str, stopped: &Stopped) -> Error {
        let completed = u64_of(stopped.completed);
        let offset = self.offset.saturating_add(completed);
        let address = self.region.desc.base().saturating_add(offset);
        let cause = self.cause(offset, stopped);
        Error::Fault {
            message: format!("{verb} of {} at {}: {cause}", self.region.desc, hex(address)),
            address,
            size: u64_of(self.size),
            region: Arc::clone(&self.region.desc),
            completed: u64_of(self.at).saturating_add(completed),
            cause,
            file_offset: self.region.mapping.file_offset().map(|file| file.start().saturating_add(offset)),
        }
    }

    fn cause(&self, offset: u64, stopped: &Stopped) -> String {
        let backing = self.region.mapping.backing();
        let length = backing.file.as_ref().filter(|_| backing.is_regular).and_then(|file| kernel::length(file).ok());
        let position = backing.offset.saturating_add(offset);
        match (length, &stopped.error) {
            (Some(length), _) if length <= position => {
                format!("the backing file was truncated to {} bytes", hex(length))
            }
            (_, Some(error)) if errno::of(error) == ETIMEDOUT => {
                "its userfaultfd handler does not answer, and the access was given up".into()
            }
            _ if backing.is_huge => "no huge page was free for it".into(),
            (_, Some(error)) => {
                format!("the memory can't be reached (file system full, page lost or not inherited by fork): {error}")
            }
            (_, None) => "the backing file ended".into(),
        }
    }
}

/// Reads an integer of directly copied memory, without tearing when it is naturally aligned.
///
/// # Safety
/// `host` is valid for reading a `T`.
#[inline]
pub(super) unsafe fn load_value<T: ByteValued>(host: *const T) -> T {
    // SAFETY: the caller's promise; every bit pattern is a `T`.
    if host.is_aligned() { unsafe { host.read_volatile() } } else { unsafe { host.read_unaligned() } }
}

/// Writes an integer to directly copied memory, without tearing when it is naturally aligned.
///
/// # Safety
/// `host` is valid for writing a `T`.
#[inline]
pub(super) unsafe fn store_value<T: ByteValued>(host: *mut T, value: T) {
    // SAFETY: the caller's promise.
    if host.is_aligned() { unsafe { host.write_volatile(value) } } else { unsafe { host.write_unaligned(value) } }
}
