//! The memory of dumps, for `dbs_address_space.formats`, which knows their headers.

use std::fs::File;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::convert::{self, Address, CInt, Size, U64};
use super::interrupt::detached;
use super::region::PyRegion;
use crate::dump::avml::Frames;
use crate::dump::kdump::PackedPages;
use crate::dump::piece::{self, Piece};
use crate::dump::reader::{Content, DumpReader};
use crate::dump::{elf, lime, pages};
use crate::model::error::{Errno, Error, Result};
use crate::model::int::usize_of;
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::region::{Region, RegionType};
use crate::model::room::{self, Room};
use crate::model::source::{Source, UserReader};
use crate::sys::file;

/// An address and a size.
type BaseSize = (u64, u64);

/// Pieces of guest memory in a file, by ascending address and joined where they go on; `InvalidArgument` where they contradict each other.
#[pyclass(frozen, weakref, name = "_Pieces", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PyPieces(Vec<Piece>);

#[pymethods]
impl PyPieces {
    /// Of tuples of base, size and offset, which is `None` for what the dump lacks, in a file of so many bytes.
    #[new]
    fn new(py: Python<'_>, pieces: &Bound<'_, PyAny>, file_size: U64, partial: bool) -> PyResult<Self> {
        let pieces = convert::items(pieces, "pieces", |piece| {
            let (base, size, at): (Address, Size, Option<U64>) = piece.extract()?;
            Ok(Piece { range: convert::range(base, size)?, at: at.map(|at| at.0) })
        })?;
        Self::of(py, |_| Ok(pieces), file_size, partial)
    }

    /// Of the program headers of an ELF64 core dump, each of so many bytes.
    #[staticmethod]
    fn of_elf(py: Python<'_>, table: &[u8], stride: Size, file_size: U64, partial: bool) -> PyResult<Self> {
        let stride = usize_of(stride.0);
        Self::of(py, |_| elf::pieces(table, stride), file_size, partial)
    }

    /// Of a dump of LiME of so many bytes.
    #[staticmethod]
    fn of_lime(py: Python<'_>, fd: CInt, file_size: U64, partial: bool) -> PyResult<Self> {
        let file = duplicate(fd)?;
        Self::of(py, |interrupt| lime::pieces(&file, file_size.0, partial, interrupt), file_size, partial)
    }

    /// Of the pages of so many bytes whose bits are set among the first `count`, from an offset on.
    #[staticmethod]
    fn of_bitmap(
        py: Python<'_>,
        bitmap: &[u8],
        count: U64,
        page_size: Size,
        offset: U64,
        file_size: U64,
        partial: bool,
    ) -> PyResult<Self> {
        let pieces = |interrupt: &dyn Interrupt| pages::of_bitmap(bitmap, count.0, page_size.0, offset.0, interrupt);
        Self::of(py, pieces, file_size, partial)
    }

    /// Of the pages of so many bytes whose numbers are in a table of rows of so many bytes, from an offset on.
    #[staticmethod]
    fn of_table(
        py: Python<'_>,
        table: &[u8],
        row: Size,
        page_size: Size,
        offset: U64,
        file_size: U64,
        partial: bool,
    ) -> PyResult<Self> {
        let row = usize_of(row.0);
        let pieces = |interrupt: &dyn Interrupt| pages::of_table(table, row, page_size.0, offset.0, interrupt);
        Self::of(py, pieces, file_size, partial)
    }

    /// Of the first `count` pages of so many bytes of a compressed kdump, by the bitmaps of those that there were and of those that it has.
    #[staticmethod]
    fn of_kdump(py: Python<'_>, there: &[u8], stored: &[u8], count: U64, page_size: Size) -> PyResult<Self> {
        let pieces = |interrupt: &dyn Interrupt| pages::of_kdump(there, stored, count.0, page_size.0, interrupt);
        Self::of(py, pieces, U64(u64::MAX), false)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// Each as its base, its size and its offset.
    fn all<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        convert::py_tuple(py, self.0.iter().map(|piece| (piece.range.base(), piece.range.size(), piece.at)))
    }

    /// The ranges that regions over a reader have, at most so many, and those that the dump lacks; with `zero` these are among the former.
    /// Where there are more, the smallest gaps are in regions, and no byte of them is there.
    fn regions(&self, most: Size, zero: bool) -> PyResult<(Vec<BaseSize>, Vec<BaseSize>)> {
        let (most, is_there) = (usize_of(most.0), |piece: &&Piece| zero || piece.at.is_some());
        let stored = piece::covered(self.0.iter().filter(is_there))?;
        let lacking = piece::covered(self.0.iter().filter(|piece| !is_there(piece)))?;
        let (stored, lacking) = match stored.len().saturating_add(lacking.len()) <= most {
            true => (stored, lacking),
            false => (piece::folded(&stored, most)?, Vec::new()),
        };
        Ok((pairs(&stored)?, pairs(&lacking)?))
    }

