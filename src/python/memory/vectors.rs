//! Many ranges or addresses in one call.

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyMemoryView, PyTuple};

use super::{LONG, PyMemory, Verb, under_leases, whole};
use crate::memory::access::{self, LeasedSections};
use crate::memory::buffer::{Bytes, Input, Output};
use crate::memory::mapped_regions::{MappedRegions, Need, Source};
use crate::memory::section::Section;
use crate::memory::translate::Translator;
use crate::model::error::Result;
use crate::model::int::usize_of;
use crate::model::invalid::Invalid;
use crate::python::buffer;
use crate::python::convert::{self, Address, Size};

const INTEGER: usize = size_of::<u64>();

/// Pairs `(addr, size)` from any sequence, or from a buffer of u64 pairs such as an array of shape `(n, 2)`.
fn ranges(object: &Bound<'_, PyAny>) -> PyResult<Vec<(Address, Size)>> {
    if let Ok(list) = object.cast_exact::<PyList>() {
        return list.iter().map(|pair| range(&pair)).collect();
    }
    if !buffer::is_buffer(object) {
        return object.try_iter()?.map(|pair| range(&pair?)).collect();
    }
    buffer::with_integers(object, |integers| {
        if !integers.size().is_multiple_of(2 * INTEGER) {
            let message = "a buffer of ranges needs pairs of an address and a size, of 8 bytes each";
            return Err(Invalid::number(message).into());
        }
        let integer = |at: usize| integers.integer(at);
        let pairs = (0..integers.size()).step_by(2 * INTEGER);
        Ok(pairs
            .map(|at| Ok((Address(integer(at)?), Size(integer(at.saturating_add(INTEGER))?))))
            .collect::<Result<_>>()?)
    })
}

fn range(pair: &Bound<'_, PyAny>) -> PyResult<(Address, Size)> {
    match pair.cast_exact::<PyTuple>() {
        Ok(tuple) if tuple.len() == 2 => {
            Ok((tuple.get_borrowed_item(0)?.extract()?, tuple.get_borrowed_item(1)?.extract()?))
        }
        _ => pair.extract(),
    }
}

/// The sum of sizes that all lie in memory.
fn total(ranges: &[(Address, Size)]) -> PyResult<usize> {
    let sum = ranges.iter().try_fold(0u64, |sum, (_, size)| sum.checked_add(size.0));
    sum.map(usize_of).ok_or_else(|| Invalid::number("the ranges have more than 2^64 bytes together").into())
}

impl PyMemory {
    fn read_range<'py>(&self, py: Python<'py>, addr: Address, size: Size) -> PyResult<Bound<'py, PyBytes>> {
        if let Some(bytes) = self.read_direct(py, addr, size)? {
            return Ok(bytes);
        }
        let plan = self.plan(py, ("readv", Need::Read), convert::range(addr, size)?)?;
        buffer::new_bytes(py, size.0, |output| plan.run(py, None, |sections, _| access::read(sections, output)))
    }

    /// Reads all ranges on one snapshot, when each of them is one direct copy.
    fn read_all_direct<'py>(
        &self,
        py: Python<'py>,
        ranges: &[(Address, Size)],
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        if total(ranges)? >= usize_of(LONG) {
            return Ok(None);
        }
        let snapshot = self.space.load();
        let Ok(memory) = snapshot.memory_of(self.incarnation) else { return Ok(None) };
        // No list is made under the snapshot: that may collect garbage, which runs Python code.
        let sources = ranges.iter().map(|(addr, size)| memory.source(addr.0, usize_of(size.0)));
        let Some(sources) = sources.collect::<Option<Vec<_>>>() else { return Ok(None) };
        let bytes = |source: Source<'_>| {
            buffer::new_bytes(py, source.size(), |output| {
                source.copy_to(output);
                Ok(())
            })
        };
        let bytes = sources.into_iter().map(bytes).collect::<PyResult<Vec<_>>>();
        drop(snapshot);
        PyList::new(py, bytes?).map(Some)
    }

    /// Ranges that lie one after the other in a buffer, leased: nothing is done before all of them are possible.
    fn lease_all(&self, py: Python<'_>, verb: Verb, ranges: &[(Address, Size)]) -> PyResult<LeasedSections> {
        let mut all = LeasedSections::default();
        let mut at = 0usize;
        for (addr, size) in ranges {
            let range = convert::range(*addr, *size)?;
            if !range.is_empty() {
                all.add(self.lease(py, verb, range, whole)?, at);
            }
            at = at.saturating_add(usize_of(size.0));
        }
        Ok(all)
    }
}

