//! Waiting for a value to change, and waking those who wait.

use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::PyMemory;
use super::atomic::operand;
use crate::model::room::{self, Room};
use crate::model::wait::Deadline;
use crate::python::argument::Argument;
use crate::python::calls::python_call;
use crate::python::convert::{self, Address, Size, U64};
use crate::python::import_once::ImportOnce;
use crate::python::interrupt::detached;
use crate::python::keywords;
use crate::python::seconds::{Poll, Timeout};
use crate::space::wait_value::{WaitedValue, wait_any};
use crate::sys::futex::Bell;

/// The time for which a look follows the other: letting the interpreter's lock go and falling asleep takes as long.
const SPIN: Duration = Duration::from_micros(2);

impl PyMemory {
    fn watch(&self, verb: &'static str, addr: Address, size: Size, expected: u64) -> PyResult<WaitedValue<'_>> {
        let range = convert::range(addr, size)?;
        Ok(WaitedValue { verb, space: &self.space, incarnation: self.incarnation, range, expected })
    }
}

/// Another value than the expected one, when it comes in a moment.
fn soon(watch: &WaitedValue<'_>) -> PyResult<Option<u64>> {
    let begin = Instant::now();
    while let Some(seen) = watch.look()? {
        if seen.value != watch.expected {
            return Ok(Some(seen.value));
        }
        if begin.elapsed() >= SPIN {
            break;
        }
        std::hint::spin_loop();
    }
    Ok(None)
}

#[pymethods]
impl PyMemory {
    /// Waits until an integer is not `expected` and returns what is there then: `expected` itself after `timeout` seconds (`None`: never).
    ///
    /// The integer is little-endian, has 1, 2, 4 or 8 bytes and is naturally aligned. The wait sleeps, in this process, until `wake_value` or
    /// another process's futex wakes it, and looks every `poll` seconds, 50 ms at most, for guests, devices and NumPy wake nobody. It lets other
    /// threads run, holds no region, and follows the map: when the region goes, it is `UnmappedAddress`. Ctrl-C ends it. Raises
    /// `Misaligned`, `InvalidAddressRange` for a value that does not fit, else as `read` does.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.store(0x1000, 7, 4)
    /// >>> memory.wait_value(0x1000, 6), memory.wait_value(0x1000, 7, timeout=0.01)
    /// (7, 7)
    #[pyo3(signature = (addr, expected, size=Size(4), *, timeout=None, poll=Poll::DEFAULT, **others), text_signature = "($self, addr, expected, size=4, *, timeout=None, poll=0.001)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn wait_value(
        &self,
        py: Python<'_>,
        addr: Address,
        expected: &Bound<'_, PyAny>,
        size: Size,
        timeout: Option<Timeout>,
        poll: Poll,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<u64> {
        keywords::refuse_of::<Self>("wait_value", others)?;
        let watch = self.watch("wait_value", addr, size, operand(expected, size, "expected")?)?;
        if let Some(value) = soon(&watch)? {
            return Ok(value);
        }
        let (expected, deadline) = (watch.expected, Deadline::after(timeout.map(|timeout| timeout.0)));
        let found = detached(py, None, |interrupt| wait_any(&[watch], None, poll.0, deadline, interrupt))?;
        found.into_iter().next().map_or(Ok(expected), |(_, value)| Ok(value?))
    }

    /// Wakes all who sleep in `wait_value` for that integer, in any process that shares the memory, and returns how many.
    ///
    /// Call it after the write. It wakes other users of futexes there too. Nobody can sleep on read-only anonymous memory, nor where the
    /// memory is not aligned on the host or may block; who waits there looks now and then. Raises `Misaligned`, else as `read` does.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.store(0x1000, 7, 4)
    /// >>> memory.wake_value(0x1000)
    /// 0
    #[pyo3(signature = (addr, size=Size(4)), text_signature = "($self, addr, size=4)")]
    fn wake_value(&self, py: Python<'_>, addr: Address, size: Size) -> PyResult<u64> {
        let watch = self.watch("wake_value", addr, size, 0)?;
        let seen = match watch.look()? {
            Some(seen) => seen,
            None => detached(py, None, |_| watch.look_patiently())?,
        };
        Ok(seen.wake())
    }

