//! `Transaction`.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::base::{PyBase, target};
use super::convert::Address;
use super::interrupt::detached;
use super::keywords;
use super::region::PyRegion;
use super::region_objects::handed_over;
use super::space::PySpace;
use crate::model::error::{Error, Result};
use crate::model::ids::Generation;
use crate::space::transaction::Transaction;
use crate::sys::lock::Lock;

/// Many changes of an address space, published once, or none of them.
///
/// A context manager made by `AddressSpace.transaction()`. Its verbs are checked at once against a private map, so that an error
/// points at the right line; no lock is held while it is open. On exit they are replayed on the newest map and published together,
/// or the exit raises and nothing changes. An exception in the body, or an empty body, publishes nothing.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
/// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> with space.transaction() as change:
/// ...     for base in (0, 0x1000):
/// ...         _ = change.insert_region(AddressSpaceRegion("ram", base, 0x1000))
/// >>> change.published.generation, len(space)
/// (1, 2)
#[pyclass(frozen, weakref, name = "Transaction", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyTransaction {
    space: Py<PySpace>,
    if_generation: Option<Generation>,
    state: Lock<TransactionState>,
}

#[derive(Debug)]
enum TransactionState {
    New,
    Open(Box<Transaction>),
    Closed(Option<Py<PyBase>>),
}

impl PyTransaction {
    pub(super) fn new(space: Py<PySpace>, if_generation: Option<Generation>) -> Self {
        Self { space, if_generation, state: Lock::new(TransactionState::New) }
    }

    /// The lock is never held while Python code runs: that may come back here. An error that becomes an exception runs some.
    fn with_state<T>(&self, work: impl FnOnce(&mut TransactionState) -> T) -> PyResult<T> {
        Ok(work(&mut *self.state.lock()?))
    }

    fn with_open<T>(&self, work: impl FnOnce(&mut Transaction) -> Result<T>) -> PyResult<T> {
        let closed = |message| Err(Error::TransactionClosed { message });
        Ok(self.with_state(|state| match state {
            TransactionState::Open(transaction) => work(transaction),
            TransactionState::New => closed("the transaction has not begun: use it in a with statement"),
            TransactionState::Closed(_) => closed("the transaction is over: make a new one"),
        })??)
    }

    pub(super) fn stage(&self, verb: impl FnOnce(&mut Transaction) -> Result<()>) -> PyResult<PyBase> {
        self.with_open(|transaction| verb(transaction).map(|()| transaction.staged().clone())).map(PyBase::from)
    }
}

#[pymethods]
impl PyTransaction {
    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        let this = slf.get();
        // Begun outside the lock: a refusal is an exception, which runs Python code.
        let transaction = Box::new(Transaction::begin(this.space.get().inner(), this.if_generation)?);
        this.with_state(|state| match state {
            TransactionState::New => {
                *state = TransactionState::Open(transaction);
                Ok(())
            }
            TransactionState::Open(_) | TransactionState::Closed(_) => {
                Err(Error::TransactionClosed { message: "a transaction can be entered once: make a new one" })
            }
        })??;
        Ok(slf)
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        exc_type: &Bound<'_, PyAny>,
        _exc_value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        // Closed first: a publication that fails, or calls back, does not find it open.
        let state = self.with_state(|state| std::mem::replace(state, TransactionState::Closed(None)))?;
        if let (TransactionState::Open(transaction), true) = (state, exc_type.is_none()) {
            // A share of its own: without the interpreter's lock, another thread may drop the last reference to the space.
            let space = self.space.get().inner().clone();
            let published = detached(py, None, |interrupt| transaction.publish(&space, interrupt))?;
            if let Some(map) = published {
                let base = self.space.get().base_of(py, &map)?;
                self.with_state(|state| *state = TransactionState::Closed(Some(base)))?;
            }
        }
        Ok(false)
    }

    /// Stages an insertion; returns the staged map. Raises as `AddressSpace.insert_region` does.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> with space.transaction() as change:
    /// ...     len(change.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))), len(space)
    /// (1, 0)
    fn insert_region(&self, region: &Bound<'_, PyRegion>) -> PyResult<PyBase> {
        let region = handed_over(region)?;
        self.stage(|transaction| transaction.insert(region))
    }

    /// Stages the removal of a region, given by its exact base, its name or an equal region; returns the staged map.
    ///
    /// Raises `UnmappedAddress`; the exit raises `RegionBusy` when the region is leased.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> with space.transaction() as change:
    /// ...     len(change.remove_region("ram0")), len(space)
    /// (0, 1)
    fn remove_region(&self, x: &Bound<'_, PyAny>) -> PyResult<PyBase> {
        let target = target(x, "x")?;
        self.stage(|transaction| transaction.remove(&target))
    }

    /// Stages a replacement that keeps range and backing; returns the staged map. Raises as `AddressSpace.replace_region` does.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> with space.transaction() as change:
    /// ...     change.replace_region("ram0", space[0].replace(name="low"))["low"].base
    /// 0
    fn replace_region(&self, old: &Bound<'_, PyAny>, new: &Bound<'_, PyRegion>) -> PyResult<PyBase> {
        let (old, new) = (target(old, "old")?, handed_over(new)?);
        self.stage(|transaction| transaction.replace(&old, new))
    }

    /// The map that the exit published, or `None` before it and when nothing was published.
    #[getter]
    fn published(&self, py: Python<'_>) -> PyResult<Option<Py<PyBase>>> {
        self.with_state(|state| match state {
            TransactionState::Closed(base) => base.as_ref().map(|base| base.clone_ref(py)),
            TransactionState::New | TransactionState::Open(_) => None,
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.space)
    }

    fn __repr__(&self) -> PyResult<&'static str> {
        self.with_state(|state| match state {
            TransactionState::New => "Transaction(not entered)",
            TransactionState::Open(_) => "Transaction(open)",
            TransactionState::Closed(Some(_)) => "Transaction(published)",
            TransactionState::Closed(None) => "Transaction(closed, nothing published)",
        })
    }
}

#[pymethods]
impl PySpace {
    /// Opens a `Transaction`: many changes, one publication, or none.
    ///
    /// With `if_generation` it raises `GenerationChanged` when the space has moved on since that generation. A guest's processors must
    /// be paused around one that removes a region and inserts another over the same addresses: see `KvmSlots`.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> with space.transaction(if_generation=0) as change:
    /// ...     _ = change.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))
    #[pyo3(signature = (*, if_generation=None, **others),
        text_signature = "($self, *, if_generation=None)")]
    fn transaction(
        slf: Bound<'_, Self>,
        if_generation: Option<Address>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyTransaction> {
        keywords::refuse_of::<Self>("transaction", others)?;
        Ok(PyTransaction::new(slf.unbind(), if_generation.map(|generation| Generation(generation.0))))
    }
}
