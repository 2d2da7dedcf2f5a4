//! Many addresses in one call.

use crate::model::quote::quoted;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyMemoryView};

use super::PyMemory;
use crate::memory::access::{Access, Verb};
use crate::memory::buffer::{Bytes, Output};
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::protection::Need;
use crate::memory::translate::Translator;
use crate::model::error::Result;
use crate::model::interrupt::{Interrupt, Uninterrupted};
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::python::argument::Argument;
use crate::python::buffer;
use crate::python::calls::{self, python_call};
use crate::python::convert::{self, Address};
use crate::python::interrupt::detached;

const INTEGER: usize = size_of::<u64>();
/// From this many bytes of addresses on, look-ups go on without the interpreter's lock.
const LONG_LIST: usize = 64 << 10;

/// Calls `work` with the addresses of a buffer, or of an iterable of ints.
fn with_addresses<T>(given: &Bound<'_, PyAny>, work: impl FnOnce(Bytes<'_>) -> PyResult<T>) -> PyResult<T> {
    if buffer::is_buffer(given) {
        return buffer::with_integers(given, NAME, work);
    }
    let address = |item: Bound<'_, PyAny>| Ok(item.extract::<Address>()?.0.to_ne_bytes());
    let addresses = convert::items(given, "ints (or a buffer of u64)", address).argument(NAME)?;
    work(Bytes::from(addresses.as_flattened()))
}

const NAME: &str = "addresses";

/// A bytearray as an array of NumPy where the addresses came in one, else as a memoryview of integers.
fn integers<'py>(
    like: &Bound<'py, PyAny>,
    bytes: Bound<'py, PyByteArray>,
    format: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let _guard = python_call();
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
    /// The host address and the index in `regions` of each guest physical address.
    ///
    /// `addresses` is an array of NumPy, another buffer of u64 or an iterable of ints; the results are arrays of `u64` and `i64` of its
    /// shape, or else memoryviews. With `missing="mark"` addresses without memory get host 0 and index -1, with `"raise"` they are
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
            _ => {
                return Err(Invalid::argument(format!(
                    "missing={missing} is neither \"raise\" nor \"mark\"",
                    missing = quoted(missing)
                ))
                .into());
            }
        };
        let translator = self.short(|_, memory| Ok(Translator::new(memory)))?;
        with_addresses(addresses, |integers| {
            let translate = |results: [Output<'_>; 2]| {
                let work = |interrupt: &dyn Interrupt| translator.translate(integers, &results, must_exist, interrupt);
                let is_long = integers.size() >= LONG_LIST;
                match if is_long { detached(py, None, work)? } else { work(&Uninterrupted)? } {
                    Some(address) => Err(self.no_memory_at(address)),
                    None => Ok(()),
                }
            };
            let [hosts, indexes] = buffer::new_bytearrays(py, integers.size(), translate)?;
            Ok((self::integers(addresses, hosts, "Q")?, self::integers(addresses, indexes, "q")?))
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
        with_addresses(addresses, |integers| {
            let read = |[output]: [Output<'_>; 1]| self.read_each(py, integers, &output);
            let [values] = buffer::new_bytearrays(py, integers.size(), read)?;
            self::integers(addresses, values, "Q")
        })
    }
}

impl PyMemory {
    /// Reads the integer at each address, those that take the long way one by one.
    fn read_each(&self, py: Python<'_>, addresses: Bytes<'_>, output: &Output<'_>) -> PyResult<()> {
        let _guard = python_call();
        let is_long = addresses.size() >= LONG_LIST;
        let mut at = 0usize;
        while at < addresses.size() {
            py.check_signals()?;
            let run = || self.short(|_, memory| read_run(memory, addresses, output, at));
            let end = if is_long { calls::detach(py, run) } else { run() }?;
            if end == at {
                let value: u64 = self.read_int(py, Address(addresses.integer(at)?))?;
                output.put(at, &value.to_ne_bytes())?;
            }
            at = end.max(at.saturating_add(INTEGER));
        }
        Ok(())
    }

    /// The refusal of an address that has no memory.
    fn no_memory_at(&self, address: u64) -> PyErr {
        let (verb, range) = (Verb::new("translate", Need::Nothing), Range::between(address, u64::MAX).take(1));
        match self.short(|map, memory| Ok(Access { map, memory, verb, range }.unmapped(address))) {
            Ok(refusal) => refusal.into(),
            Err(refusal) => refusal,
        }
    }
}

/// Reads integers from the place `at` in the list on, as long as they can be read directly, but not for long; returns where it ends.
fn read_run(memory: &MappedRegions, addresses: Bytes<'_>, output: &Output<'_>, at: usize) -> Result<usize> {
    let end = addresses.size().min(at.saturating_add(LONG_LIST));
    for at in (at..end).step_by(INTEGER) {
        let Some(value) = memory.read_int_direct::<u64>(addresses.integer(at)?) else { return Ok(at) };
        output.put(at, &value.to_ne_bytes())?;
    }
    Ok(end)
}
