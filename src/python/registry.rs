//! What a space keeps of Python's side: the clients that were subscribed and the handlers of devices.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::model::error::Result;
use crate::model::format::hex;
use crate::model::invalid::Invalid;
use crate::model::lock::{Lock, LockGuard};
use crate::model::region::SharedRegion;
use crate::space::client::Subscription;

/// A handler, and the region that it answers for.
pub(super) struct Device {
    pub(super) region: SharedRegion,
    pub(super) handler: Py<PyAny>,
    /// The widths that it takes, or-ed: each is a bit of its own.
    pub(super) widths: u64,
}

impl Device {
    /// Whether an access lies in the device and has a width that it takes.
    pub(super) fn check(&self, addr: u64, size: u64) -> Result<u64> {
        let offset = addr.saturating_sub(self.region.base());
        let problem = if !size.is_power_of_two() || self.widths & size == 0 {
            let widths: Vec<_> = (0..4).map(|bit| 1u64 << bit).filter(|width| self.widths & width != 0).collect();
            format!("it takes widths {widths:?}")
        } else if size > self.region.size().saturating_sub(offset) {
            String::from("the access crosses its end")
        } else {
            return Ok(offset);
        };
        let message = format!("cannot dispatch {size} bytes at {} to {}: {problem}", hex(addr), self.region);
        Err(Invalid::at(message, Some(addr), Some(size)).into())
    }
}

/// A client as Python knows it.
pub(super) struct Entry {
    pub(super) client: Py<PyAny>,
    /// Nothing while it is being attached.
    pub(super) subscription: Option<Arc<Subscription>>,
    /// The exception that ended the subscription.
    pub(super) error: Option<Py<PyAny>>,
}

/// All of it, by the number that the Rust side knows it by, which ascends, or by the device's base.
#[derive(Default)]
pub(super) struct Table {
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) devices: BTreeMap<u64, Device>,
    next: u64,
}

/// Locked only while attached and for a moment: the garbage collector, which runs attached, must see all of it or nothing.
#[derive(Default)]
pub(super) struct Shared(Lock<Table>);

impl Shared {
    /// Nothing of Python may run while it is held, so what is taken out is dropped behind it.
    pub(super) fn lock(&self, _attached: Python<'_>) -> LockGuard<'_, Table> {
        self.0.lock()
    }

    /// The client with a number.
    pub(super) fn client<'py>(&self, py: Python<'py>, id: u64) -> Option<Bound<'py, PyAny>> {
        self.lock(py).entries.get(&id).map(|entry| entry.client.bind(py).clone())
    }
}

/// The one owner of these references, so that the garbage collector can follow a client that refers to its space.
///
/// `AddressSpace` and `GuestMemory` own it together; the space below them only has weak references to what is in it.
#[pyclass(frozen, name = "_Clients", module = "dbs_address_space._core")]
#[derive(Default)]
pub struct PyClients(Arc<Shared>);

impl PyClients {
    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    pub(super) fn weak(&self) -> Weak<Shared> {
        Arc::downgrade(&self.0)
    }

    /// Keeps a client that is about to be attached.
    pub(super) fn add(&self, client: &Bound<'_, PyAny>) -> u64 {
        let mut table = self.0.lock(client.py());
        let id = table.next;
        table.next = id.saturating_add(1);
        table.entries.insert(id, Entry { client: client.clone().unbind(), subscription: None, error: None });
        id
    }

    /// Notes the outcome of attaching it.
    pub(super) fn settle(&self, py: Python<'_>, id: u64, subscription: Option<&Arc<Subscription>>) {
        let mut table = self.0.lock(py);
        let failed = match (subscription, table.entries.get_mut(&id)) {
            (Some(subscription), Some(entry)) => {
                entry.subscription = Some(Arc::clone(subscription));
                None
            }
            _ => table.entries.remove(&id),
        };
        drop(table);
        drop(failed);
    }

    /// The clients that follow the space, in the order in which they are asked.
    pub(super) fn following<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyAny>> {
        let table = self.0.lock(py);
        let follows = |entry: &&Entry| entry.subscription.as_ref().is_some_and(|subscription| !subscription.is_over());
        table.entries.values().filter(follows).map(|entry| entry.client.bind(py).clone()).collect()
    }
}

#[pymethods]
impl PyClients {
    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        let Some(table) = self.0.0.try_lock() else { return Ok(()) };
        for entry in table.entries.values() {
            visit.call(&entry.client)?;
            visit.call(&entry.error)?;
        }
        table.devices.values().try_for_each(|device| visit.call(&device.handler))
    }

    fn __clear__(&self) {
        let table = self.0.0.try_lock().map(|mut table| std::mem::take(&mut *table));
        drop(table);
    }
}
