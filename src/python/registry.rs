//! The Python side of a space: its attachments and the handlers of its devices.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::model::error;
use crate::model::format::hex;
use crate::model::invalid::Invalid;
use crate::model::quote::listed;
use crate::model::region::SharedRegion;
use crate::sys::fork::Forked;
use crate::sys::lock::{Lock, LockGuard};

/// The handler of a device region.
pub(super) struct Device {
    pub(super) region: SharedRegion,
    pub(super) handler: Py<PyAny>,
    /// The access sizes that it takes, or-ed: each is a bit of its own.
    pub(super) widths: u64,
}

impl Device {
    /// Whether an access lies in the device and has a width that it takes.
    pub(super) fn check(&self, addr: u64, size: u64) -> error::Result<u64> {
        let offset = addr.saturating_sub(self.region.base());
        let problem = if !size.is_power_of_two() || self.widths & size == 0 {
            let widths: Vec<_> = (0..4).map(|bit| 1u64 << bit).filter(|width| self.widths & width != 0).collect();
            format!("it takes widths {}", listed(&widths))
        } else if size > self.region.size().saturating_sub(offset) {
            String::from("the access crosses its end")
        } else {
            return Ok(offset);
        };
        let message = format!("cannot dispatch {size} bytes at {} to {}: {problem}", hex(addr), self.region);
        Err(Invalid::at(message, Some(addr), Some(size)).into())
    }
}

/// All attachments by their numbers, which ascend, and all devices by their bases.
#[derive(Default)]
pub(super) struct RegistryTable {
    /// Their handles, which the registry owns and does not look into.
    attachments: BTreeMap<u64, Py<PyAny>>,
    pub(super) devices: BTreeMap<u64, Device>,
    last_id: u64,
}

/// Locked for a moment only, and only with the interpreter's lock held: the garbage collector, which then can't run, must see all of it
/// or nothing.
#[derive(Default)]
pub(super) struct Registry(Lock<RegistryTable>);

impl Registry {
    /// Nothing of Python may run under this lock, not even the end of an object: drop what is taken out after the lock.
    pub(super) fn lock(&self, _attached: Python<'_>) -> Result<LockGuard<'_, RegistryTable>, Forked> {
        self.0.lock()
    }

    /// A number for an attachment.
    pub(super) fn new_id(&self, py: Python<'_>) -> Result<u64, Forked> {
        let mut table = self.lock(py)?;
        table.last_id = table.last_id.wrapping_add(1);
        Ok(table.last_id)
    }

    /// Keeps an attachment, which thus goes on when its handle is dropped.
    pub(super) fn add(&self, py: Python<'_>, id: u64, handle: &Bound<'_, PyAny>) -> Result<(), Forked> {
        let handle = handle.clone().unbind();
        let replaced = self.lock(py)?.attachments.insert(id, handle);
        drop(replaced);
        Ok(())
    }

    /// Takes out an attachment that has ended.
    pub(super) fn remove(&self, py: Python<'_>, id: u64) -> Result<Option<Py<PyAny>>, Forked> {
        Ok(self.lock(py)?.attachments.remove(&id))
    }

    /// The handles of all attachments, by their numbers.
    pub(super) fn handles<'py>(&self, py: Python<'py>) -> Result<Vec<Bound<'py, PyAny>>, Forked> {
        Ok(self.lock(py)?.attachments.values().map(|handle| handle.bind(py).clone()).collect())
    }
}

/// The Python object that owns a registry: through it the garbage collector follows a client that refers to its space.
///
/// `AddressSpace`, `GuestMemory` and `Reservation` share it; the space below them refers weakly to what is in it.
#[pyclass(frozen, name = "_Registry", module = "dbs_address_space._core")]
#[derive(Default)]
pub struct PyRegistry(Arc<Registry>);

impl PyRegistry {
    pub(super) const fn registry(&self) -> &Arc<Registry> {
        &self.0
    }
}

#[pymethods]
impl PyRegistry {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(table) = self.0.0.try_lock() else { return Ok(()) };
        table.attachments.values().try_for_each(|attachment| visit.call(attachment))?;
        table.devices.values().try_for_each(|device| visit.call(&device.handler))
    }

    fn __clear__(&self) {
        let table = self.0.0.try_lock().map(|mut table| std::mem::take(&mut *table));
        drop(table);
    }
}