    /// The reader of the pieces in a file; with `zero` what the dump lacks is zeroes.
    fn reader(&self, fd: CInt, zero: bool) -> PyResult<PyDumpReader> {
        let pieces = self.there(zero)?;
        let covered = piece::covered(pieces.iter())?;
        PyDumpReader::of(fd, Content::Pieces(pieces), covered)
    }
}

impl PyPieces {
    /// The pieces of which a reader has bytes.
    fn there(&self, zero: bool) -> Result<Vec<Piece>> {
        room::collected(self.0.iter().filter(|piece| zero || piece.at.is_some()).copied())
    }

    fn of(
        py: Python<'_>,
        pieces: impl FnOnce(&dyn Interrupt) -> Result<Vec<Piece>> + Send,
        file_size: U64,
        partial: bool,
    ) -> PyResult<Self> {
        let work = |interrupt: &dyn Interrupt| {
            piece::joined(piece::checked(pieces(interrupt)?, file_size.0, partial)?).map(Self)
        };
        detached(py, None, work)
    }
}

/// The bytes of a dump, which are read from its file, and unpacked, when they are asked for.
#[pyclass(frozen, weakref, name = "_DumpReader", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PyDumpReader(Arc<DumpReader>);

impl PyDumpReader {
    fn of(fd: CInt, content: Content, covered: Vec<Range>) -> PyResult<Self> {
        Ok(Self(Arc::new(DumpReader::new(Arc::new(duplicate(fd)?), content, covered))))
    }
}

#[pymethods]
impl PyDumpReader {
    /// Of a compressed kdump: for blocks of so many bytes, those of a bitmap, and the place of the first descriptor.
    #[staticmethod]
    fn of_kdump(
        fd: CInt,
        pieces: &PyPieces,
        block: Size,
        stored: &[u8],
        descriptors_at: U64,
        zero: bool,
    ) -> PyResult<Self> {
        let pages = PackedPages::new(block.0, room::collected(stored.iter().copied())?, descriptors_at.0)?;
        Self::of(fd, Content::Pages(pages), piece::covered(pieces.there(zero)?.iter())?)
    }

    /// Of a dump of AVML of so many bytes, and its pieces.
    #[staticmethod]
    fn of_avml(py: Python<'_>, fd: CInt, file_size: U64, partial: bool) -> PyResult<(Self, PyPieces)> {
        let file = duplicate(fd)?;
        let found = detached(py, None, |interrupt| {
            let (frames, pieces) = Frames::find(&file, file_size.0, partial, interrupt)?;
            Ok((frames, PyPieces(piece::joined(pieces)?)))
        });
        let (frames, pieces) = found?;
        Ok((Self::of(fd, Content::Frames(frames), piece::covered(pieces.there(false)?.iter())?)?, pieces))
    }

    /// A region that has the bytes of its own addresses.
    #[pyo3(signature = (base, size))]
    fn region(&self, base: Address, size: Size) -> PyResult<PyRegion> {
        let range = convert::range(base, size)?;
        let reader = UserReader { reader: Arc::clone(&self.0) as Arc<_>, at: range.base() };
        let source = Source { reader: Some(reader), ..Source::default() };
        PyRegion::named(Region::new(RegionType::DefaultMemory, range, source)?, None)
    }

    /// Copies all that is there to the beginning of another file, one range behind the other, and gives the pieces of that file, with those
    /// of the dump that it lacks. With `partial` it also lacks pages that can't be unpacked; else they are `InvalidArgument`.
    fn copy_to(&self, py: Python<'_>, fd: CInt, pieces: &PyPieces, partial: bool, zero: bool) -> PyResult<PyPieces> {
        let to = duplicate(fd)?;
        let lacking = pieces.0.iter().filter(|piece| !zero && piece.at.is_none());
        let copied = detached(py, None, |interrupt| {
            let mut copied = self.0.copy_to(&to, partial, interrupt)?;
            copied.add_all(lacking.copied())?;
            piece::joined(copied)
        });
        Ok(PyPieces(copied?))
    }
}

#[pymethods]
impl PyRegion {
    /// The base and size of each range whose bytes a dump has, of which a region shows many; `None` of any other memory.
    fn _runs(&self) -> PyResult<Option<Vec<BaseSize>>> {
        let region = &self.0;
        let Some(UserReader { reader, at }) = &region.source.reader else { return Ok(None) };
        let mut left = Range::at(*at, region.size());
        let runs = std::iter::from_fn(|| {
            let run = reader.first_run(left);
            left = Range::between(run.end(), left.end());
            let base = region.base().saturating_add(run.base().abs_diff(*at));
            (!run.is_empty()).then_some((base, run.size()))
        });
        Ok(Some(room::collected(runs)?))
    }
}

/// A descriptor of ours for a file.
pub(super) fn duplicate(fd: CInt) -> Result<File> {
    file::duplicate(fd.0).map_err(|error| Error::Backing {
        message: format!("file descriptor {} can't be duplicated: {error}", fd.0),
        errno: Errno::from(&error),
        region: None,
    })
}

fn pairs(ranges: &[Range]) -> Result<Vec<BaseSize>> {
    room::collected(ranges.iter().map(|range| (range.base(), range.size())))
}
