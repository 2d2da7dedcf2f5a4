//! `Attachment`: the handle of everything that follows an address space.

use crate::model::quote::quoted;
use std::sync::{Arc, Weak};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::calls::{self, python_call};
use super::interrupt::detached;
use super::leaving::context_manager;
use super::registry::Registry;
use super::space_ref::SpaceRef;
use crate::model::error::Error;
use crate::model::invalid::Invalid;
use crate::space::subscription::{Subscriber, Subscription};
use crate::sys::fork::Forked;
use crate::sys::lock::{Lock, LockGuard};

/// Something that follows an address space until `detach()`; also a context manager that detaches it.
///
/// Every `attach_*` verb and `subscribe` return one, and `AddressSpace.clients` lists those that are attached. It keeps its space and
/// the memory until it is detached; dropping it detaches nothing. It also ends when what it follows is gone: a device's handler with
/// its region. One that fails after a change was published is over as well, and keeps what it holds until `detach()`.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
/// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> with space.subscribe(print) as attachment:
/// ...     attachment.is_attached, space.clients == (attachment,)
/// (True, True)
/// >>> attachment.is_attached, space.clients
/// (False, ())
#[pyclass(frozen, subclass, weakref, name = "Attachment", module = "dbs_address_space")]
pub struct PyAttachment {
    name: Arc<str>,
    state: Arc<AttachmentState>,
}

/// State shared with the space's side of the attachment.
///
/// That side refers to it weakly: the handle is the one owner of the Python objects in it, so the garbage collector finds all of them.
pub(super) struct AttachmentState {
    registry: Weak<Registry>,
    id: u64,
    parts: Lock<AttachmentParts>,
}

/// The attached client, and its error, which outlives it.
#[derive(Default)]
struct AttachmentParts {
    attached: Option<Attached>,
    error: Option<Py<PyAny>>,
}

struct Attached {
    space: SpaceRef,
    subscription: Arc<Subscription>,
    /// The client, when it is a Python object.
    object: Option<Py<PyAny>>,
}

impl AttachmentState {
    /// A state that has nothing yet, for the attachment of a number.
    pub(super) fn new(registry: &Arc<Registry>, id: u64) -> Self {
        Self { registry: Arc::downgrade(registry), id, parts: Lock::default() }
    }

    /// Locked only while attached and for a moment, like the registry: what is taken out is dropped after it was let go.
    fn parts(&self, _attached: Python<'_>) -> Result<LockGuard<'_, AttachmentParts>, Forked> {
        self.parts.lock()
    }

    /// The client, when it is a Python object and has not left.
    pub(super) fn object<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        Some(self.parts(py).ok()?.attached.as_ref()?.object.as_ref()?.bind(py).clone())
    }

    /// Keeps the first error, which is the one that ended it.
    fn note(&self, py: Python<'_>, exception: Py<PyAny>) {
        if let Ok(mut parts) = self.parts(py)
            && parts.error.is_none()
        {
            parts.error = Some(exception);
        }
    }

    fn forget(&self, py: Python<'_>) {
        let forgotten = self.registry.upgrade().and_then(|registry| registry.remove(py, self.id).ok());
        drop(forgotten);
    }
}

impl Subscriber for Weak<AttachmentState> {
    fn failed(&self, error: Error) {
        let _guard = python_call();
        calls::attach(|py| {
            let raised = PyErr::from(error);
            let exception = raised.value(py).clone().into_any().unbind();
            let state = self.upgrade();
            if let Some(state) = &state {
                state.note(py, exception);
                state.forget(py);
            }
            raised.write_unraisable(py, state.and_then(|state| state.object(py)).as_ref());
        });
    }

    fn left(&self) {
        calls::attach(|py| {
            let Some(state) = self.upgrade() else { return };
            // Taken out in a statement of its own: the object's end, which may run Python code, comes behind the lock.
            let attached = state.parts(py).map(|mut parts| parts.attached.take());
            drop(attached);
            state.forget(py);
        });
    }
}

