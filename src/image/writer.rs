//! Writing an image: under another name until it is whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::chain::Image;
use super::chunk::{self, Buffer, CHUNK, Chunk, Digest, Named};
use super::header::{self, AREA, Header};
use super::part::{failed, fault};
use crate::model::error::{Error, ImageFault, Result};
use crate::model::int::usize_of;
use crate::model::range::Range;
use crate::model::room::{self, Room};
use crate::sys::file::{self, FileKind};
use crate::sys::new_file::NewFile;

/// All that an image has beside the bytes of memory.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// The JSON.
    pub json: Vec<u8>,
    /// The blobs, one behind the other.
    pub blobs: Vec<u8>,
    /// The bytes that the data has room for.
    pub data_size: u64,
    /// The generation of the map.
    pub generation: u64,
    /// Whether writes would have been noticed.
    pub is_watched: bool,
}

/// An image in the making; dropped before it is finished, nothing is left of it.
#[derive(Debug)]
pub struct Writer<'a> {
    file: NewFile,
    parent: Option<&'a Image>,
    chunks: Vec<Chunk>,
}

/// A chunk that was stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    chunk: Chunk,
    /// Whether it is other than the parent's.
    is_different: bool,
}

impl Stored {
    /// A chunk of zeroes, where the parent has none.
    pub fn zeroes(number: u64) -> Self {
        Self { chunk: Chunk { number, ..Chunk::default() }, is_different: true }
    }

    /// Its place in the data, in chunks.
    pub const fn number(&self) -> u64 {
        self.chunk.number
    }
}

impl<'a> Writer<'a> {
    /// Begins an image that is to have a name, as a difference from a parent if there is one.
    ///
    /// `in_use` are the files that are mapped, by device and inode.
    pub fn create(target: &Path, parent: Option<&'a Image>, in_use: &[(u64, u64)]) -> Result<Self> {
        // A link stays, and what it leads to is replaced.
        let target = target.canonicalize().unwrap_or_else(|_| target.to_path_buf());
        if let Ok(there) = file::open_to_read(&target) {
            check_target(&target, &there, parent, in_use)?;
        }
        let file = NewFile::create(&target, file::PRIVATE).map_err(|error| failed(&target, &error))?;
        Ok(Self { file, parent, chunks: Vec::new() })
    }

    /// Stores what a chunk has now; a second time, instead of what it had. `fed` are the pages that need storing where there is no parent.
    ///
    /// Other threads may store other chunks meanwhile. What is stored counts once it is [noted](Self::note).
    pub fn store(&self, number: u64, bytes: &[u8], fed: u16, old: &mut Buffer) -> Result<Stored> {
        let (digest, before) =
            (chunk::digest_of(bytes), self.parent.map_or(Digest::default(), |parent| parent.digest(number)));
        let there = self.find(number).ok().and_then(|index| self.chunks.get(index)).map_or(0, |chunk| chunk.pages);
        let is_stored = digest != before && digest != Digest::default();
        let pages = if is_stored { self.changed_pages(number, bytes, fed, old)? } else { 0 };
        // A page that is no longer stored must not be found in the file by who maps it.
        self.write_pages(number, there & !pages, None)?;
        self.write_pages(number, pages, Some(bytes))?;
        Ok(Stored { chunk: Chunk { number, pages, digest }, is_different: digest != before })
    }

    /// The pages that differ from the parent's; without one, those that need storing.
    fn changed_pages(&self, number: u64, bytes: &[u8], fed: u16, old: &mut Buffer) -> Result<u16> {
        let Some(parent) = self.parent else { return Ok(fed) };
        parent.read(number, old)?;
        Ok(chunk::pages_where(|at| chunk::page(bytes, at) != chunk::page(old, at)))
    }

    fn find(&self, number: u64) -> Result<usize, usize> {
        self.chunks.binary_search_by_key(&number, |chunk| chunk.number)
    }

    /// Enters chunks in the table; those that are as the parent's are not.
    pub fn note(&mut self, stored: Vec<Stored>) -> Result<()> {
        stored.into_iter().try_for_each(|Stored { chunk, is_different }| match self.find(chunk.number) {
            Ok(index) if is_different => {
                self.chunks.get_mut(index).into_iter().for_each(|old| *old = chunk);
                Ok(())
            }
            Ok(index) => {
                self.chunks.remove(index);
                Ok(())
            }
            Err(_) if !is_different => Ok(()),
            Err(index) => {
                self.chunks.add(chunk)?;
                self.chunks.get_mut(index..).into_iter().for_each(|rest| rest.rotate_right(1));
                Ok(())
            }
        })
    }

