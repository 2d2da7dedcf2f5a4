//! `Subscription`, and the verbs of `AddressSpace` about clients.

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::interrupt::detached;
use super::python_client::PyClient;
use super::space::PySpace;
use crate::space::client::{Client, Subscription};

/// A client's membership in an address space, made by `AddressSpace.subscribe()`; also a context manager that closes it.
///
/// Dropping it changes nothing: the client follows the space until `close()`, or until it fails after a publication.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
/// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> with space.subscribe(lambda change: print(change)) as subscription:
/// ...     _ = space.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))
/// + AddressSpaceRegion(DEFAULT_MEMORY [0x0, 0x10_0000) 1 MiB rw- shmem)
/// >>> subscription.error, space.clients
/// (None, ())
#[pyclass(frozen, name = "Subscription", module = "dbs_address_space")]
pub struct PySubscription {
    space: Py<PySpace>,
    id: u64,
    inner: Arc<Subscription>,
}

impl PySubscription {
    /// Of a client that Python does not know as such.
    pub(super) const fn of(space: Py<PySpace>, inner: Arc<Subscription>) -> Self {
        Self { space, id: u64::MAX, inner }
    }
}

#[pymethods]
impl PySubscription {
    /// What ended the subscription: the `ClientError` of a commit or rollback that failed; `None` as long as all is well.
    ///
    /// `sys.unraisablehook` was told of it too. The change was made all the same; the client hears of no later one.
    #[getter]
    fn error(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let table = self.space.get().clients().get().shared().lock(py);
        table.entries.get(&self.id)?.error.as_ref().map(|error| error.clone_ref(py))
    }

    /// The client follows no later change. It is not told that regions leave; closing twice does nothing.
    ///
    /// Waits for the writers' turn. Called by a client in one of its own phases, it ends with the change under way.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> subscription = space.subscribe(print)
    /// >>> subscription.close()
    /// >>> space.clients
    /// ()
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let space = self.space.get();
        if space.inner().turn().is_mine() {
            self.inner.end();
        } else if !self.inner.is_over() {
            detached(py, None, |interrupt| space.inner().unsubscribe(&self.inner, interrupt))?;
        }
        Ok(())
    }

    /// A descriptor that is readable once a change was committed since it was last read, for `select`, `poll` and asyncio.
    ///
    /// An eventfd: `os.eventfd_read` gives how many. It belongs to the subscription.
    ///
    /// >>> import os
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> subscription = space.subscribe(lambda change: None)
    /// >>> descriptor = subscription.fileno()
    /// >>> _ = space.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))
    /// >>> os.eventfd_read(descriptor)
    /// 1
    fn fileno(&self) -> PyResult<i32> {
        Ok(self.inner.event()?)
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
        self.close(py).map(|()| false)
    }

    fn __repr__(&self) -> String {
        let state = if self.inner.is_over() { "ended" } else { "following" };
        format!("Subscription({:?}, {state})", self.inner.client().name())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.space)
    }
}

impl PySpace {
    /// Attaches a client that Rust knows as `client` and Python as `object`.
    pub(super) fn attach(
        &self,
        object: &Bound<'_, PyAny>,
        client: impl FnOnce(u64) -> PyResult<Arc<dyn Client>>,
    ) -> PyResult<(u64, Arc<Subscription>)> {
        let (py, clients) = (object.py(), self.clients().get());
        let id = clients.add(object);
        let subscribe = |client| detached(py, None, |interrupt| self.inner().subscribe(client, interrupt));
        let subscription = client(id).and_then(subscribe);
        clients.settle(py, id, subscription.as_ref().ok());
        Ok((id, subscription?))
    }
}

#[pymethods]
impl PySpace {
    /// Lets a client follow every change, and returns its `Subscription`.
    ///
    /// A client has three methods, each called with the `AddressSpaceChange`, in the thread that makes the change:
    /// `prepare(change)` makes additions real and checks removals, and what it raises undoes the whole change, which then raises
    /// `ClientError`; `commit(change)` comes after the publication and makes removals real; `rollback(change)` undoes `prepare`
    /// when another client refused. `change.mapping(region)` is the host side. Every present region is offered at once, as added.
    /// A plain callable is an observer: it is called with each change that was published; with `replay`, also with the regions
    /// that are there. What `commit` or an observer raises is in `Subscription.error`, and the client hears no more.
    ///
    /// A removed region that shares addresses with an added one (`transaction()`) has to be let go in `prepare`. `map_memory()`
    /// on a space whose regions a client knows shows each as removed and added; closing the memory removes them all. A change from
    /// inside a client is `ReentrantChange`. Raises `TypeError` for an object that is neither, `ClientError` when it refuses.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> class NoMoreThanOne:
    /// ...     def prepare(self, change):
    /// ...         if len(change.after) > 1:
    /// ...             raise ValueError("one region is enough")
    /// ...     def commit(self, change): pass
    /// ...     def rollback(self, change): pass
    /// >>> subscription = space.subscribe(NoMoreThanOne())
    /// >>> for base in (0, 0x1000):
    /// ...     _ = space.insert_region(AddressSpaceRegion("ram", base, 0x1000))
    /// Traceback (most recent call last):
    /// dbs_address_space.errors.ClientError: client "NoMoreThanOne" refused the change in prepare: ValueError: one region is enough
    #[pyo3(signature = (client_or_callable, *, replay=false))]
    fn subscribe(
        slf: Bound<'_, Self>,
        client_or_callable: &Bound<'_, PyAny>,
        replay: bool,
    ) -> PyResult<PySubscription> {
        let this = slf.get();
        let adapter = |id| -> PyResult<Arc<dyn Client>> {
            Ok(Arc::new(PyClient::new(this.clients().get().weak(), id, client_or_callable, replay)?))
        };
        let (id, inner) = this.attach(client_or_callable, adapter)?;
        Ok(PySubscription { space: slf.unbind(), id, inner })
    }

    /// What follows the space, in the order in which it is asked: the clients and callables given to `subscribe`, and what
    /// `attach_kvm` and the like returned.
    #[getter(clients)]
    fn following<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.clients().get().following(py))
    }
}
