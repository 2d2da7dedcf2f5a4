//! How every kind of client is attached to a space.

use std::sync::{Arc, Weak};

use pyo3::prelude::*;
use pyo3::{PyClass, PyClassInitializer};

use super::attachment::{AttachmentState, PyAttachment};
use super::interrupt::detached;
use super::space::PySpace;
use crate::space::client::Client;
use crate::space::subscription::Subscription;

impl PySpace {
    /// Attaches a client and returns its handle, which `class` makes. `object` is the client, when it is a Python object.
    pub(super) fn attach<'py, T: PyClass>(
        &self,
        py: Python<'py>,
        object: Option<&Bound<'py, PyAny>>,
        client: impl FnOnce(&Weak<AttachmentState>) -> Arc<dyn Client>,
        class: impl FnOnce(PyClassInitializer<PyAttachment>) -> PyClassInitializer<T>,
    ) -> PyResult<Bound<'py, T>> {
        let registry = self.registry().get().registry();
        let id = registry.new_id(py)?;
        let state = Arc::new(AttachmentState::new(registry, id));
        let weak = Arc::downgrade(&state);
        let subscription = Arc::new(Subscription::new(client(&weak), Box::new(weak)));
        let membership = (self.inner().clone(), Arc::clone(&subscription));
        let attachment = PyAttachment::new(py, state, membership, object.map(|object| object.clone().unbind()))?;
        let handle = Bound::new(py, class(attachment.into()))?;
        // Before the client is offered anything: it may fail at another thread's change as soon as it follows.
        registry.add(py, id, handle.as_any())?;
        let attached = detached(py, None, |interrupt| self.inner().subscribe(&subscription, interrupt));
        attached.inspect_err(|_| drop(registry.remove(py, id)))?;
        Ok(handle)
    }

    /// The attachments that follow the space, in the order in which they are asked.
    pub(super) fn attachments<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAttachment>>> {
        let handles = self.registry().get().registry().handles(py)?.into_iter();
        let mut following = Vec::new();
        for attachment in handles.filter_map(|handle| handle.cast_into::<PyAttachment>().ok()) {
            if attachment.get().is_following(py)? {
                following.push(attachment);
            }
        }
        Ok(following)
    }
}
