//! One file of an image: what is read of it at once, and its pages.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::chunk::{self, Chunk, PAGE};
use super::header::{self, Flaw, Header};
use crate::memory::lazy::Haste;
use crate::model::bytes::is_zero;
use crate::model::error::{Error, ImageFault, Result};
use crate::model::format::hex;
use crate::model::int::usize_of;
use crate::model::range::Range;
use crate::model::room;
use crate::sys::errno;
use crate::sys::file::{self, FileKind};

/// An open file of an image, whose header, JSON and table were found whole.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    file: File,
    header: Header,
    json: Vec<u8>,
    chunks: Vec<Chunk>,
}

/// The error of a system call on a file of the caller's.
pub fn failed(path: &Path, error: &io::Error) -> Error {
    Error::File { message: error.to_string(), errno: errno::of(error), path: path.into() }
}

/// The error of an image.
pub fn fault(path: &Path, fault: ImageFault, message: impl Into<String>, chunk: Option<u64>) -> Error {
    Error::Image { fault, message: message.into(), path: path.into(), chunk }
}

impl Part {
    /// Opens a file and checks everything but the bytes of memory and the blobs.
    pub fn open(path: &Path) -> Result<Self> {
        let file = file::open_to_read(path).map_err(|error| failed(path, &error))?;
        let corrupt = |why: String| fault(path, ImageFault::Corrupt, why, None);
        let size = match file::kind(&file).map_err(|error| failed(path, &error))? {
            FileKind::Regular(size) => size,
            _ => return Err(corrupt("it is not an image, nor a file at all".into())),
        };
        let mut bytes = [0; header::SIZE];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(corrupt(format!("it has {} bytes, which is not even a header", hex(size))));
            }
            read => read.map_err(|error| failed(path, &error))?,
        }
        let header = Header::parse(&bytes, size).map_err(|flaw| match flaw {
            Flaw::Corrupt(why) => corrupt(why),
            Flaw::TooNew(why) => fault(path, ImageFault::TooNew, why, None),
        })?;
        let part = Self { path: path.into(), file, header, json: Vec::new(), chunks: Vec::new() };
        part.with_tables(&bytes)
    }

    fn with_tables(self, header: &[u8; header::SIZE]) -> Result<Self> {
        let (json, table) = (self.section(self.header.json)?, self.section(self.header.table)?);
        if header::root_of(header, &json, &table) != self.header.root {
            return Err(self.fault(ImageFault::Corrupt, "its header, JSON or table is not what was written", None));
        }
        let (data, json_range, blobs) = (self.header.data, self.header.json, self.header.blobs);
        for (section, next) in
            [(data, json_range.base()), (json_range, blobs.base()), (blobs, self.header.table.base())]
        {
            if !is_zero(&self.section(Range::between(section.end(), next))?) {
                return Err(self.fault(ImageFault::Corrupt, "there is something between its sections", None));
            }
        }
        let chunks = chunk::parse(&table, self.header.chunks(), self.header.parent.is_some())?;
        let unordered = "its table has chunks that do not ascend, or that can't be";
        let chunks = chunks.ok_or_else(|| self.fault(ImageFault::Corrupt, unordered, None))?;
        Ok(Self { json, chunks, ..self })
    }

    /// The file's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The description.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The chunks that it says something of.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The entry of a chunk.
    pub fn find(&self, number: u64) -> Option<&Chunk> {
        let index = self.chunks.binary_search_by_key(&number, |chunk| chunk.number).ok()?;
        self.chunks.get(index)
    }

    /// Reads pages of a chunk into a buffer that has room for all of it; `false` when it would have to wait.
    pub fn read_pages(&self, number: u64, pages: u16, buffer: &mut [u8], haste: Haste) -> Result<bool> {
        let start = self.header.data.skip(number.saturating_mul(chunk::CHUNK)).base();
        for (at, size) in chunk::runs(pages) {
            let place = usize_of(at)..usize_of(at.saturating_add(size));
            let Some(bytes) = buffer.get_mut(place) else { continue };
            let position = start.saturating_add(at);
            if haste == Haste::Waits {
                self.read_at(bytes, position, Some(number))?;
            } else if !file::read_at_once(&self.file, bytes, position) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The bytes of a section, or of part of one, which lies in the file.
    pub fn section(&self, range: Range) -> Result<Vec<u8>> {
        let mut bytes = room::zeroed(usize_of(range.size()))?;
        self.read_at(&mut bytes, range.base(), None)?;
        Ok(bytes)
    }

    fn read_at(&self, bytes: &mut [u8], position: u64, chunk: Option<u64>) -> Result<()> {
        self.file.read_exact_at(bytes, position).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => {
                self.fault(ImageFault::Corrupt, format!("the file was cut before {}", hex(position)), chunk)
            }
            _ => failed(&self.path, &error),
        })
    }

    /// Whether all bytes of a run of the file that belong to none of its pages are zero.
    pub fn is_clean(&self, run: Range) -> Result<bool> {
        let mut left = run;
        while !left.is_empty() {
            let part = left.take(PAGE.saturating_sub(left.base() % PAGE));
            if !self.has_page(part.base()) && !is_zero(&self.section(part)?) {
                return Ok(false);
            }
            left = left.skip(part.size());
        }
        Ok(true)
    }

    fn has_page(&self, position: u64) -> bool {
        let Some(offset) = self.header.data.offset_of(position) else { return false };
        let chunk = self.find(offset / chunk::CHUNK);
        chunk.is_some_and(|chunk| chunk.pages & chunk::pages_of(offset % chunk::CHUNK, 1) != 0)
    }

    /// An error of it.
    pub fn fault(&self, kind: ImageFault, message: impl Into<String>, chunk: Option<u64>) -> Error {
        fault(&self.path, kind, message, chunk)
    }
}