    /// `wait_value` for asyncio: a coroutine that waits without a thread of its own.
    ///
    /// Arguments, result and errors are those of `wait_value`; cancelling it ends the wait. One thread a loop sleeps for all its waits: on 127 words
    /// of 4 bytes, while it looks at what is beyond them every `poll` seconds.
    ///
    /// >>> import asyncio
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> async def main():
    /// ...     waiter = asyncio.create_task(memory.wait_value_async(0x1000, 0))
    /// ...     await asyncio.sleep(0.01)
    /// ...     memory.store(0x1000, 7, 4)
    /// ...     memory.wake_value(0x1000)
    /// ...     return await waiter
    /// >>> asyncio.run(main())
    /// 7
    #[pyo3(signature = (addr, expected, size=Size(4), *, timeout=None, poll=Poll::DEFAULT, **others), text_signature = "($self, addr, expected, size=4, *, timeout=None, poll=0.001)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn wait_value_async<'py>(
        slf: &Bound<'py, Self>,
        addr: Address,
        expected: &Bound<'py, PyAny>,
        size: Size,
        timeout: Option<Timeout>,
        poll: Poll,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        keywords::refuse_of::<Self>("wait_value_async", others)?;
        let _guard = python_call();
        static WAIT: ImportOnce = ImportOnce::new();
        // Here already: a wrong argument leaves no coroutine that nobody awaits.
        let watch = slf.get().watch("wait_value", addr, size, operand(expected, size, "expected")?)?;
        let wait = WAIT.import(slf.py(), "dbs_address_space.aio", "wait_value")?;
        let timeout = timeout.map(|timeout| timeout.0.as_secs_f64());
        wait.call1((slf, (addr.0, watch.expected, size.0), timeout, poll.0.as_secs_f64()))
    }
}

/// A value that is waited for: memory, address, expected value and size.
type Waiter = (Py<PyMemory>, Address, U64, Size);

/// A word that ends the sleep of a loop's thread, which sleeps on many values beside it.
#[pyclass(frozen, weakref, name = "_ValueBell", module = "dbs_address_space._core")]
#[derive(Debug, Default)]
pub struct PyValueBell(Bell);

#[pymethods]
impl PyValueBell {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    fn ring(&self) {
        self.0.ring();
    }

    fn clear(&self) {
        self.0.clear();
    }

    /// The numbers of the values that are not what was expected, each with what is there or the exception that tells why nothing is.
    ///
    /// There are none when the time is up, or the bell rings.
    fn wait(
        &self,
        py: Python<'_>,
        waiters: &Bound<'_, PyAny>,
        timeout: Timeout,
        poll: Poll,
    ) -> PyResult<Vec<(usize, Py<PyAny>)>> {
        let waiters: Vec<Waiter> = convert::items(waiters, "waiters", |waiter| waiter.extract()).argument("waiters")?;
        let mut watches = Vec::new();
        for (memory, addr, expected, size) in &waiters {
            watches.add(memory.get().watch("wait_value", *addr, *size, expected.0)?)?;
        }
        let deadline = Deadline::after(Some(timeout.0));
        let found = detached(py, None, |interrupt| wait_any(&watches, Some(&self.0), poll.0, deadline, interrupt))?;
        let objects = found.into_iter().map(|(index, value)| match value {
            Ok(value) => Ok((index, value.into_pyobject(py)?.into_any().unbind())),
            Err(error) => Ok((index, PyErr::from(error).into_value(py).into_any())),
        });
        let objects: PyResult<Vec<_>> = room::collected(objects)?.into_iter().collect();
        objects
    }
}
