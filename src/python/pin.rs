//! `Pin`: memory that stays where it is.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::calls;
use super::leaving::context_manager;
use crate::memory::leased_sections::LeasedSections;
use crate::model::format::hex;
use crate::model::invalid::Invalid;
use crate::sys::lock::Lock;

/// A range of guest memory that stays at its host address until the pin ends. Made by `GuestMemory.pin`; used in `with`.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
/// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> with space.map_memory().pin(0x10, 8) as pin:
/// ...     pin.size, pin.address == space.memory.host_address(0x10)
/// (8, True)
#[pyclass(frozen, weakref, name = "Pin", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyPin {
    leased: Lock<Option<LeasedSections>>,
    address: usize,
    size: usize,
}

impl From<LeasedSections> for PyPin {
    fn from(leased: LeasedSections) -> Self {
        let first = leased.sections().next().map(|section| (section.host().addr(), section.len()));
        let (address, size) = first.unwrap_or_default();
        Self { leased: Lock::new(Some(leased)), address, size }
    }
}

impl Drop for PyPin {
    /// The last user unmaps the memory, which takes long, without the interpreter's lock.
    fn drop(&mut self) {
        let leased = self.leased.get_mut().take();
        if let Some(leased) = leased.filter(LeasedSections::is_last_user) {
            // At the interpreter's end there is no lock to let go: then the lease is dropped with the closure.
            let _ = calls::attach(|py| calls::detach(py, || drop(leased)));
        }
    }
}

impl PyPin {
    fn is_held(&self) -> PyResult<bool> {
        Ok(self.leased.lock()?.is_some())
    }
}

context_manager!(PyPin, PyPin::release);

#[pymethods]
impl PyPin {
    /// The host address of the first byte; raises `InvalidArgument`, a `ValueError`, when the pin has ended.
    #[getter]
    fn address(&self) -> PyResult<usize> {
        if self.is_held()? {
            return Ok(self.address);
        }
        Err(Invalid::argument("the pin has ended: its host address may be anything now").into())
    }

    /// The number of bytes.
    #[getter]
    const fn size(&self) -> usize {
        self.size
    }

    /// Ends the pin, as the end of a `with` does; ending it twice does nothing.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> pin = memory.pin(0, 8)
    /// >>> pin.release()
    /// >>> pin
    /// Pin(ended)
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        // Taken out first, and dropped without either lock: it may unmap gigabytes.
        let leased = self.leased.lock()?.take();
        calls::detach(py, || drop(leased));
        Ok(())
    }

    fn __repr__(&self) -> PyResult<String> {
        if !self.is_held()? {
            return Ok("Pin(ended)".into());
        }
        let hex = |value: usize| hex(u64::try_from(value).unwrap_or_default());
        Ok(format!("Pin({} bytes at host {})", hex(self.size), hex(self.address)))
    }

    #[allow(clippy::unused_self, reason = "a method for pickle")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("cannot pickle a Pin: its address means nothing in another process"))
    }
}
