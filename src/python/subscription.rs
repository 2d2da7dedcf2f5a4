//! `Subscription`, and the verbs of `AddressSpace` about clients.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::argument::Argument;
use super::attachment::PyAttachment;
use super::calls::python_call;
use super::convert::Address;
use super::import_once::ImportOnce;
use super::keywords;
use super::loop_observer::PyLoopObserver;
use super::python_client::{PyClient, is_observer};
use super::space::PySpace;

/// The attachment of a client or callable of yours, made by `AddressSpace.subscribe()`.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
/// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> with space.subscribe(lambda change: print(change)) as subscription:
/// ...     _ = space.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))
/// + AddressSpaceRegion(DEFAULT_MEMORY [0x0, 0x10_0000) 1 MiB rw- shmem)
/// >>> subscription.error, space.clients
/// (None, ())
#[pyclass(frozen, extends = PyAttachment, name = "Subscription", module = "dbs_address_space")]
pub struct PySubscription;

#[pymethods]
impl PySubscription {
    /// The client or callable that was given to `subscribe()`; `None` once it is detached.
    #[getter]
    fn client<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, PyAny>> {
        slf.as_super().get().object(slf.py()).map(PyLoopObserver::function_of)
    }

    /// A descriptor that is readable once a change was committed since it was last read, for `select`, `poll` and asyncio.
    ///
    /// An eventfd: `os.eventfd_read` gives how many. It belongs to the subscription, which closes it when it is detached; from then
    /// on this raises `InvalidArgument`.
    ///
    /// >>> import os
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> subscription = space.subscribe(lambda change: None)
    /// >>> descriptor = subscription.fileno()
    /// >>> _ = space.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))
    /// >>> os.eventfd_read(descriptor)
    /// 1
    fn fileno(slf: &Bound<'_, Self>) -> PyResult<i32> {
        let (_, subscription) = slf.as_super().get().membership(slf.py())?;
        Ok(subscription.event()?)
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
    /// that are there. Errors of `commit` or an observer are in `Subscription.error`, and the client hears no more. Either may have a
    /// fourth method `leave()`, which `Subscription.detach()` calls last: there the client lets go of the regions.
    ///
    /// In a running asyncio loop an observer may be a coroutine function: the loop begins a task with each change, which waits for none of
    /// them and shows no `mapping` when it is over; what a task raises, the loop's exception handler is told. Clients can't be: a change waits for
    /// them.
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
    #[pyo3(signature = (client_or_callable, *, replay=false, **others),
        text_signature = "($self, client_or_callable, *, replay=False)")]
    fn subscribe<'py>(
        &self,
        client_or_callable: &Bound<'py, PyAny>,
        replay: bool,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PySubscription>> {
        keywords::refuse_of::<Self>("subscribe", others)?;
        let (py, given) = (client_or_callable.py(), client_or_callable);
        let observer = PyLoopObserver::of(given)?.map(Bound::into_any);
        let object = observer.as_ref().unwrap_or(given);
        let is_observer = is_observer(object).argument("client_or_callable")?;
        self.attach(
            py,
            Some(object),
            |attachment| Arc::new(PyClient::new(attachment, given, is_observer, replay)),
            |attachment| attachment.add_subclass(PySubscription),
        )
    }

    /// The changes of the space, for `async for` in a running asyncio loop: each an `AddressSpaceChange` from the map last seen to that of now.
    ///
    /// Changes that come while the loop is busy are one, which may be empty: then only the generation has moved. It begins with the map of
    /// this call; given a `generation` that the space is past already, all that is there comes at once, as added. It ends when the space is
    /// closed, or follows its leader no more. Ending or cancelling it leaves nothing attached. Raises `ForkedProcess` in a forked child.
    ///
    /// >>> import asyncio
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> async def main():
    /// ...     changes = space.changes()
    /// ...     _ = space.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))
    /// ...     async for change in changes:
    /// ...         return change
    /// >>> print(asyncio.run(main()))
    /// + AddressSpaceRegion(DEFAULT_MEMORY [0x0, 0x10_0000) 1 MiB rw- shmem)
    #[pyo3(signature = (generation=None))]
    fn changes<'py>(slf: &Bound<'py, Self>, generation: Option<Address>) -> PyResult<Bound<'py, PyAny>> {
        let _guard = python_call();
        static CHANGES: ImportOnce = ImportOnce::new();
        let changes = CHANGES.import(slf.py(), "dbs_address_space.aio", "changes")?;
        changes.call1((slf, generation.map(|generation| generation.0)))
    }

    /// The attachments that follow the space, in the order in which they are asked: a tuple of `Attachment`.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> _ = space.subscribe(print)
    /// >>> space.clients
    /// (Subscription("print", attached),)
    #[getter]
    fn clients<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.attachments(py)?)
    }
}
