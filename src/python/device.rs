//! Devices: handlers that answer for device regions, and the dispatch of accesses to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::argument::Argument;
use super::attachment::PyAttachment;
use super::base::target;
use super::callback;
use super::calls::{self, python_call};
use super::convert::{self, Address, Size, U64};
use super::import_once::interned;
use super::keywords;
use super::registry::{Device, Registry};
use super::space::PySpace;
use crate::model::error::{Error, Result};
use crate::model::format::hex;
use crate::model::interrupt::Interrupt;
use crate::model::invalid::{Invalid, Kind};
use crate::model::quote::listed;
use crate::model::region::{RegionType, SharedRegion};
use crate::space::client::Client;
use crate::space::proposal::Proposal;
use crate::sys::lock::Lock;

/// Keeps a handler in step with its region, and takes it away with it.
struct DeviceClient {
    registry: Weak<Registry>,
    region: SharedRegion,
    name: String,
    /// The handler, until it is attached.
    pending: Lock<Option<Device>>,
    over: AtomicBool,
}

impl DeviceClient {
    fn new(registry: Weak<Registry>, device: Device) -> Self {
        let region = Arc::clone(&device.region);
        let (name, pending, over) = (format!("device {region}"), Lock::new(Some(device)), AtomicBool::new(false));
        Self { registry, region, name, pending, over }
    }

    /// Whether the region is there and no other handler answers for it.
    fn check_free(&self, proposal: &Proposal) -> Result<()> {
        proposal.change.after.equal_to(&self.region)?;
        let taken = calls::attach(|py| {
            let registry = self.registry.upgrade();
            registry.map_or(Ok(false), |registry| Ok(registry.lock(py)?.devices.contains_key(&self.region.base())))
        });
        if !taken.unwrap_or(Ok::<_, Error>(false))? {
            return Ok(());
        }
        let message = format!("{} has a handler already: detach that one first", self.region);
        Err(Invalid::argument(message).about(Some(self.region.base()), Some(self.region.size())).into())
    }

    /// Changes the table of devices. Devices taken out are dropped after the lock: their end may run Python code.
    fn update(&self, update: impl FnOnce(&mut BTreeMap<u64, Device>) -> Option<Device>) -> Result<()> {
        let updated = calls::attach(|py| {
            let Some(registry) = self.registry.upgrade() else { return Ok(()) };
            let dropped = update(&mut registry.lock(py)?.devices);
            drop(dropped);
            Ok(())
        });
        updated.unwrap_or(Ok(()))
    }

    fn forget(&self) -> Result<()> {
        self.over.store(true, Ordering::Release);
        self.update(|devices| devices.remove(&self.region.base()))
    }
}

impl Client for DeviceClient {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        let is_new = self.pending.lock()?.is_some();
        if is_new { self.check_free(proposal) } else { Ok(()) }
    }

    fn commit(&self, proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        let base = self.region.base();
        let pending = self.pending.lock()?.take();
        if let Some(device) = pending {
            self.update(|devices| devices.insert(base, device))?;
        } else if let Some((_, new)) = proposal.change.replaced.iter().find(|(old, _)| old.base() == base) {
            self.update(|devices| {
                devices.entry(base).and_modify(|device| device.region = Arc::clone(new));
                None
            })?;
        } else if proposal.change.before.find(base).is_some()
            && proposal.change.removed.iter().any(|old| old.base() == base)
        {
            // Memory that comes or goes shows all regions as removed; a device stays in the map.
            let stays = proposal.ends_memory() || proposal.renews_memory();
            if !stays {
                self.forget()?;
            }
        }
        Ok(())
    }

    fn rollback(&self, _offer: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        Ok(())
    }

    fn leave(&self, _interrupt: &dyn Interrupt) -> Result<()> {
        self.forget()
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

#[pymethods]
impl PySpace {
    /// Lets `handler` answer for the device region at `base` (exact base, name or region), until it is detached or the region is
    /// removed.
    ///
    /// The handler has `read(offset, size)`, which returns an int, and `write(offset, size, value)`; they are called by
    /// `dispatch`, without locks, in whatever thread that runs in, so they may change the space and raise what they like. `widths`
    /// are the access sizes that it takes, of 1, 2, 4 and 8. Returns an `Attachment`. Raises `UnmappedAddress` when there is no
    /// such region, `InvalidRegionType` when it is not a device, `InvalidArgument` when it has a handler, `TypeError` when the
    /// handler lacks a method.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> _ = space.insert_region(AddressSpaceRegion("device", 1 << 45, 0x1000, name="timer"))
    /// >>> class Timer:
    /// ...     def read(self, offset, size): return offset + size
    /// ...     def write(self, offset, size, value): print(f"write {value:#x}")
    /// >>> with space.attach_device("timer", Timer()):
    /// ...     space.dispatch((1 << 45) + 8, 4)
    /// ...     space.dispatch(1 << 45, 2, 0xbeef)
    /// 12
    /// write 0xbeef
    #[pyo3(signature = (base, handler, *, widths=None, **others), text_signature = "($self, base, handler, *, widths=(1, 2, 4, 8))")]
    fn attach_device<'py>(
        &self,
        py: Python<'py>,
        base: &Bound<'_, PyAny>,
        handler: &Bound<'_, PyAny>,
        widths: Option<&Bound<'_, PyAny>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAttachment>> {
        keywords::refuse_of::<Self>("attach_device", others)?;
        let region = Arc::clone(target(base, "base")?.find(&self.inner().map())?);
        check_is_device(&region)?;
        check_handler(handler)?;
        let device = Device { region, handler: handler.clone().unbind(), widths: width_bits(widths)? };
        let registry = Arc::downgrade(self.registry().get().registry());
        self.attach(py, None, |_| Arc::new(DeviceClient::new(registry, device)), |attachment| attachment)
    }

    /// Routes an access to the handler of the device that holds `addr`: a read without `value`, which returns what the handler
    /// returns, else a write.
    ///
    /// For the MMIO exits of KVM and Unicorn, from any thread, without locks; an exception of the handler comes out. Raises
    /// `UnmappedAddress` where no handler answers, `InvalidAddressRange` for a width that the device does not take, an access
    /// across its end, and a value or an answer that has more than `size` bytes, `TypeError` for an answer that is not an int.
    ///
    /// >>> from types import SimpleNamespace
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> _ = space.insert_region(AddressSpaceRegion("device", 1 << 45, 0x1000, name="timer"))
    /// >>> _ = space.attach_device("timer", SimpleNamespace(read=lambda offset, size: offset, write=print))
    /// >>> space.dispatch((1 << 45) + 8, 4)
    /// 8
    /// >>> space.dispatch(1 << 45, 2, 7)
    /// 0 2 7
    #[pyo3(signature = (addr, size, value=None))]
    fn dispatch<'py>(
        &self,
        py: Python<'py>,
        addr: Address,
        size: Size,
        value: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let _guard = python_call();
        let found = {
            // Unlocked before the handler runs, which may attach and detach devices.
            let table = self.registry().get().registry().lock(py)?;
            let device = table.devices.range(..=addr.0).next_back().map(|(_, device)| device);
            let device = device.filter(|device| addr.0 < device.region.end());
            device.map(|device| Ok::<_, Error>((device.handler.bind(py).clone(), device.check(addr.0, size.0)?)))
        };
        let (handler, offset) = found.unwrap_or_else(|| Err(self.no_handler(addr.0, size.0)))?;
        match value {
            None => {
                let answer = handler.call_method1(interned!(py, "read"), (offset, size.0))?;
                let answer = callback::answer(answer, "the handler's read")?;
                check_value(&answer, size.0, || self.label(addr.0, "the answer of"))?;
                Ok(Some(answer))
            }
            Some(value) => {
                check_value(value, size.0, || self.label(addr.0, "the value for"))?;
                let written = handler.call_method1(interned!(py, "write"), (offset, size.0, value))?;
                callback::answer(written, "the handler's write").map(|_| None)
            }
        }
    }
}

