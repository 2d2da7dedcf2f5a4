//! Copies between a caller's buffer and part of one region.

use std::sync::Arc;

use super::abandoned_copy;
use super::buffer::{Input, Output};
use super::extent::{Extent, ExtentKind};
use super::held_lease::Writes;
use super::lazy::PART;
use super::lease::Lease;
use super::path::{Path, Touch};
use super::protection::Pages;
use super::region::MappedRegion;
use super::untorn;
use crate::model::error::{Error, Result};
use crate::model::format::hex;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::model::room;
use crate::model::source::UserReader;
use crate::sys::copy::{self as kernel, Stopped};
use crate::sys::errno::{self, EPERM, ETIMEDOUT};

/// Bytes that a guarded fill writes at a time, and that a fault handler is given its time for.
const GUARDED_CHUNK: usize = 64 << 10;

/// A part of one region, for as long as the region is held, and its place in the caller's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    region: &'a MappedRegion,
    /// Its place in the storage. It lies in what the region shows: the constructor sees to that, and all below rely on it.
    part: Range,
    /// Its place in the buffer; as many bytes.
    buffer: Range,
}

impl<'a> Section<'a> {
    /// The region's part of a range that lies at `buffer` in the caller's buffer.
    #[inline]
    pub(super) fn new(region: &'a MappedRegion, range: Range, buffer: Range) -> Self {
        let (part, missing) = (region.part(range), Range::between(range.base(), region.range().base()).size());
        Self { region, part, buffer: buffer.skip(missing).take(part.size()) }
    }

    /// All of a region.
    pub(super) fn whole(region: &'a MappedRegion) -> Self {
        Self::new(region, region.range(), Range::between(0, region.range().size()))
    }

