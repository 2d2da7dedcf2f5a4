//! Many ranges in one call.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use super::PyMemory;
use crate::memory::access::{self, Verb};
use crate::memory::buffer::{BLOCK, Bytes, Input, Output};
use crate::memory::fast_path::DirectBytes;
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::protection::Need;
use crate::memory::section::Section;
use crate::model::error::Result;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Interrupt;
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::model::room::{self, Room};
use crate::python::argument::{Argument, wanted};
use crate::python::buffer;
use crate::python::calls::python_call;
use crate::python::convert::{self, Address, Size};

const INTEGER: usize = size_of::<u64>();

/// More ranges than that take long, however short they are.
const MANY: usize = 1 << 16;

const READV: Verb = Verb::new("readv", Need::Read);
const READV_INTO: Verb = Verb::new("readv_into", Need::Read);
const WRITEV: Verb = Verb::new("writev", Need::Write);

type Pair = (Address, Size);

/// Pairs `(addr, size)` from any sequence, or from a buffer of u64 pairs such as an array of shape `(n, 2)`.
fn pairs(object: &Bound<'_, PyAny>) -> PyResult<Vec<Pair>> {
    let _guard = python_call();
    // A list by its items, without an iterator: the usual case of a hot path.
    if let Ok(list) = object.cast_exact::<PyList>() {
        return convert::collected(object.py(), list.iter().map(|pair| range(&pair))).argument("ranges");
    }
    if !buffer::is_buffer(object) {
        return convert::items(object, "pairs (addr, size)", |pair| range(&pair)).argument("ranges");
    }
    buffer::with_integers(object, "ranges", |integers| {
        if !integers.size().is_multiple_of(2 * INTEGER) {
            let message = "a buffer of ranges needs pairs of an address and a size, of 8 bytes each";
            return Err(Invalid::number(message).into());
        }
        let (mut pairs, mut block) = (Vec::new(), [0; BLOCK]);
        for at in (0..integers.size()).step_by(size_of_val(&block)) {
            let (block, _) = integers.integers(at, &mut block)?.as_chunks();
            pairs.add_all(block.iter().map(|[addr, size]| (Address(*addr), Size(*size))))?;
        }
        Ok(pairs)
    })
}

fn range(pair: &Bound<'_, PyAny>) -> PyResult<Pair> {
    match pair.cast_exact::<PyTuple>() {
        Ok(tuple) if tuple.len() == 2 => {
            Ok((tuple.get_borrowed_item(0)?.extract()?, tuple.get_borrowed_item(1)?.extract()?))
        }
        _ => convert::pair(pair),
    }
}

fn data_at<'py>(pair: &Bound<'py, PyAny>) -> PyResult<(Address, Bound<'py, PyAny>)> {
    match pair.cast::<PyTuple>() {
        Ok(tuple) if tuple.len() == 2 => Ok((tuple.get_borrowed_item(0)?.extract()?, tuple.get_item(1)?)),
        _ => Err(wanted("a pair of an address and bytes, such as (0x1000, b\"x\"),", pair)),
    }
}

/// The sum of all sizes.
fn total(pairs: &[Pair]) -> PyResult<u64> {
    let sum = pairs.iter().try_fold(0u64, |sum, (_, size)| sum.checked_add(size.0));
    sum.ok_or_else(|| Invalid::number("the ranges have more than 2^64 bytes together").into())
}

fn checked(pairs: &[Pair]) -> PyResult<Vec<Range>> {
    let mut ranges = Vec::new();
    pairs.iter().try_for_each(|(addr, size)| Ok(ranges.add(convert::range(*addr, *size)?)?)).map(|()| ranges)
}

const fn long_if_many(verb: Verb, pairs: &[Pair]) -> Verb {
    if pairs.len() > MANY { verb.slow() } else { verb }
}

/// The place of each pair's bytes in a buffer that has them one after the other.
fn places(pairs: &[Pair]) -> impl Iterator<Item = Range> {
    let mut left = Range::between(0, u64::MAX);
    pairs.iter().map(move |(_, size)| {
        let place = left.take(size.0);
        left = left.skip(size.0);
        place
    })
}

/// All ranges, when each of them can be copied directly: they are found before the first is copied, so that a refusal changes nothing.
fn sources<'a>(memory: &'a MappedRegions, pairs: &[Pair]) -> Option<Vec<DirectBytes<'a>>> {
    let mut sources = room::unwritten(pairs.len()).ok()?;
    pairs.iter().try_for_each(|(addr, size)| sources.add(memory.direct_bytes(addr.0, usize_of(size.0))?).ok())?;
    Some(sources)
}

impl PyMemory {
    /// Makes direct copies of some ranges, unless they are many or long together.
    fn direct_all<T>(&self, pairs: &[Pair], copy: impl FnOnce(&MappedRegions) -> Option<T>) -> PyResult<Option<T>> {
        let size = total(pairs)?;
        if pairs.len() > MANY { Ok(None) } else { self.direct(size, copy) }
    }