/// Two results of an operation on many addresses.
fn pair<'py>(
    py: Python<'py>,
    like: &Bound<'py, PyAny>,
    size: usize,
    formats: [&str; 2],
    fill: impl FnOnce(&Output<'_>, &Output<'_>) -> PyResult<()>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let [one, two] = [buffer::new_bytearray(py, size)?, buffer::new_bytearray(py, size)?];
    buffer::with_output(&one, |first| buffer::with_output(&two, |second| fill(first, second)))?;
    Ok((integers(like, one, formats[0])?, integers(like, two, formats[1])?))
}

/// A bytearray as an array of NumPy where the addresses came in one, else as a memoryview of integers.
fn integers<'py>(
    like: &Bound<'py, PyAny>,
    bytes: Bound<'py, PyByteArray>,
    format: &str,
) -> PyResult<Bound<'py, PyAny>> {
    if like.hasattr("__array_interface__")? {
        let shape = like.getattr("shape")?;
        let flat = like.py().import("numpy")?.call_method1("frombuffer", (bytes, format!("<{}8", kind(format))))?;
        return flat.call_method1("reshape", (shape,));
    }
    PyMemoryView::from(&bytes)?.call_method1("cast", (format,))
}

/// NumPy's letter for a format of the `struct` module.
fn kind(format: &str) -> &'static str {
    if format == "q" { "i" } else { "u" }
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
        let ranges = self::ranges(ranges)?;
        if let Some(bytes) = self.read_all_direct(py, &ranges)? {
            return Ok(bytes);
        }
        let bytes = ranges.into_iter().map(|(addr, size)| self.read_range(py, addr, size));
        PyList::new(py, bytes.collect::<PyResult<Vec<_>>>()?)
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
        let ranges = self::ranges(ranges)?;
        let size = total(&ranges)?;
        buffer::with_output(buffer, |output| {
            if output.size() < size {
                return Err(too_short(output.size(), size));
            }
            if !self.read_all_into(&ranges, size, output)? {
                let leased = self.lease_all(py, ("readv_into", Need::Read), &ranges)?;
                under_leases(py, leased, Size::of(size), None, |sections, _| access::read(sections, output))?;
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
        let pairs: Vec<(Address, Bound<'_, PyAny>)> =
            pairs.try_iter()?.map(|pair| pair?.extract()).collect::<PyResult<_>>()?;
        let buffers = pairs.iter().map(|(_, data)| buffer::PyBuffer::of(data)).collect::<PyResult<Vec<_>>>()?;
        let data: Vec<_> = buffers.iter().map(buffer::PyBuffer::bytes).collect();
        let ranges: Vec<_> =
            pairs.iter().zip(&data).map(|((addr, _), bytes)| (*addr, Size::of(bytes.size()))).collect();
        let size = total(&ranges)?;
        if self.write_all_direct(&ranges, size, &data)? {
            return Ok(());
        }
        let leased = self.lease_all(py, ("writev", Need::Write), &ranges)?;
        under_leases(py, leased, Size::of(size), None, |sections, _| write_each(sections, &data))
    }

    /// The host address and the index in `regions` of each guest physical address.
    ///
    /// `addresses` is an array of NumPy or another buffer of u64; the results are arrays of `u64` and `i64` of its shape, or else
    /// memoryviews. With `missing="mark"` addresses without memory get host 0 and index -1, with `"raise"` they are
    /// `UnmappedAddress`. The host addresses are valid for as long as their regions are there: nothing holds them. `TypeError` for
    /// other items than u64, `NotMapped`.
    ///
    /// >>> from array import array
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> hosts, indexes = space.map_memory().translate(array("Q", [0x10, 0x5000]), missing="mark")
    /// >>> hosts.tolist() == [space.memory.host_address(0x10), 0], indexes.tolist()
    /// (True, [0, -1])
    #[pyo3(signature = (addresses, *, missing="raise"))]
    fn translate<'py>(
        &self,
        py: Python<'py>,
        addresses: &Bound<'py, PyAny>,
        missing: &str,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let must_exist = match missing {
            "raise" => true,
            "mark" => false,
            _ => return Err(Invalid::argument(format!("missing={missing:?} is neither \"raise\" nor \"mark\"")).into()),
        };
        let translator = self.with_memory(|_, memory| Ok(Translator::new(memory)))?;
        buffer::with_integers(addresses, |integers| {
            pair(py, addresses, integers.size(), ["Q", "q"], |hosts, indexes| {
                let work = || translator.translate(integers, hosts, indexes, must_exist);
                let missing = if integers.size() < LONG_LIST { work() } else { py.detach(work) }?;
                match missing.filter(|_| must_exist) {
                    Some(address) => Err(self.refusal(("translate", Need::Any), address)),
                    None => Ok(()),
                }
            })
        })
    }

    /// The little-endian u64 at each address, which may be unaligned and cross from one region into the next.
    ///
    /// `addresses` and results as for `translate`. Raises as `read_u64` does.
    ///
    /// >>> from array import array
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.write_u64(0x20, 7)
    /// >>> memory.read_many_u64(array("Q", [0x20, 0x28])).tolist()
    /// [7, 0]
    fn read_many_u64<'py>(&self, py: Python<'py>, addresses: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        buffer::with_integers(addresses, |integers| {
            let values = buffer::new_bytearray(py, integers.size())?;
            buffer::with_output(&values, |output| self.read_each(py, integers, output))?;
            self::integers(addresses, values, "Q")
        })
    }
}

