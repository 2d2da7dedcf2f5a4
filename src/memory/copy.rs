//! Copies between a caller's buffer and one region: directly where a touch can't fault, through the kernel elsewhere.

use std::sync::Arc;

use vm_memory::ByteValued;

use super::buffer::{Input, Output};
use super::region::MappedRegion;
use crate::model::error::{Error, Result};
use crate::model::region::PROT_WRITE;
use crate::model::text::hex;
use crate::sys::copy::{self as kernel, Stopped};

/// Bytes of a pattern that a guarded fill writes at a time.
const FILL_CHUNK: usize = 64 << 10;

/// A part of one region, and where the bytes lie in the caller's buffer.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The region.
    pub region: Arc<MappedRegion>,
    /// Where in the region the part begins.
    pub offset: u64,
    /// The number of bytes.
    pub size: usize,
    /// Where in the buffer the part begins.
    pub at: usize,
}

impl Piece {
    /// The guest physical address of the part.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.region.meta.base().saturating_add(self.offset)
    }

    /// Whether a copy may wait for a disk.
    #[must_use]
    pub fn may_block(&self) -> bool {
        self.region.meta.source.file.is_some()
    }

    /// Copies the part out.
    pub fn read(&self, output: &Output<'_>) -> Result<()> {
        let (host, to) = (self.region.mapping.host(self.offset), output.part(self.at, self.size)?);
        if let Some(_direct) = self.region.mapping.direct() {
            // SAFETY: the piece lies inside the mapping, which can't fault, and the part inside the output.
            unsafe { std::ptr::copy(host, to, self.size) };
            return Ok(());
        }
        let result = match self.region.mapping.readable_file() {
            // SAFETY: the part lies inside the output.
            Some((file, start)) => unsafe { kernel::read_file(file, start.saturating_add(self.offset), to, self.size) },
            // SAFETY: the part lies inside the output, and the kernel checks the source.
            None => unsafe { kernel::read_guarded(host, to, self.size) },
        };
        result.map_err(|stopped| self.fault("read", &stopped))
    }

    /// Copies the part in; `force` lifts a protection for as long as it takes.
    pub fn write(&self, input: Input<'_>, force: bool) -> Result<()> {
        if !force || self.region.meta.prot_flags & PROT_WRITE != 0 {
            return self.write_unprotected(input);
        }
        let work = || self.write_unprotected(input);
        self.region.mapping.with_write_access(self.offset, self.size, work).map_err(|error| Error::AccessDenied {
            message: format!("cannot lift the protection of {} for a forced write: {error}", self.region.meta),
            address: self.address(),
            size: u64::try_from(self.size).unwrap_or(u64::MAX),
            region: Arc::clone(&self.region.meta),
        })?
    }

    fn write_unprotected(&self, input: Input<'_>) -> Result<()> {
        let host = self.region.mapping.host(self.offset);
        let direct = self.region.mapping.direct();
        match input {
            // SAFETY: the piece lies inside the mapping, which can't fault, and the part inside the input.
            Input::Bytes(bytes) if direct.is_some() => unsafe {
                std::ptr::copy(bytes.part(self.at, self.size)?, host, self.size)
            },
            // SAFETY: the piece lies inside the mapping, which can't fault.
            Input::Fill(byte) if direct.is_some() => unsafe { std::ptr::write_bytes(host, byte, self.size) },
            Input::Bytes(bytes) => {
                // SAFETY: the part lies inside the input, and the kernel checks the target.
                let result = unsafe { kernel::write_guarded(host, bytes.part(self.at, self.size)?, self.size) };
                result.map_err(|stopped| self.fault("write", &stopped))?;
            }
            Input::Fill(byte) => self.fill_guarded(host, byte)?,
        }
        Ok(())
    }

    fn fill_guarded(&self, host: *mut u8, byte: u8) -> Result<()> {
        let pattern = vec![byte; self.size.min(FILL_CHUNK)];
        let mut done = 0usize;
        while done < self.size {
            let size = pattern.len().min(self.size.saturating_sub(done));
            // SAFETY: the pattern has `size` bytes, and the kernel checks the target.
            let result = unsafe { kernel::write_guarded(host.wrapping_add(done), pattern.as_ptr(), size) };
            result.map_err(|stopped| {
                let completed = stopped.completed.saturating_add(done);
                self.fault("fill", &Stopped { completed, ..stopped })
            })?;
            done = done.saturating_add(size);
        }
        Ok(())
    }

    /// The error of a copy that the kernel stopped.
    fn fault(&self, verb: &str, stopped: &Stopped) -> Error {
        let completed = u64::try_from(stopped.completed).unwrap_or(u64::MAX);
        let offset = self.offset.saturating_add(completed);
        let address = self.region.meta.base().saturating_add(offset);
        let cause = self.cause(offset, stopped);
        let done = u64::try_from(self.at).unwrap_or(u64::MAX).saturating_add(completed);
        Error::Fault {
            message: format!(
                "{verb} of {} at {}: {cause} (done before it: {} bytes)",
                self.region.meta,
                hex(address),
                hex(done)
            ),
            address,
            size: u64::try_from(self.size).unwrap_or(u64::MAX),
            region: Arc::clone(&self.region.meta),
            completed: done,
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
            (_, Some(error)) if error.raw_os_error() == Some(EPERM) => {
                format!("the kernel refuses process_vm_readv/writev here (a seccomp filter?): {error}")
            }
            _ if backing.is_huge => "no huge page was free for it".into(),
            (_, Some(error)) => {
                format!("the memory can't be reached (file system full, page lost or not inherited by fork): {error}")
            }
            (_, None) => "the backing file ended".into(),
        }
    }
}

const EPERM: i32 = 1;

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