    /// The bytes of all ranges from one snapshot, when each of them is one direct copy.
    fn readv_direct<'py>(&self, py: Python<'py>, pairs: &[Pair]) -> PyResult<Option<Bound<'py, PyList>>> {
        let bytes = |source: DirectBytes<'_>| {
            buffer::new_bytes(py, u64_of(source.size()), |output| {
                source.copy_to(output, 0);
                Ok(())
            })
        };
        let read = self.direct_all(pairs, |memory| {
            let sources = sources(memory, pairs)?;
            // No more than MANY.
            Some(sources.into_iter().map(bytes).collect::<PyResult<Vec<_>>>())
        });
        // No list is made under the snapshot: that may collect garbage, which runs Python code.
        read?.map(|bytes| PyList::new(py, bytes?)).transpose()
    }

    fn readv_one<'py>(&self, py: Python<'py>, (addr, size): Pair) -> PyResult<Bound<'py, PyBytes>> {
        match self.bytes_direct(py, addr, size)? {
            Some(bytes) => Ok(bytes),
            None => self.bytes_of(py, READV, convert::range(addr, size)?, None),
        }
    }

    /// Reads all ranges on one snapshot, when each of them is one direct copy; else does nothing.
    fn readv_into_direct(&self, pairs: &[Pair], output: &Output<'_>) -> PyResult<Option<()>> {
        self.direct_all(pairs, |memory| {
            let mut at = 0usize;
            let mut copied = sources(memory, pairs)?.into_iter().map(|source| {
                let place = at;
                at = at.saturating_add(source.size());
                source.copy_to(output, place)
            });
            copied.all(|is_copied| is_copied).then_some(())
        })
    }

    /// Writes all ranges on one snapshot, when each of them is one direct copy; else does nothing.
    fn writev_direct(&self, pairs: &[Pair], data: &[Bytes<'_>]) -> PyResult<Option<()>> {
        self.direct_all(pairs, |memory| {
            let is_direct = |(addr, size): &Pair| memory.takes(addr.0, usize_of(size.0));
            let mut both = pairs.iter().zip(data);
            // All are looked at before the first is written: the long way must find nothing written yet.
            let is_written =
                pairs.iter().all(is_direct) && both.all(|((addr, _), bytes)| memory.write_direct(addr.0, *bytes));
            is_written.then_some(())
        })
    }
}

#[pymethods]
impl PyMemory {
    /// The bytes of many ranges: a list, in their order.
    ///
    /// `ranges` are pairs `(addr, size)`, or a buffer of pairs of u64 such as an array of shape `(n, 2)`. Raises as `read` does.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.map_memory().readv([(0, 2), (0x100, 1)])
    /// [b'\x00\x00', b'\x00']
    fn readv<'py>(&self, py: Python<'py>, ranges: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let _guard = python_call();
        let pairs = pairs(ranges)?;
        if let Some(bytes) = self.readv_direct(py, &pairs)? {
            return Ok(bytes);
        }
        PyList::new(py, convert::collected(py, pairs.into_iter().map(|pair| self.readv_one(py, pair)))?)
    }

    /// Reads many ranges into one writable, contiguous buffer, one after the other; returns how many bytes that are.
    ///
    /// `ranges` as for `readv`. A buffer that is too short is `InvalidAddressRange`. Raises as `read_into` does; only a `MemoryFault`
    /// stops it midway.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.map_memory().readv_into([(0, 2), (0x100, 1)], bytearray(3))
    /// 3
    fn readv_into(&self, py: Python<'_>, ranges: &Bound<'_, PyAny>, buffer: &Bound<'_, PyAny>) -> PyResult<usize> {
        let pairs = pairs(ranges)?;
        let size = usize_of(total(&pairs)?);
        buffer::with_output(buffer, "buffer", |output| {
            if output.size() < size {
                return Err(too_short(output.size(), size));
            }
            if self.readv_into_direct(&pairs, output)?.is_none() {
                let side = (long_if_many(READV_INTO, &pairs), &checked(&pairs)?[..]);
                self.run(py, [side], None, |[sections], interrupt| access::read(sections, output, interrupt))?;
            }
            Ok(size)
        })
    }

    /// Writes many pieces of data: pairs `(addr, data)`, in their order.
    ///
    /// Nothing is written before all of them are found possible. Raises as `write` does; only a `MemoryFault` stops it midway.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.writev([(0, b"ab"), (0x100, b"c")])
    /// >>> memory.readv([(0, 2), (0x100, 1)])
    /// [b'ab', b'c']
    fn writev(&self, py: Python<'_>, pairs: &Bound<'_, PyAny>) -> PyResult<()> {
        let _guard = python_call();
        let given = convert::items(pairs, "pairs (addr, data)", |pair| data_at(&pair)).argument("pairs")?;
        // All buffers are held before the first byte is written: one that can't be had must change nothing.
        let buffers = buffer::PyBuffers::of(given.iter().map(|(_, data)| data)).argument("pairs")?;
        let data = room::collected(buffers.bytes())?;
        let sizes = data.iter().map(|bytes| Size::of(bytes.size()));
        let pairs = room::collected(given.iter().map(|(addr, _)| *addr).zip(sizes))?;
        if self.writev_direct(&pairs, &data)?.is_some() {
            return Ok(());
        }
        let side = (long_if_many(WRITEV, &pairs), &checked(&pairs)?[..]);
        self.run(py, [side], None, |[sections], interrupt| write_each(sections, &pairs, &data, interrupt))
    }
}

fn too_short(there: usize, needed: usize) -> PyErr {
    let hex = |size: usize| crate::model::format::hex(Size::of(size).0);
    Invalid::number(format!("the buffer has {} bytes, the ranges have {}", hex(there), hex(needed))).into()
}

/// Writes each piece of data to the sections that it lies in; the sections count their places through all data.
fn write_each(sections: &[Section<'_>], pairs: &[Pair], data: &[Bytes<'_>], interrupt: &dyn Interrupt) -> Result<()> {
    let mut sections = sections;
    for (bytes, place) in data.iter().zip(places(pairs)) {
        let (mine, rest) = sections.split_at(sections.partition_point(|section| section.buffer().base() < place.end()));
        let mine = room::collected(mine.iter().map(|section| section.behind(place.base())))?;
        access::write(&mine, Input::Bytes(*bytes), false, interrupt).map_err(|error| error.after(place.base()))?;
        interrupt.check()?;
        sections = rest;
    }
    Ok(())
}