impl PyAttachment {
    /// The handle of a membership that is about to begin. `object` is the client, when it is a Python object.
    pub(super) fn new(
        py: Python<'_>,
        state: Arc<AttachmentState>,
        membership: (SpaceRef, Arc<Subscription>),
        object: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let (space, subscription) = membership;
        let name = Arc::clone(subscription.name());
        state.parts(py)?.attached = Some(Attached { space, subscription, object });
        Ok(Self { name, state })
    }

    /// Whether it follows its space.
    pub(super) fn is_following(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.state.parts(py)?.attached.as_ref().is_some_and(|attached| attached.subscription.is_following()))
    }

    /// The client, when it is a Python object and has not left.
    pub(super) fn object<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.state.object(py)
    }

    /// The exception that ended it.
    pub(super) fn error_of(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(self.state.parts(py)?.error.as_ref().map(|error| error.clone_ref(py)))
    }

    /// The space and the membership in it; refused once they were let go.
    pub(super) fn membership(&self, py: Python<'_>) -> PyResult<(SpaceRef, Arc<Subscription>)> {
        let parts = self.state.parts(py)?;
        let attached = parts.attached.as_ref().map(|it| (it.space.clone(), Arc::clone(&it.subscription)));
        drop(parts);
        attached.ok_or_else(over)
    }
}

/// The refusal of verbs that need what an attachment has let go.
pub(super) fn over() -> PyErr {
    Invalid::argument("the attachment is over: attach again").into()
}

context_manager!(PyAttachment, PyAttachment::detach);

#[pymethods]
impl PyAttachment {
    /// Whether it follows the space: neither detached nor over for another reason.
    #[getter]
    fn is_attached(&self, py: Python<'_>) -> PyResult<bool> {
        self.is_following(py)
    }

    /// The exception that ended the attachment, such as a `ClientError` or `BackingError`; `None` as long as all is well.
    ///
    /// It is what `commit` or `rollback` raised, where nothing can be undone any more: the change was made all the same.
    /// `sys.unraisablehook` was told of it too.
    #[getter]
    fn error(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.error_of(py)
    }

    /// Ends the attachment and leaves no trace of it; doing it twice does nothing.
    ///
    /// Waits for the writers' turn. Called inside a client's phase, it takes effect when the change under way is decided: until then
    /// the client is asked and told, and an error of its leaving is in `error`. Otherwise such an error is raised, and it is detached all
    /// the same. Raises `ForkedProcess` in a forked child.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> attachment = space.subscribe(print)
    /// >>> attachment.detach()
    /// >>> attachment
    /// Subscription("print", detached)
    pub(super) fn detach(&self, py: Python<'_>) -> PyResult<()> {
        let Ok((space, subscription)) = self.membership(py) else { return Ok(()) };
        detached(py, None, |interrupt| space.unsubscribe(&subscription, interrupt))
    }

    /// The same as `detach`.
    ///
    /// >>> from contextlib import closing
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> with closing(space.subscribe(print)) as attachment:
    /// ...     attachment.is_attached
    /// True
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.detach(py)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (py, this) = (slf.py(), slf.get());
        let status = match (this.is_following(py)?, this.error_of(py)?) {
            (true, _) => "attached",
            (false, None) => "detached",
            (false, Some(_)) => "failed",
        };
        Ok(format!("{}({}, {status})", slf.get_type().name()?, quoted(&this.name)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Never waited for: the collector may run in the thread that has the lock. Objects not shown count as reachable.
        let Some(parts) = self.state.parts.try_lock() else { return Ok(()) };
        visit.call(&parts.error)?;
        parts.attached.as_ref().map_or(Ok(()), |attached| visit.call(&attached.object))
    }

    fn __clear__(&self) {
        let parts = self.state.parts.try_lock().map(|mut parts| std::mem::take(&mut *parts));
        drop(parts);
    }
}
