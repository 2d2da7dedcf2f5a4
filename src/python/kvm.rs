//! `KvmSlots`: a virtual machine on KVM that follows a space.

use std::sync::{Arc, Weak};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::attachment::{AttachmentState, PyAttachment, over};
use super::base::target;
use super::calls;
use super::convert::{self, Address, Size, U32};
use super::dirty::PyDirtyPages;
use super::file;
use super::interrupt::detached;
use super::keywords;
use super::quiesce::{self, PyQuiesce};
use super::space::PySpace;
use crate::clients::kvm::{Kvm, KvmOptions};
use crate::clients::partial_pages::{self, PartialPages};
use crate::model::error::Error;
use crate::model::interrupt::Interrupt;
use crate::model::invalid::Invalid;
use crate::model::region::SharedRegion;
use crate::space::client::Client;

/// The memory slots of a KVM virtual machine that follows an address space: the `Attachment` that `AddressSpace.attach_kvm()` makes.
///
/// RAM, firmware and DAX windows have slots; regions side by side that show the bytes of one memory share one, so that a region which is cut, joined or
/// renamed costs KVM nothing, and one that moves to a free range takes its slot and its dirty log along. Read-only regions are read-only to the guest, whose writes there are exits, as are
/// all its accesses to devices and holes. `detach()` deletes every slot and raises `BackingError` when KVM refuses to delete one: its
/// memory then stays mapped, and the others are gone all the same. `error` is about such a slot too, when its region was removed. The
/// virtual machine stays its owner's. Verbs of a detached one raise `InvalidArgument`.
///
/// **Pause the guest's processors**, or give `quiesce`, around a transaction that removes a region and inserts another over the same addresses, and
/// around a change that makes part of a slot read-only or writable, or cuts part of it off: KVM has the old slot deleted first, and for that moment the
/// guest finds nothing there. A guest that fetches code there is dead. Every other change is safe while they run; `windows` counts those moments.
#[pyclass(frozen, extends = PyAttachment, name = "KvmSlots", module = "dbs_address_space")]
pub struct PyKvmSlots {
    /// Gone once it is detached, and with it the duplicate of the machine's descriptor.
    kvm: Weak<Kvm>,
}

impl PyKvmSlots {
    fn kvm(&self) -> PyResult<Arc<Kvm>> {
        self.kvm.upgrade().ok_or_else(over)
    }

    fn region(slf: &Bound<'_, Self>, region: &Bound<'_, PyAny>) -> PyResult<SharedRegion> {
        let (space, _) = slf.as_super().get().membership(slf.py())?;
        Ok(Arc::clone(target(region, "region")?.find(&space.map())?))
    }

    fn slots(&self, py: Python<'_>) -> PyResult<Vec<(u64, u32)>> {
        let slots = self.kvm.upgrade().map(|kvm| calls::detach(py, || kvm.base_to_slot()));
        Ok(slots.transpose()?.unwrap_or_default())
    }
}

