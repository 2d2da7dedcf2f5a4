//! `BytePattern`, and the iterator that `GuestMemory.search` gives.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use crate::memory::search::Search;
use crate::model::error::Result;
use crate::model::ids::{Generation, Incarnation};
use crate::model::interrupt::Interrupt;
use crate::model::invalid::Invalid;
use crate::model::lock::Lock;
use crate::model::pattern::Pattern;
use crate::model::range::Range;
use crate::python::buffer;
use crate::python::interrupt::PyInterrupt;
use crate::python::space_ref::SpaceRef;

/// Bytes to search for, of which some nibbles may be anything: hexadecimal digits and `?`, with or without spaces.
///
/// `len()` is the number of bytes. Raises `InvalidArgument` for another text, and when no digit is fixed.
///
/// >>> from dbs_address_space import BytePattern
/// >>> BytePattern("488b??c?")
/// BytePattern('48 8b ?? c?')
#[pyclass(frozen, eq, hash, name = "BytePattern", module = "dbs_address_space")]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct PyPattern(Arc<Pattern>);

#[pymethods]
impl PyPattern {
    #[new]
    fn new(text: &str) -> PyResult<Self> {
        Ok(Self(Arc::new(Pattern::parse(text)?)))
    }

    fn __len__(&self) -> usize {
        self.0.size()
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        format!("BytePattern('{}')", self.0)
    }

    fn __getnewargs__(&self) -> (String,) {
        (self.0.to_string(),)
    }
}

/// What a needle stands for.
pub(super) fn pattern(needle: &Bound<'_, PyAny>) -> PyResult<Arc<Pattern>> {
    if let Ok(pattern) = needle.cast::<PyPattern>() {
        return Ok(Arc::clone(&pattern.get().0));
    }
    buffer::with_input(needle, |bytes| {
        let mut copy = vec![0; bytes.size()];
        bytes.copy_to(0, &mut copy)?;
        Ok(Arc::new(Pattern::exact(&copy)?))
    })
}

/// The matches of a search, found as they are asked for.
#[pyclass(frozen, name = "_Search", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PySearch {
    space: SpaceRef,
    incarnation: Incarnation,
    interrupt: PyInterrupt,
    total: u64,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    search: Search,
    /// Matches that may still be given.
    left: u64,
    /// Bytes that were looked at.
    done: u64,
    /// The map in which the matches were found that were not given yet.
    generation: Option<Generation>,
}

impl PySearch {
    pub(super) fn new(
        space: &SpaceRef,
        incarnation: Incarnation,
        (pattern, range, align): (Arc<Pattern>, Range, u64),
        limit: u64,
        (progress, total): (Option<Py<PyAny>>, u64),
    ) -> Self {
        let search = Search::new(pattern, range.base(), range.end(), align);
        let state = Lock::new(State { search, left: limit, done: 0, generation: None });
        Self { space: space.clone(), incarnation, interrupt: PyInterrupt::new(progress), total, state }
    }

    /// The generation of the map, unless the memory was closed.
    fn generation(&self) -> Result<Generation> {
        let snapshot = self.space.load();
        snapshot.memory_of(self.incarnation).map(|_| snapshot.map.generation())
    }

    /// The next match; windows are leased one at a time.
    fn next(&self, state: &mut State, interrupt: &dyn Interrupt) -> Result<Option<u64>> {
        loop {
            let generation = self.generation()?;
            if state.generation != Some(generation) {
                state.search.rewind();
                state.generation = Some(generation);
            }
            if let Some(found) = state.search.pop() {
                return Ok(Some(found));
            }
            let (range, most) = state.search.window();
            if range.is_empty() {
                return Ok(None);
            }
            let leased = self.space.lease_run(self.incarnation, ("search", range), most, interrupt)?;
            state.done = state.done.saturating_add(state.search.look(&leased.sections)?);
            interrupt.progress("search", state.done.min(self.total), self.total)?;
        }
    }
}

#[pymethods]
impl PySearch {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.interrupt.function())
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        let Some(mut state) = self.state.try_lock() else {
            return Err(Invalid::argument("the search is going on in another thread").into());
        };
        if state.left == 0 {
            return Ok(None);
        }
        let current: &mut State = &mut state;
        let found = self.interrupt.run(py, |interrupt| self.next(current, interrupt))?;
        state.left = if found.is_some() { state.left.saturating_sub(1) } else { 0 };
        Ok(found)
    }
}
