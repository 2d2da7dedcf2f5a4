//! `KvmSlots`, and how a space is attached to a virtual machine.

use std::sync::{Arc, OnceLock};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::base::target;
use super::convert::{self, Address, Size, U32};
use super::dirty::PyDirtyPages;
use super::interrupt::detached;
use super::space::PySpace;
use super::space_ref::SpaceRef;
use crate::clients::kvm::{Kvm, KvmOptions};
use crate::model::error::Error;
use crate::model::invalid::Invalid;
use crate::model::region::SharedRegion;
use crate::space::client::Subscription;

/// The memory slots of a KVM virtual machine that follows an address space; also a context manager that detaches it.
///
/// Made by `AddressSpace.attach_kvm()`. RAM, firmware and DAX windows have a slot each; read-only regions are read-only to the guest,
/// whose writes there are exits, as are all its accesses to devices and holes. Dropping it changes nothing.
///
/// **Pause the guest's processors** around a transaction that removes a region and inserts another over the same addresses, and
/// around a `replace_region` that makes a region read-only or writable: KVM has the old slot deleted first, and for that moment the
/// guest finds nothing there. Every other change is safe while they run.
#[pyclass(frozen, name = "KvmSlots", module = "dbs_address_space")]
pub struct PyKvmSlots {
    space: SpaceRef,
    kvm: Arc<Kvm>,
    subscription: OnceLock<Arc<Subscription>>,
}

impl PyKvmSlots {
    fn region(&self, region: &Bound<'_, PyAny>) -> PyResult<SharedRegion> {
        Ok(Arc::clone(target(region)?.find(&self.space.map())?))
    }
}

#[pymethods]
impl PyKvmSlots {
    /// The slot number of each region, by its base: a dict, made at each call.
    #[getter]
    fn base_to_slot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let slots = PyDict::new(py);
        for (base, slot) in py.detach(|| self.kvm.base_to_slot()) {
            slots.set_item(base, slot)?;
        }
        Ok(slots)
    }

    /// The slot number of a region; raises `UnmappedAddress` when it has none.
    fn slot_of(&self, py: Python<'_>, region: &Bound<'_, PyAny>) -> PyResult<u32> {
        let region = self.region(region)?;
        Ok(py.detach(|| self.kvm.slot_of(&region))?)
    }

    /// The pages that the guest wrote since they were last cleared, in `region` or in all regions that are logged: `DirtyPages`.
    ///
    /// With `clear` they count as clean from here on. What this process writes is not in it: KVM sees the guest's writes only.
    /// Raises `Unsupported` for a region whose log is off, `UnmappedAddress` for one without a slot.
    #[pyo3(signature = (*, region=None, clear=true))]
    fn dirty_log(&self, py: Python<'_>, region: Option<&Bound<'_, PyAny>>, clear: bool) -> PyResult<PyDirtyPages> {
        let region = region.map(|region| self.region(region)).transpose()?;
        Ok(py.detach(|| self.kvm.dirty_log(region.as_ref(), clear))?.into())
    }

    /// Makes pages that `dirty_log(clear=False)` told of count as clean.
    ///
    /// With `manual_clear` only these are write-protected again, in units that KVM accepts, and no other page is touched.
    fn clear_dirty_log(&self, py: Python<'_>, pages: &Bound<'_, PyDirtyPages>) -> PyResult<()> {
        let pages = pages.get();
        Ok(py.detach(|| self.kvm.clear_dirty_log(pages.inner()))?)
    }

    /// Switches the log of a region, while the guest runs; switching it off forgets what was logged.
    fn set_dirty_log(&self, py: Python<'_>, region: &Bound<'_, PyAny>, on: bool) -> PyResult<()> {
        let region = self.region(region)?;
        Ok(py.detach(|| self.kvm.set_dirty_log(&region, on))?)
    }

    /// Makes `[addr, addr + size)` private to the guest, its pages then coming from the guest_memfd, or shared again.
    ///
    /// Raises `Unsupported` where KVM has no private memory for this type of virtual machine, `BackingError` when it refuses.
    #[pyo3(signature = (addr, size, private=true))]
    fn set_private(&self, py: Python<'_>, addr: Address, size: Size, private: bool) -> PyResult<()> {
        let range = convert::range(addr, size)?;
        Ok(py.detach(|| self.kvm.set_private(range, private))?)
    }

    /// What ended the attachment: a slot that could not be deleted, whose memory stays mapped; `None` as long as all is well.
    #[getter]
    fn error<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let error = self.subscription.get()?.error()?;
        Some(PyErr::from(error).into_value(py).into_bound(py).into_any())
    }

    /// Deletes every slot; the virtual machine stays its owner's. Doing it twice does nothing.
    ///
    /// Raises `BackingError` when KVM refuses to delete one, whose memory then stays mapped; the others are gone all the same.
    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        let Some(subscription) = self.subscription.get() else { return Ok(()) };
        detached(py, None, |interrupt| self.space.unsubscribe(subscription, interrupt))
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _type: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        self.detach(py).map(|()| false)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("KvmSlots({} slots)", py.detach(|| self.kvm.base_to_slot()).len())
    }
}

