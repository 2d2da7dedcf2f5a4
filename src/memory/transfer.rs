//! Bytes between a descriptor and guest memory.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;

use super::buffer::{Bytes, Input};
use super::path::Path;
use super::scan::{self, Chunk};
use super::section::Section;
use crate::model::error::{Errno, Error, Result};
use crate::model::format::hex;
use crate::model::int::u64_of;
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::region::PROT_WRITE;
use crate::model::room;
use crate::model::wait::SLICE;
use crate::sys::copy::Stopped;
use crate::sys::errno::{self, EFAULT, EIO, ENOSPC};
use crate::sys::poll::{self, Direction};
use crate::sys::stream;

/// A descriptor, and how far the transfer is.
#[allow(missing_debug_implementations, reason = "borrows a caller's trait object")]
pub struct Transfer<'a> {
    verb: &'static str,
    file: &'a File,
    /// The offset of the bytes in the file; `None` for the descriptor's own position.
    at: Option<u64>,
    total: u64,
    done: u64,
    interrupt: &'a dyn Interrupt,
}

impl<'a> Transfer<'a> {
    /// A transfer of `total` bytes.
    pub fn new(verb: &'static str, file: &'a File, at: Option<u64>, total: u64, interrupt: &'a dyn Interrupt) -> Self {
        Self { verb, file, at, total, done: 0, interrupt }
    }

    /// The bytes that were transferred.
    pub const fn done(&self) -> u64 {
        self.done
    }

    /// Reads the file into the sections, without a copy in between where nobody may have to answer a fault.
    pub fn read(&mut self, sections: &[Section<'_>]) -> Result<()> {
        sections.iter().try_for_each(|section| match self.fill(section)? {
            true => Ok(()),
            false => Err(self.partial("the file ended", Errno::Refused(EIO))),
        })
    }

    /// Reads all of a file into the sections, which have to have room for it.
    pub fn read_to_end(&mut self, sections: &[Section<'_>]) -> Result<()> {
        for section in sections {
            if !self.fill(section)? {
                return Ok(());
            }
        }
        let done = self.done;
        let mut more = [0];
        let (start, size) = (more.as_mut_ptr(), more.len());
        let moved = self.moved(Direction::In, |file, at| {
            // SAFETY: the array has as many bytes.
            unsafe { stream::read(file, at, start, size) }
        });
        self.done = done;
        match moved {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.partial("the memory ended before the file did", Errno::Refused(ENOSPC))),
            Err(Failure::Stopped(error)) => Err(error),
            Err(Failure::Kernel(error)) => Err(self.refused(&error)),
        }
    }

    /// Whether the file did not end before the section was full.
    fn fill(&mut self, section: &Section<'_>) -> Result<bool> {
        let mut left = *section;
        while !left.is_empty() {
            let part = left.take(STEP).alone();
            // Asked before, not while the descriptor is waited for: a permit would keep others waiting.
            let is_answered = matches!(part.path(PROT_WRITE), Path::Thread);
            let count = if is_answered { self.receive_on_thread(&part) } else { self.receive(&part) }?;
            if count == 0 {
                return Ok(false);
            }
            left = left.skip(u64_of(count));
        }
        Ok(true)
    }

    fn receive(&mut self, part: &Section<'_>) -> Result<usize> {
        let count = self.moved(Direction::In, |file, at| {
            // SAFETY: the part lies in a mapping that the caller holds; the kernel checks that it can be written.
            unsafe { stream::read(file, at, part.host(), part.len()) }
        });
        // All of it after an error, for the kernel may have written before that.
        part.take(count.as_ref().map_or(part.size(), |count| u64_of(*count))).mark_dirty();
        count.map_err(|error| self.failed(part, error))
    }

    /// The kernel would wait for a fault handler without end.
    fn receive_on_thread(&mut self, part: &Section<'_>) -> Result<usize> {
        let mut bytes = room::zeroed(part.len().min(scan::CHUNK))?;
        let before = self.done;
        let (start, size) = (bytes.as_mut_ptr(), bytes.len());
        let count = self.moved(Direction::In, |file, at| {
            // SAFETY: the vector has as many bytes.
            unsafe { stream::read(file, at, start, size) }
        });
        let count = count.map_err(|error| self.failed(part, error))?;
        bytes.truncate(count);
        let written = part.take(u64_of(count)).write(Input::Bytes(Bytes::from(bytes.as_slice())), false);
        written.map(|()| count).map_err(|error| error.after(before).of(self.total))
    }

    /// Writes the sections into the file; reads no page of guest memory that no one has written.
    pub fn write(&mut self, sections: &[Section<'_>]) -> Result<()> {
        let interrupt = self.interrupt;
        scan::walk(sections, self.verb, interrupt, |part, chunk| {
            match chunk {
                Chunk::Data(bytes) => self.send(bytes)?,
                Chunk::Hole => scan::zeroes(part.size(), |zeroes| self.send(zeroes))?,
            }
            Ok(ControlFlow::<()>::Continue(()))
        })
        .map(drop)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let mut sent = 0usize;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let count = self.moved(Direction::Out, |file, at| stream::write(file, at, rest));
            let count = count.map_err(|failure| match failure {
                Failure::Stopped(error) => error,
                Failure::Kernel(error) => self.refused(&error),
            })?;
            sent = sent.saturating_add(count);
        }
        Ok(())
    }

    /// One system call that moved some of the bytes asked for or met the end, made again when it was interrupted or would have
    /// blocked.
    fn moved(
        &mut self,
        direction: Direction,
        call: impl Fn(&File, Option<u64>) -> io::Result<usize>,
    ) -> Result<usize, Failure> {
        loop {
            // In slices, before a call that might block for ever; a regular file is always ready.
            while !poll::wait_ready(self.file, direction, SLICE).map_err(Failure::Kernel)? {
                self.look(true)?;
            }
            match call(self.file, self.at.map(|at| at.saturating_add(self.done))) {
                Ok(count) => {
                    self.done = self.done.saturating_add(u64_of(count));
                    self.look(false)?;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.look(true)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.look(false)?,
                Err(error) => return Err(Failure::Kernel(error)),
            }
        }
    }

    /// Asks whether to go on, at once when there may be a signal.
    fn look(&self, at_once: bool) -> Result<(), Failure> {
        let looked = if at_once { self.interrupt.check_now() } else { self.interrupt.check() };
        looked.map_err(|interrupted| Failure::Stopped(interrupted.into()))
    }

    /// A fault is the memory's, anything else the file's.
    fn failed(&self, part: &Section<'_>, failure: Failure) -> Error {
        match failure {
            Failure::Stopped(error) => error,
            Failure::Kernel(error) if errno::of(&error) == EFAULT => {
                part.fault(self.verb, &Stopped { completed: 0, error: Some(error) }).after(self.done).of(self.total)
            }
            Failure::Kernel(error) => self.refused(&error),
        }
    }

    fn refused(&self, error: &io::Error) -> Error {
        self.partial(&error.to_string(), Errno::from(error))
    }

    fn partial(&self, why: &str, errno: Errno) -> Error {
        Error::Partial {
            message: format!("{}: {why} after {} of {} bytes", self.verb, hex(self.done), hex(self.total)),
            errno,
            done: self.done,
            size: self.total,
        }
    }
}

/// The reason why a system call moved nothing.
enum Failure {
    Stopped(Error),
    Kernel(io::Error),
}