/// From this many bytes of addresses on, look-ups go on without the interpreter's lock.
const LONG_LIST: usize = 64 << 10;

fn too_short(there: usize, needed: usize) -> PyErr {
    let hex = |size: usize| crate::model::format::hex(Size::of(size).0);
    Invalid::number(format!("the buffer has {} bytes, the ranges have {}", hex(there), hex(needed))).into()
}

impl PyMemory {
    /// Reads all ranges into a buffer on one snapshot, when each of them is one direct copy; else does nothing and gives `false`.
    fn read_all_into(&self, ranges: &[(Address, Size)], size: usize, output: &Output<'_>) -> PyResult<bool> {
        if size >= usize_of(LONG) {
            return Ok(false);
        }
        self.with_memory(|_, memory| {
            let sources = ranges.iter().map(|(addr, size)| memory.source(addr.0, usize_of(size.0)));
            let Some(sources) = sources.collect::<Option<Vec<_>>>() else { return Ok(false) };
            let mut at = 0usize;
            for source in sources {
                let size = usize_of(source.size());
                source.copy_to(&output.slice(at, size)?);
                at = at.saturating_add(size);
            }
            Ok(true)
        })
    }

    /// Writes all ranges on one snapshot, when each of them is one direct copy; else does nothing and gives `false`.
    fn write_all_direct(&self, ranges: &[(Address, Size)], size: usize, data: &[Bytes<'_>]) -> PyResult<bool> {
        if size >= usize_of(LONG) {
            return Ok(false);
        }
        self.with_memory(|_, memory| {
            let mut pairs = ranges.iter().zip(data);
            if !ranges.iter().all(|(addr, size)| memory.takes(addr.0, usize_of(size.0))) {
                return Ok(false);
            }
            Ok(pairs.all(|((addr, _), bytes)| memory.write_direct(addr.0, *bytes)))
        })
    }

    /// Reads the integer at each address, those that take the long way one by one.
    fn read_each(&self, py: Python<'_>, addresses: Bytes<'_>, output: &Output<'_>) -> PyResult<()> {
        let is_long = addresses.size() >= LONG_LIST;
        let mut at = 0usize;
        while at < addresses.size() {
            let run = || self.with_memory(|_, memory| read_run(memory, addresses, output, at));
            let end = if is_long { py.detach(run) } else { run() }?;
            if end == at {
                let value: u64 = self.load_value(py, Address(addresses.integer(at)?))?;
                output.put(at, &value.to_ne_bytes())?;
            }
            at = end.max(at.saturating_add(INTEGER));
        }
        Ok(())
    }

    /// Why an address has no memory.
    fn refusal(&self, verb: Verb, address: u64) -> PyErr {
        let range = crate::model::range::Range::between(address, address.saturating_add(1));
        match self.with_access(verb, range, |access| Ok(access.unmapped(address))) {
            Ok(error) => error.into(),
            Err(error) => error,
        }
    }
}

/// Writes each piece of data to the sections that it lies in; the sections count their places through all data.
fn write_each(sections: &[Section], data: &[Bytes<'_>]) -> Result<()> {
    let mut sections = sections;
    let mut at = 0usize;
    for bytes in data {
        let end = at.saturating_add(bytes.size());
        let (mine, rest) = sections.split_at(sections.partition_point(|section| section.at < end));
        let mine: Vec<Section> = mine.iter().map(|section| section.at(section.at.saturating_sub(at))).collect();
        access::write(&mine, Input::Bytes(*bytes), false).map_err(|error| error.after(Size::of(at).0))?;
        (sections, at) = (rest, end);
    }
    Ok(())
}

/// Reads integers from the place `at` in the list on, as long as they can be read directly, but not for long; returns where it ends.
fn read_run(memory: &MappedRegions, addresses: Bytes<'_>, output: &Output<'_>, at: usize) -> Result<usize> {
    let end = addresses.size().min(at.saturating_add(LONG_LIST));
    for at in (at..end).step_by(INTEGER) {
        let Some(value) = memory.load_direct::<u64>(addresses.integer(at)?) else { return Ok(at) };
        output.put(at, &value.to_ne_bytes())?;
    }
    Ok(end)
}