#[pymethods]
impl PySpace {
    /// Keeps the memory slots of a KVM virtual machine in step with this space; returns its `KvmSlots`.
    ///
    /// `vm_fd`, an int or anything with `fileno()`, is a descriptor that `KVM_CREATE_VM` gave and that stays the caller's; a
    /// duplicate is kept until `detach()`. `dirty_log` logs the guest's writes to every writable region; `manual_clear` switches the
    /// whole machine to `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`. Slots are numbered from `first_slot` on, `max_slots` of them at most,
    /// and no more than KVM has. With `guest_memfd` each region of RAM has one for its private pages, and no dirty log.
    ///
    /// Raises `NotMapped`, `BackingError` for a descriptor that is not a KVM machine, for a slot that KVM refuses and when the slots run
    /// out (`ENOSPC`), `Unsupported` for what the kernel lacks. Then nothing is attached.
    #[pyo3(signature = (vm_fd, *, dirty_log=false, manual_clear=false, first_slot=U32(0), max_slots=None, guest_memfd=false),
           text_signature = "($self, vm_fd, *, dirty_log=False, manual_clear=False, first_slot=0, max_slots=None, guest_memfd=False)")]
    #[allow(clippy::too_many_arguments, reason = "keywords in Python")]
    fn attach_kvm<'py>(
        &self,
        py: Python<'py>,
        vm_fd: &Bound<'_, PyAny>,
        dirty_log: bool,
        manual_clear: bool,
        first_slot: U32,
        max_slots: Option<U32>,
        guest_memfd: bool,
    ) -> PyResult<Bound<'py, PyKvmSlots>> {
        self.inner().check_process()?;
        if dirty_log && guest_memfd {
            let how = String::from("choose one of them");
            let message = String::from("KVM logs no writes to memory with a guest_memfd: choose one of them");
            return Err(Error::Unsupported { message, feature: "dirty log", how, region: None }.into());
        }
        let (first_slot, max_slots) = (first_slot.0, max_slots.map(|most| most.0));
        let options = KvmOptions { dirty_log, manual_clear, first_slot, max_slots, guest_memfd };
        let kvm = Arc::new(Kvm::new(convert::descriptor(vm_fd)?, options)?);
        self.check_not_attached(py, &kvm)?;
        let space = self.inner().clone();
        let slots = Bound::new(py, PyKvmSlots { space, kvm: Arc::clone(&kvm), subscription: OnceLock::new() })?;
        let (_, subscription) = self.attach(slots.as_any(), |_| Ok(kvm))?;
        let _ = slots.get().subscription.set(subscription);
        Ok(slots)
    }
}

impl PySpace {
    /// Two attachments of one machine would give out the same slot numbers.
    fn check_not_attached(&self, py: Python<'_>, kvm: &Kvm) -> PyResult<()> {
        let is_it = |client: &Bound<'_, PyAny>| {
            client.cast::<PyKvmSlots>().is_ok_and(|slots| slots.get().kvm.is_same_machine(kvm))
        };
        match self.clients().get().following(py).iter().any(is_it) {
            true => {
                Err(Invalid::argument("the virtual machine is attached to this space already: detach it first").into())
            }
            false => Ok(()),
        }
    }
}