#[pymethods]
impl PyKvmSlots {
    /// The slot number of each region, by its base: a dict, made at each call.
    #[getter]
    fn base_to_slot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let slots = PyDict::new(py);
        for (base, slot) in self.slots(py)? {
            slots.set_item(base, slot)?;
        }
        Ok(slots)
    }

    /// How often a slot made way for others, so that the guest found nothing for a moment where memory was and is.
    ///
    /// A change that leaves it as it was is safe under running processors. Raises `InvalidArgument` once it is detached.
    #[getter]
    fn windows(&self, py: Python<'_>) -> PyResult<u64> {
        let kvm = self.kvm()?;
        Ok(calls::detach(py, || kvm.windows())?)
    }

    /// The memory that the guest is not shown: a tuple of `AddressRange`, ascending, made at each call.
    ///
    /// With `partial_pages="skip"` these are the parts of regions that do not fill a page; otherwise there are none.
    #[getter]
    fn left_out<'py>(slf: &Bound<'py, Self>, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let Some(kvm) = slf.get().kvm.upgrade() else { return Ok(PyTuple::empty(py)) };
        let (space, _) = slf.as_super().get().membership(py)?;
        let shown = calls::detach(py, || kvm.shown())?;
        let map = space.map();
        let memory = map.regions().iter().filter(|region| region.has_memory());
        convert::py_ranges(py, memory.flat_map(|region| partial_pages::left_out(region.range, &shown)).collect())
    }

    /// The slot number of a region, of several that of its first byte; raises `UnmappedAddress` when it has none.
    fn slot_of(slf: &Bound<'_, Self>, region: &Bound<'_, PyAny>) -> PyResult<u32> {
        let (kvm, region) = (slf.get().kvm()?, Self::region(slf, region)?);
        Ok(calls::detach(slf.py(), || kvm.slot_of(&region))?)
    }

    /// The pages that the guest wrote since they were last cleared, in `region` or in all regions that are logged: `DirtyPages`.
    ///
    /// With `clear` they count as clean from here on. Writes of this process are not among them: KVM sees the guest's only.
    /// Raises `Unsupported` for a region whose log is off, `UnmappedAddress` for one without a slot.
    #[pyo3(signature = (*, region=None, clear=true, **others),
        text_signature = "($self, *, region=None, clear=True)")]
    fn dirty_log(
        slf: &Bound<'_, Self>,
        region: Option<&Bound<'_, PyAny>>,
        clear: bool,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyDirtyPages> {
        keywords::refuse_of::<Self>("dirty_log", others)?;
        let kvm = slf.get().kvm()?;
        let region = region.map(|region| Self::region(slf, region)).transpose()?;
        Ok(calls::detach(slf.py(), || kvm.dirty_log(region.as_ref(), clear))?.into())
    }

    /// Marks pages that `dirty_log(clear=False)` gave as clean.
    ///
    /// With `manual_clear` only these pages are write-protected again, in units that KVM accepts, and no other page is touched.
    fn clear_dirty_log(&self, py: Python<'_>, pages: &Bound<'_, PyDirtyPages>) -> PyResult<()> {
        let (kvm, pages) = (self.kvm()?, pages.get());
        Ok(calls::detach(py, || kvm.clear_dirty_log(pages.inner()))?)
    }

    /// Switches the log of a region, while the guest runs; switching it off forgets what was logged. A slot that shows others too is cut, as if it
    /// were protected. Waits for a change under way; in a client's phase it raises `ReentrantChange`.
    fn set_dirty_log(slf: &Bound<'_, Self>, region: &Bound<'_, PyAny>, on: bool) -> PyResult<()> {
        let (kvm, region) = (slf.get().kvm()?, Self::region(slf, region)?);
        let (space, _) = slf.as_super().get().membership(slf.py())?;
        let switch = |_: &dyn Interrupt| kvm.set_dirty_log(&region, on);
        detached(slf.py(), None, |interrupt| space.between_changes(("KVM", "set_dirty_log"), interrupt, switch))
    }

    /// Makes `[addr, addr + size)` private to the guest, its pages then coming from the guest_memfd, or shared again.
    ///
    /// Raises `Unsupported` where KVM has no private memory for this type of virtual machine, `BackingError` when it refuses.
    #[pyo3(signature = (addr, size, private=true))]
    fn set_private(&self, py: Python<'_>, addr: Address, size: Size, private: bool) -> PyResult<()> {
        let (kvm, range) = (self.kvm()?, convert::range(addr, size)?);
        Ok(calls::detach(py, || kvm.set_private(range, private))?)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("KvmSlots({} slots)", self.slots(py)?.len()))
    }
}

