//! `Pin`: memory that stays where it is.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::memory::access::Held;
use crate::model::text::hex;

/// A range of guest memory that stays at its host address until the pin ends. Made by `GuestMemory.pin`; used in `with`.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
/// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> with space.map_memory().pin(0x10, 8) as pin:
/// ...     pin.size, pin.address == space.memory.host_address(0x10)
/// (8, True)
#[pyclass(frozen, name = "Pin", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyPin {
    held: Mutex<Option<Held>>,
    address: usize,
    size: usize,
}

impl From<Held> for PyPin {
    fn from(held: Held) -> Self {
        let (address, size) = held.pieces.first().map_or((0, 0), |piece| (piece.host().addr(), piece.size));
        Self { held: Mutex::new(Some(held)), address, size }
    }
}

impl Drop for PyPin {
    /// The last user unmaps the memory, which takes long, without the interpreter's lock.
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(held) = held.filter(Held::is_last_user) {
            let _ = Python::try_attach(|py| py.detach(|| drop(held)));
        }
    }
}

impl PyPin {
    fn is_held(&self) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

#[pymethods]
impl PyPin {
    /// The host address of the first byte; raises `ValueError` when the pin has ended.
    #[getter]
    fn address(&self) -> PyResult<usize> {
        if self.is_held() {
            return Ok(self.address);
        }
        Err(PyValueError::new_err("the pin has ended: its host address may be anything now"))
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
    fn release(&self, py: Python<'_>) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(held));
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _type: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> bool {
        self.release(py);
        false
    }

    fn __repr__(&self) -> String {
        if !self.is_held() {
            return "Pin(ended)".into();
        }
        let hex = |value: usize| hex(u64::try_from(value).unwrap_or_default());
        format!("Pin({} bytes at host {})", hex(self.size), hex(self.address))
    }

    #[allow(clippy::unused_self, reason = "a method for pickle")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("cannot pickle a Pin: its address means nothing in another process"))
    }
}