impl PySpace {
    fn no_handler(&self, addr: u64, size: u64) -> Error {
        let map = self.inner().map();
        match map.find(addr) {
            None => map.unmapped(addr, &format!("no device answers at {}", hex(addr))),
            Some(region) => Error::Unmapped {
                message: match region.region_type {
                    RegionType::DeviceMemory => format!("{region} has no handler: give it one with attach_device()"),
                    _ => format!("no device answers at {}: {region} is memory", hex(addr)),
                },
                address: Some(addr),
                size: Some(size),
                region: Some(Arc::clone(region)),
            },
        }
    }

    fn label(&self, addr: u64, what: &str) -> String {
        let region = self.inner().map().find(addr).map_or_else(|| hex(addr), |region| region.label());
        format!("{what} {region} at {}", hex(addr))
    }
}

/// An int from 0 that has no more than `size` bytes.
#[inline]
fn check_value(value: &Bound<'_, PyAny>, size: u64, what: impl FnOnce() -> String) -> PyResult<()> {
    // The size is 1, 2, 4 or 8, as the device has checked.
    let highest = u64::MAX >> 64u64.saturating_sub(size.saturating_mul(8)).min(63);
    convert::unsigned(value.as_borrowed(), highest)
        .map(drop)
        .map_err(|error| misfit(value, size, &what(), &error).unwrap_or_else(|failure| failure))
}

/// The refusal of a value by `check_value`.
#[cold]
fn misfit(value: &Bound<'_, PyAny>, size: u64, what: &str, error: &PyErr) -> PyResult<PyErr> {
    let _guard = python_call();
    if error.is_instance_of::<PyTypeError>(value.py()) {
        return Ok(PyTypeError::new_err(format!("{what} is not an int: {}", value.repr()?)));
    }
    if !error.is_instance_of::<PyValueError>(value.py()) {
        // The value's own `__index__` raised it.
        return Ok(error.clone_ref(value.py()));
    }
    Ok(Invalid::number(format!("{what} is {}, which does not fit into {size} bytes", value.repr()?)).into())
}

fn check_is_device(region: &SharedRegion) -> Result<()> {
    match region.region_type {
        RegionType::DeviceMemory => Ok(()),
        _ => {
            Err(Invalid::new(Kind::RegionType, format!("{region} is memory: only a device region has a handler"))
                .into())
        }
    }
}

fn check_handler(handler: &Bound<'_, PyAny>) -> PyResult<()> {
    let _guard = python_call();
    for name in ["read", "write"] {
        let Some(method) = handler.getattr_opt(name)?.filter(Bound::is_callable) else {
            let class = handler.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "{class} has no method {name}: a handler has read(offset, size) and write(offset, size, value)"
            )));
        };
        callback::check(&method, &format!("the handler's {name}"))?;
    }
    Ok(())
}

fn width_bits(widths: Option<&Bound<'_, PyAny>>) -> PyResult<u64> {
    let Some(widths) = widths else { return Ok(1 | 2 | 4 | 8) };
    let widths = convert::items(widths, "ints", |width| Ok(width.extract::<U64>()?.0)).argument("widths")?;
    if widths.is_empty() || widths.iter().any(|width| ![1, 2, 4, 8].contains(width)) {
        return Err(Invalid::number(format!("widths {} must be some of 1, 2, 4 and 8", listed(&widths))).into());
    }
    Ok(widths.into_iter().fold(0, |bits, width| bits | width))
}