    fn write_pages(&self, number: u64, pages: u16, bytes: Option<&[u8]>) -> Result<()> {
        static ZEROES: [u8; usize_of(CHUNK)] = [0; usize_of(CHUNK)];
        let start = Range::at(AREA, u64::MAX).skip(number.saturating_mul(CHUNK)).base();
        for (at, size) in chunk::runs(pages) {
            let part = bytes.unwrap_or(&ZEROES).get(usize_of(at)..usize_of(at.saturating_add(size)));
            self.write_at(part.unwrap_or_default(), start.saturating_add(at))?;
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> Result<()> {
        self.file.file().write_all_at(bytes, position).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Error {
        failed(self.file.target(), error)
    }

    /// The digest of what memory is with the chunks that were put.
    pub fn content(&self) -> Result<Digest> {
        let old: &[Named] = self.parent.map_or(&[], Image::chunks);
        Ok(chunk::content_of(&chunk::merged(old, &self.chunks)?))
    }

    /// Adds the description and the tables, and gives the file its name; the digest of the root.
    ///
    /// With `is_synced`, all of it is on the disk before the name is, and the name before this returns.
    pub fn finish(self, description: &Description, is_synced: bool) -> Result<Digest> {
        let content = self.content()?;
        let mut table = room::unwritten(self.chunks.len().saturating_mul(usize_of(Chunk::SIZE)))?;
        self.chunks.iter().try_for_each(|chunk| table.add_all(chunk.encode()))?;
        let header = self.header(description, &table, content);
        let sections = [(header.json, &description.json), (header.blobs, &description.blobs), (header.table, &table)];
        // Also where a section is empty: the file has its length.
        self.file.file().set_len(header.file_size()).map_err(|error| self.failed(&error))?;
        sections.iter().try_for_each(|(section, bytes)| self.write_at(bytes, section.base()))?;
        let sync = || if is_synced { self.file.file().sync_all() } else { Ok(()) };
        sync().map_err(|error| self.failed(&error))?;
        // Last, and behind all else on the disk: a file without a header is not an image.
        self.write_at(&header.encode(), 0)?;
        sync().map_err(|error| self.failed(&error))?;
        let target = self.file.target().to_path_buf();
        let published =
            self.file.publish().and_then(|()| if is_synced { file::sync_directory_of(&target) } else { Ok(()) });
        published.map_err(|error| failed(&target, &error))?;
        Ok(header.root)
    }

    fn header(&self, description: &Description, table: &[u8], content: Digest) -> Header {
        let data = Range::at(AREA, description.data_size.next_multiple_of(AREA));
        let json = header::behind(data, header::length(&description.json));
        let blobs = header::behind(json, header::length(&description.blobs));
        let header = Header {
            machine: header::MACHINE,
            data,
            json,
            blobs,
            table: header::behind(blobs, header::length(table)),
            generation: description.generation,
            is_watched: description.is_watched,
            parent: self.parent.map(|parent| parent.newest().header().root),
            content,
            root: Digest::default(),
        };
        Header { root: header::root_of(&header.encode(), &description.json, table), ..header }
    }
}

/// Refuses what must not be replaced.
fn check_target(target: &Path, there: &File, parent: Option<&Image>, in_use: &[(u64, u64)]) -> Result<()> {
    if !matches!(file::kind(there), Ok(FileKind::Regular(_))) {
        return Err(fault(
            target,
            ImageFault::Refused,
            "there is something that is not a file, and would be replaced",
            None,
        ));
    }
    let identity = |file: &File| file::identity(file).map_err(|error| failed(target, &error));
    let here = identity(there)?;
    for part in parent.iter().flat_map(|parent| parent.parts()) {
        if identity(part.file())? == here {
            let message = "it is the parent, or a parent of it, which would be lost: save under another name";
            return Err(fault(target, ImageFault::Refused, message, None));
        }
    }
    if in_use.contains(&here) {
        let message = "it is in use, by memory that is mapped from it or as a part of the chain: choose another name";
        return Err(fault(target, ImageFault::Refused, message, None));
    }
    Ok(())
}