    /// The region.
    pub const fn region(&self) -> &'a MappedRegion {
        self.region
    }

    /// The guest physical addresses.
    pub fn range(&self) -> Range {
        self.region.window().guest_of(self.part)
    }

    /// The first guest physical address.
    pub fn address(&self) -> u64 {
        self.range().base()
    }

    /// The number of bytes.
    pub const fn size(&self) -> u64 {
        self.part.size()
    }

    /// The number of bytes, as a length in memory.
    pub fn len(&self) -> usize {
        usize_of(self.part.size())
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.part.is_empty()
    }

    /// Its place in the buffer.
    pub const fn buffer(&self) -> Range {
        self.buffer
    }

    fn at(&self) -> usize {
        usize_of(self.buffer.base())
    }

    /// The bytes of it that are at addresses of a range.
    pub fn within(&self, range: Range) -> Self {
        let inside = self.range().intersection(&range);
        self.skip(inside.base().abs_diff(self.address())).take(inside.size())
    }

    /// The sections of it whose bytes are there: all of it, but for regions of a dump.
    pub(super) fn there(self) -> impl Iterator<Item = Self> {
        self.region.storage().runs(self.part).map(move |run| self.within_part(run))
    }

    /// The bytes of it that are in part of the storage.
    pub fn within_part(&self, part: Range) -> Self {
        let inside = self.part.intersection(&part);
        self.skip(inside.base().saturating_sub(self.part.base())).take(inside.size())
    }

    /// Its place in the storage.
    pub const fn part(&self) -> Range {
        self.part
    }

    /// The first `size` bytes, or all when there are not as many.
    pub fn take(&self, size: u64) -> Self {
        Self { part: self.part.take(size), buffer: self.buffer.take(size), ..*self }
    }

    /// All but the first `size` bytes; empty when there are not as many.
    pub fn skip(&self, size: u64) -> Self {
        Self { part: self.part.skip(size), buffer: self.buffer.skip(size), ..*self }
    }

    /// Parts of `size` bytes, one after the other, and what is left.
    pub fn chunks(self, size: u64) -> impl DoubleEndedIterator<Item = Self> {
        let size = size.max(1);
        // No product reaches beyond the size: nothing wraps.
        (0..self.size().div_ceil(size)).map(move |index| self.skip(index.wrapping_mul(size)).take(size))
    }

    /// The same bytes, alone in a buffer.
    pub fn alone(&self) -> Self {
        self.placed(0)
    }

    /// The same bytes at a place of another buffer.
    pub fn placed(&self, at: u64) -> Self {
        Self { buffer: Range::at(at, self.size()), ..*self }
    }

    /// The same bytes in the buffer that is part of this one from `at` on.
    pub fn behind(&self, at: u64) -> Self {
        Self { buffer: Range::between(self.buffer.base().abs_diff(at), self.buffer.end().abs_diff(at)), ..*self }
    }

    /// Whether a copy may wait for a disk, or for whoever answers its faults.
    pub fn may_block(&self) -> bool {
        self.region.storage().may_block()
    }

    /// The host address of the first byte.
    pub fn host(&self) -> *mut u8 {
        self.region.host(self.part)
    }

    /// Whether the user may touch it, from here on: the pages that have to be there for that are brought in.
    pub fn is_direct(&self, bits: i32, interrupt: &dyn Interrupt) -> Result<bool> {
        for chunk in self.chunks(STEP) {
            if !chunk.path(bits).is_direct() {
                return Ok(false);
            }
            interrupt.check()?;
        }
        Ok(true)
    }

    /// The path of a copy that needs some protection, at this moment.
    pub(super) fn path(&self, bits: i32) -> Path<'a> {
        self.region.storage().path(self.part, bits)
    }

    /// The bytes from the first on that are alike in having pages.
    pub(super) fn extent(&self) -> Extent {
        self.extent_of(self.part)
    }

    /// The same up to a guest physical address, or the end of the region, instead of the end of the section.
    pub(super) fn extent_up_to(&self, end: u64) -> Extent {
        self.extent_of(self.region.part(Range::between(self.address(), end)))
    }

    fn extent_of(&self, part: Range) -> Extent {
        let storage = self.region.storage();
        if let Some(shadow) = storage.shadow() {
            return storage.copied_extent(self.region.desc(), part, shadow);
        }
        if storage.filling().is_some() {
            // Its file has holes where nothing was brought in yet.
            return Extent { kind: ExtentKind::Unknown, size: part.size().min(PART) };
        }
        let pages_of = |block| storage.pages_of(block);
        let pages_of: Option<&dyn Fn(Range) -> Pages> =
            (!matches!(storage.touch(), Touch::Never(_))).then_some(&pages_of);
        storage.holes().extent_of(storage.backing(), part, pages_of, storage.gate().is_open())
    }

    /// Copies the part out.
    pub fn read(&self, output: &Output<'_>) -> Result<()> {
        self.read_by(&self.path(PROT_READ), output)
    }

    /// Copies the part out without allocating pages of a shared file that no one has written.
    pub fn scan(&self, output: &Output<'_>) -> Result<()> {
        if self.region.storage().shadow().is_some() {
            return self.scan_copies(output);
        }
        self.read_by(&self.region.storage().scan_path(self.part), output)
    }

    /// Copies pages of a shadow and of our own out; a read of all others would bring pages into the shadow's file.
    fn scan_copies(&self, output: &Output<'_>) -> Result<()> {
        let mut left = *self;
        while !left.is_empty() {
            let extent = left.extent();
            let alike = left.take(extent.size);
            match extent.kind {
                ExtentKind::Hole => output.put(alike.at(), &room::zeroed(alike.len())?)?,
                ExtentKind::Data | ExtentKind::Unknown => alike.read(output)?,
            }
            left = left.skip(extent.size);
        }
        Ok(())
    }

    fn read_by(&self, path: &Path<'_>, output: &Output<'_>) -> Result<()> {
        let (host, size) = (self.host(), self.len());
        let to = output.part(self.at(), size)?;
        let result = match path {
            // SAFETY: the section lies inside the mapping, which can't fault, and the kernel checks the part of the output.
            Path::Direct | Path::DirectUntilExported(_) if output.may_fault => unsafe {
                kernel::read_guarded(host, to, size)
            },
            Path::Direct | Path::DirectUntilExported(_) => {
                // SAFETY: the section lies inside the mapping, which can't fault, and the part inside the output.
                unsafe { untorn::copy_out(host, to, size) };
                Ok(())
            }
            Path::File(file, start) => {
                let position = Range::between(*start, u64::MAX).skip(self.part.base()).base();
                // SAFETY: the part lies inside the output.
                unsafe { kernel::read_file(file, position, to, size) }
            }
            // SAFETY: the part lies inside the output, and the kernel checks the source.
            Path::Kernel => unsafe { kernel::read_guarded(host, to, size) },
            Path::Reader(reader) => return self.in_guarded_chunks(|chunk| chunk.read_by_reader(reader, output)),
            Path::Thread => return self.in_guarded_chunks(|chunk| chunk.read_on_thread(output)),
        };
        result.map_err(|stopped| self.fault("read", &stopped))
    }

    fn read_by_reader(&self, reader: &UserReader, output: &Output<'_>) -> Result<()> {
        let mut bytes = room::zeroed(self.len())?;
        let read = reader.reader.read(reader.at.saturating_add(self.part.base()), &mut bytes);
        read.map_err(|error| self.fault("read", &Stopped { completed: 0, error: Some(error) }))?;
        output.put(self.at(), &bytes)
    }

    fn read_on_thread(&self, output: &Output<'_>) -> Result<()> {
        let lease = self.lease_of_thread("read")?;
        let bytes = abandoned_copy::read(self.host(), room::zeroed(self.len())?, lease);
        output.put(self.at(), &bytes.map_err(|stopped| self.fault("read", &stopped))?)
    }

    /// Copies the part in; `force` lifts a protection for as long as it takes.
    pub fn write(&self, input: Input<'_>, force: bool) -> Result<()> {
        // Marked behind the copy, or a drain in between would lose it; also after a fault, before which bytes were written.
        let result = self.write_untracked(input, force);
        self.mark_dirty();
        result
    }

    /// Puts as many bytes into memory that nobody has seen yet.
    ///
    /// A file takes them without a page fault for each page, and without zeroes before them; large pages come by faults alone.
    pub fn store(&self, bytes: &[u8]) -> Result<()> {
        let backing = self.region.storage().backing();
        let is_small = self.region.desc().options.transparent_hugepage != Some(true);
        let by_mapping = || self.write(Input::Bytes(bytes.into()), true);
        let Some((file, start)) = backing.shown_file().filter(|_| backing.has_holes() && is_small) else {
            return by_mapping();
        };
        let position = Range::between(start, u64::MAX).skip(self.part.base()).base();
        match kernel::write_file(file, position, bytes.as_ptr(), bytes.len().min(self.len())) {
            // Sealed against it.
            Err(Stopped { error: Some(error), .. }) if errno::of(&error) == EPERM => by_mapping(),
            stored => stored.map_err(|stopped| self.fault("write", &stopped)),
        }
    }

    /// Marks the bytes, which were written before this call.
    pub fn mark_dirty(&self) {
        if let Some(dirty) = self.region.storage().dirty() {
            dirty.mark(self.part.base(), self.size());
        }
    }

    fn write_untracked(&self, input: Input<'_>, force: bool) -> Result<()> {
        if !force || self.region.desc().prot_flags & PROT_WRITE != 0 {
            return self.write_by(&self.path(PROT_WRITE), input);
        }
        // Without bits: the protection that is noted still forbids this; only the pages allow it.
        let work = || self.write_by(&self.path(0), input);
        self.region.storage().with_write_access(self.part, work)?.map_err(|error| Error::AccessDenied {
            message: format!("cannot lift the protection of {} for a forced write: {error}", self.region.desc()),
            address: self.address(),
            size: self.size(),
            region: Arc::clone(self.region.desc()),
        })?
    }

    fn write_by(&self, path: &Path<'_>, input: Input<'_>) -> Result<()> {
        match (path, input) {
            (Path::Direct | Path::DirectUntilExported(_), Input::Bytes(bytes)) if bytes.may_fault => {
                self.write_guarded(bytes.part(self.at(), self.len())?)
            }
            // SAFETY: the section lies inside the mapping, which can't fault, and the part inside the input.
            (Path::Direct | Path::DirectUntilExported(_), Input::Bytes(bytes)) => unsafe {
                untorn::copy_in(bytes.part(self.at(), self.len())?, self.host(), self.len());
                Ok(())
            },
            // SAFETY: the section lies inside the mapping, which can't fault.
            (Path::Direct | Path::DirectUntilExported(_), Input::Fill(byte)) => unsafe {
                std::ptr::write_bytes(self.host(), byte, self.len());
                Ok(())
            },
            (Path::File(..) | Path::Kernel, Input::Bytes(bytes)) => {
                self.write_guarded(bytes.part(self.at(), self.len())?)
            }
            // Refused before that: its protection forbids writes, and can't be lifted.
            (Path::Reader(_), _) => Err(self.fault("write", &Stopped { completed: 0, error: None })),
            (Path::Thread, Input::Bytes(bytes)) => self.in_guarded_chunks(|chunk| {
                let mut copy = room::zeroed(chunk.len())?;
                bytes.copy_to(chunk.at(), &mut copy)?;
                chunk.write_on_thread(copy)
            }),
            (Path::File(..) | Path::Kernel, Input::Fill(byte)) => {
                let mut pattern = room::zeroed(self.len().min(GUARDED_CHUNK))?;
                pattern.fill(byte);
                self.in_guarded_chunks(|chunk| chunk.write_guarded(pattern.as_ptr()))
            }
            (Path::Thread, Input::Fill(byte)) => self.in_guarded_chunks(|chunk| {
                let mut copy = room::zeroed(chunk.len())?;
                copy.fill(byte);
                chunk.write_on_thread(copy)
            }),
        }
    }

    /// `from` has as many bytes as the section.
    fn write_guarded(&self, from: *const u8) -> Result<()> {
        // SAFETY: the caller's bytes, and the kernel checks the target, which is the guest's.
        let result = unsafe { kernel::write_guarded(self.host(), from, self.len()) };
        result.map_err(|stopped| self.fault("write", &stopped))
    }

    fn write_on_thread(&self, bytes: Vec<u8>) -> Result<()> {
        let lease = self.lease_of_thread("write")?;
        // SAFETY: the lease keeps the memory what it is for as long as the write goes on.
        let written = unsafe { abandoned_copy::write(self.host(), bytes, lease) };
        written.map_err(|stopped| self.fault("write", &stopped))
    }

    /// The lease of a copy on a thread of its own. A write that is given up may still be done, however late.
    fn lease_of_thread(&self, verb: &'static str) -> Result<Lease> {
        let writes = if verb == "write" { Writes::Unseen } else { Writes::Never };
        let lease = Lease::take(self.region, verb, self.range(), writes, true);
        lease.map_err(|_| self.fault(verb, &abandoned_copy::pending()))
    }

    /// Calls `copy` for parts of at most [`GUARDED_CHUNK`].
    fn in_guarded_chunks(&self, copy: impl FnMut(Self) -> Result<()>) -> Result<()> {
        self.chunks(u64_of(GUARDED_CHUNK)).try_for_each(copy).map_err(|error| error.of(self.size()))
    }

    /// The error of a copy that the kernel stopped.
    pub(super) fn fault(&self, verb: &str, stopped: &Stopped) -> Error {
        let (left, desc) = (self.skip(u64_of(stopped.completed)), self.region.desc());
        let file_offset = self.region.storage().in_file(left.part().base());
        let cause = left.cause(file_offset, stopped);
        Error::Fault {
            message: format!("{verb} of {desc} at {}: {cause}", hex(left.address())),
            address: left.address(),
            size: self.size(),
            region: Arc::clone(desc),
            completed: left.buffer.base(),
            cause,
            file_offset,
        }
    }

    /// Why the first byte could not be reached.
    fn cause(&self, position: Option<u64>, stopped: &Stopped) -> String {
        if let Some(damage) = self.region.storage().filling().and_then(|filling| filling.damage(self.part.base())) {
            return format!("its bytes could not be restored: {damage}");
        }
        let backing = self.region.storage().backing();
        let file = backing.file.as_ref().filter(|_| backing.is_regular);
        let length = file.and_then(|file| kernel::length(file).ok());
        match (length.zip(position), &stopped.error) {
            (Some((length, position)), _) if length <= position => {
                format!("the backing file was truncated to {} bytes", hex(length))
            }
            (_, Some(error)) if errno::of(error) == ETIMEDOUT => {
                "its userfaultfd handler does not answer, and the access was given up".into()
            }
            (_, Some(error)) if backing.reader.is_some() => error.to_string(),
            _ if backing.is_huge => "no huge page was free for it".into(),
            (_, Some(error)) if self.region.storage().dax_window().is_some() => {
                format!("the file that is mapped there was truncated, or its file system is full: {error}")
            }
            (_, Some(error)) => {
                format!(
                    "the memory can't be reached (file system full, page lost or not inherited by fork), or the caller's buffer (a file that was cut): {error}"
                )
            }
            (_, None) => "the backing file ended".into(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::memory::mapper::Mapper;
    use crate::model::interrupt::Uninterrupted;
    use crate::model::region::{Region, RegionType};
    use crate::model::region_map::RegionEntry;
    use crate::model::source::Source;

    /// A mapped region of one page.
    pub(in crate::memory) fn region(base: u64) -> MappedRegion {
        let range = Range::new(base, 0x1000).unwrap();
        let desc = Region::new(RegionType::DefaultMemory, range, Source::default()).unwrap();
        Mapper::new(&Uninterrupted, 0x1000).map(&RegionEntry::new(Arc::new(desc))).unwrap()
    }

    /// Each address with its place in the buffer.
    fn bytes(section: &Section<'_>) -> Vec<(u64, u64)> {
        let (range, buffer) = (section.range(), section.buffer());
        (range.base()..range.end()).zip(buffer.base()..buffer.end()).collect()
    }

    #[test]
    fn a_section_is_what_a_region_has_of_a_range() {
        let region = region(0x1000);
        for (base, end) in [(0xffa, 0x1004), (0x1ffc, 0x2004), (0x1100, 0x1104), (0xff8, 0x1000), (0x2000, 0x2004)] {
            let range = Range::between(base, end);
            let section = Section::new(&region, range, Range::between(100, 100 + range.size()));
            let expected: Vec<_> = (base..end).zip(100..).filter(|(at, _)| (0x1000..0x2000).contains(at)).collect();
            assert_eq!(bytes(&section), expected, "{range}");
        }
    }

    #[test]
    fn a_section_is_its_parts() {
        let region = region(0);
        let section = Section::new(&region, Range::between(0x10, 0x1a), Range::between(5, 15));
        let all = bytes(&section);
        for size in [0, 1, 3, 9, 10, 11, u64::MAX] {
            assert_eq!([bytes(&section.take(size)), bytes(&section.skip(size))].concat(), all, "{size}");
        }
        for size in [1, 3, 10, 11, u64::MAX] {
            let chunks: Vec<_> = section.chunks(size).collect();
            assert!(chunks.iter().all(|chunk| !chunk.is_empty() && chunk.size() <= size));
            assert_eq!(chunks.iter().flat_map(bytes).collect::<Vec<_>>(), all, "{size}");
        }
        assert_eq!(bytes(&section.behind(5)), bytes(&section.alone()));
        assert_eq!(section.skip(3).part(), Range::between(0x13, 0x1a));
    }
}