#[pymethods]
impl PySpace {
    /// Keeps the memory slots of a KVM virtual machine in step with this space; returns its `KvmSlots`.
    ///
    /// `vm_fd`, an int or anything with `fileno()`, is a descriptor that `KVM_CREATE_VM` gave and that stays the caller's; a
    /// duplicate is kept until `detach()`. `dirty_log` logs the guest's writes to every writable region; `manual_clear` switches the
    /// whole machine to `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`. Slots are numbered from `first_slot` on, `max_slots` of them at most,
    /// and no more than KVM has. With `guest_memfd` each region of RAM has one for its private pages, and no dirty log. KVM takes whole
    /// pages: a region that begins or ends inside one, or whose bytes do in their file, is `Misaligned`, or shown without such parts with
    /// `partial_pages="skip"`, and they are in `KvmSlots.left_out`.
    ///
    /// A slot has at most `slot_size` bytes, whole pages: what a change costs that cuts a slot grows with it (a size such as `"128MiB"`). `quiesce`, a context
    /// manager that can be used again, is entered without any lock before a slot makes way for others, and left once the change is made or undone: it holds
    /// the guest's processors. What its `__enter__` raises refuses the change as a `ClientError`.
    ///
    /// Raises `NotMapped`, `BackingError` for a descriptor that is not a KVM machine, for a slot that KVM refuses and when the slots
    /// run out (`ENOSPC`), `Unsupported` for a feature that the kernel lacks. Then nothing is attached.
    #[pyo3(signature = (vm_fd, *, dirty_log=false, manual_clear=false, first_slot=U32(0), max_slots=None, guest_memfd=false, slot_size=None, quiesce=None, partial_pages="refuse", **others),
           text_signature = "($self, vm_fd, *, dirty_log=False, manual_clear=False, first_slot=0, max_slots=None, guest_memfd=False, slot_size=None, quiesce=None, partial_pages='refuse')")]
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
        slot_size: Option<Size>,
        quiesce: Option<&Bound<'py, PyAny>>,
        partial_pages: &str,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyKvmSlots>> {
        keywords::refuse_of::<Self>("attach_kvm", others)?;
        self.inner().check_process()?;
        if dirty_log && guest_memfd {
            let how = String::from("choose one of them");
            let message = String::from("KVM logs no writes to memory with a guest_memfd: choose one of them");
            return Err(Error::Unsupported { message, feature: "dirty log", how, region: None }.into());
        }
        let (first_slot, max_slots) = (first_slot.0, max_slots.map(|most| most.0));
        let (slot_size, partial_pages) = (slot_size.map(|size| size.0), PartialPages::parse(partial_pages)?);
        let options =
            KvmOptions { dirty_log, manual_clear, first_slot, max_slots, guest_memfd, slot_size, partial_pages };
        quiesce.map_or(Ok(()), quiesce::check)?;
        let kvm = Arc::new(Kvm::new(file::descriptor(vm_fd, "vm_fd")?, options)?);
        self.check_not_attached(py, &kvm)?;
        let slots = PyKvmSlots { kvm: Arc::downgrade(&kvm) };
        let client = |attachment: &Weak<AttachmentState>| {
            if quiesce.is_some() {
                kvm.hold_by(Box::new(PyQuiesce::new(attachment)));
            }
            kvm as Arc<dyn Client>
        };
        self.attach(py, quiesce, client, |attachment| attachment.add_subclass(slots))
    }
}

impl PySpace {
    /// Two attachments of one machine would give out the same slot numbers.
    fn check_not_attached(&self, py: Python<'_>, kvm: &Kvm) -> PyResult<()> {
        let is_it = |attachment: &Bound<'_, PyAttachment>| {
            let slots = attachment.as_any().cast::<PyKvmSlots>().ok();
            slots.and_then(|slots| slots.get().kvm.upgrade()).is_some_and(|attached| attached.is_same_machine(kvm))
        };
        match self.attachments(py)?.iter().any(is_it) {
            true => {
                Err(Invalid::argument("the virtual machine is attached to this space already: detach it first").into())
            }
            false => Ok(()),
        }
    }
}
