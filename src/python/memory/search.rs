//! `BytePattern`, and the iterator that `GuestMemory.search` gives.

use std::ops::ControlFlow;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use pyo3::{PyTraverseError, PyVisit};

use super::PyMemory;
use crate::memory::access::{self, Access, Shape, Verb};
use crate::memory::progress::Progress;
use crate::memory::protection::Need;
use crate::memory::search::Search;
use crate::memory::section::Section;
use crate::model::error::Result;
use crate::model::format::hex;
use crate::model::ids::{Generation, Incarnation};
use crate::model::int::usize_of;
use crate::model::interrupt::{Interrupt, STEP, Uninterrupted};
use crate::model::invalid::Invalid;
use crate::model::pattern::Pattern;
use crate::model::range::Range;
use crate::model::room;
use crate::python::buffer;
use crate::python::calls::python_call;
use crate::python::convert::{Address, Size, U64};
use crate::python::interrupt::PyInterrupt;
use crate::python::keywords;
use crate::python::space_ref::SpaceRef;
use crate::python::threads::Threads;
use crate::sys::lock::Lock;

/// Bytes to search for, of which some nibbles may be anything: hexadecimal digits and `?`, with or without spaces.
///
/// `len()` is the number of bytes. Raises `InvalidArgument` for another text, and when no digit is fixed.
///
/// >>> from dbs_address_space import BytePattern
/// >>> BytePattern("488b??c?")
/// BytePattern('48 8b ?? c?')
#[pyclass(frozen, eq, hash, weakref, name = "BytePattern", module = "dbs_address_space")]
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

    fn __str__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        PyString::from_bytes(py, self.0.text()?.as_bytes())
    }

    fn __repr__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let _guard = python_call();
        PyString::new(py, "BytePattern('{}')").into_any().call_method1("format", (self.__str__(py)?,))
    }

    fn __getnewargs__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyString>,)> {
        Ok((self.__str__(py)?,))
    }
}

const SEARCH: Verb = Verb::new("search", Need::Read).long_from(256 << 10);

/// The pattern that a needle stands for.
fn pattern(needle: &Bound<'_, PyAny>) -> PyResult<Arc<Pattern>> {
    let _guard = python_call();
    if let Ok(pattern) = needle.cast::<PyPattern>() {
        return Ok(Arc::clone(&pattern.get().0));
    }
    buffer::with_input(needle, "needle", |bytes| {
        let mut copy = room::zeroed(bytes.size())?;
        for (index, part) in copy.chunks_mut(usize_of(STEP)).enumerate() {
            bytes.copy_to(index.saturating_mul(usize_of(STEP)), part)?;
            needle.py().check_signals()?;
        }
        Ok(Arc::new(Pattern::exact(copy)?))
    })
}

/// The matches of a search, found as they are asked for.
#[pyclass(frozen, weakref, name = "_Search", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PySearch {
    space: SpaceRef,
    incarnation: Incarnation,
    interrupt: PyInterrupt,
    total: u64,
    threads: Option<usize>,
    state: Lock<SearchState>,
}

#[derive(Debug)]
struct SearchState {
    search: Search,
    /// Matches that may still be given.
    left: u64,
    /// Bytes that were looked at.
    done: u64,
    /// The map in which the matches were found that were not given yet.
    generation: Option<Generation>,
}

impl SearchState {
    /// Matches that were found on an older map may be gone from this one.
    fn see(&mut self, generation: Generation) {
        if self.generation != Some(generation) {
            self.search.rewind();
            self.generation = Some(generation);
        }
    }
}

impl PySearch {
    /// The generation of the map, unless the memory was closed.
    fn generation(&self) -> Result<Generation> {
        let snapshot = self.space.load();
        snapshot.memory_of(self.incarnation).map(|_| snapshot.map.generation())
    }

    /// The next match, or the end, where little is to be done for it: with the interpreter's lock and on one snapshot, as a short copy.
    fn soon(&self, state: &mut SearchState) -> Result<ControlFlow<Option<u64>>> {
        let snapshot = self.space.load();
        let memory = snapshot.memory_of(self.incarnation)?;
        state.see(snapshot.map.generation());
        loop {
            while state.search.has_window() {
                match state.search.next_within(SEARCH.long_from) {
                    Some(found) => return Ok(ControlFlow::Break(Some(found))),
                    None if state.search.has_window() => return Ok(ControlFlow::Continue(())),
                    None => {}
                }
            }
            let range = state.search.left();
            if range.is_empty() {
                return Ok(ControlFlow::Break(None));
            }
            let sides = [(SEARCH.shaped(Shape::Run(state.search.window())), &[range][..])];
            let [sections] = access::plan(&snapshot.map, memory, sides)?;
            if range.size() > SEARCH.long_from || sections.iter().any(Section::may_block) {
                return Ok(ControlFlow::Continue(()));
            }
            state.search.look(&sections, &Uninterrupted)?;
        }
    }

    /// The next match; windows are leased one at a time.
    fn next(&self, state: &mut SearchState, interrupt: &dyn Interrupt) -> Result<Option<u64>> {
        loop {
            state.see(self.generation()?);
            let progress = Progress::at(SEARCH.name, state.done, self.total, interrupt);
            if let Some(found) = state.search.next(&progress)? {
                return Ok(Some(found));
            }
            let range = state.search.left();
            if range.is_empty() {
                return Ok(None);
            }
            let reach = state.search.reach(self.threads);
            let most = reach.unwrap_or_else(|| state.search.window());
            let sides = [(SEARCH.shaped(Shape::Run(most)), &[range][..])];
            let leased = self.space.try_lease(self.incarnation, sides)?;
            let [leased] = self.space.lease(self.incarnation, sides, leased, interrupt)?;
            let sections = room::collected(leased.sections())?;
            let looked_at = match reach {
                Some(_) => state.search.look_ahead(&sections, self.threads, &progress)?,
                None => state.search.look(&sections, &progress)?,
            };
            // The map may have grown since the total was taken.
            state.done = state.done.saturating_add(looked_at).min(self.total);
            interrupt.progress("search", state.done, self.total)?;
        }
    }
}

#[pymethods]
impl PySearch {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __repr__(&self) -> String {
        let position = self.state.try_lock().map(|state| hex(state.search.left().base()));
        let at = position.map_or_else(|| "in use".into(), |position| format!("at {position}"));
        format!("<matches of GuestMemory.search, {at}, in {} bytes>", hex(self.total))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.interrupt.function())
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        // Never waited for: the other thread may wait for the interpreter's lock, which this one has.
        let Some(mut state) = self.state.try_lock() else {
            return Err(Invalid::argument("the search is going on in another thread").into());
        };
        if state.left == 0 {
            return Ok(None);
        }
        let current: &mut SearchState = &mut state;
        // Progress is told when the lock was let go.
        let soon = if self.interrupt.function().is_none() { self.soon(current)? } else { ControlFlow::Continue(()) };
        let found = match soon {
            ControlFlow::Break(found) => found,
            ControlFlow::Continue(()) => self.interrupt.run(py, |interrupt| self.next(current, interrupt))?,
        };
        state.left = if found.is_some() { state.left.saturating_sub(1) } else { 0 };
        Ok(found)
    }
}

#[pymethods]
impl PyMemory {
    /// The addresses at which `needle` is found, by ascending address: an iterator.
    ///
    /// `needle` is bytes-like or a `BytePattern`. Matches lie whole in `[start, end)`, begin at multiples of `align`, may overlap each
    /// other and the joints of regions that touch; holes, device regions and what may not be read are skipped. At most `limit` are
    /// given. Nothing is leased between two matches: the search goes on in the map as it is then. Where matches are rare, `threads`
    /// threads look ahead, by default as many as help. Looking at memory that no one has written does not allocate it. `progress(p)` is called at most 20 times a second. Raises `InvalidArgument` for an empty
    /// needle or an `align` of 0; while it is iterated `MemoryFault`, `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, BytePattern
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.writev([(0x100, b"\x7fELF\x02"), (0x2000, b"\x7fELF\x01")])
    /// >>> [hex(addr) for addr in memory.search(b"\x7fELF")], list(memory.search(BytePattern("7f 45 4c 46 01")))
    /// (['0x100', '0x2000'], [8192])
    #[pyo3(signature = (needle, start=Address(0), end=None, *, limit=None, align=Size(1), threads=None, progress=None, **others),
        text_signature = "($self, needle, start=0, end=None, *, limit=None, align=1, threads=None, progress=None)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn search(
        &self,
        needle: &Bound<'_, PyAny>,
        start: Address,
        end: Option<Address>,
        limit: Option<U64>,
        align: Size,
        threads: Option<Threads>,
        progress: Option<Py<PyAny>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PySearch> {
        keywords::refuse_of::<Self>("search", others)?;
        if align.0 == 0 {
            return Err(
                Invalid::number("align is 0: give 1 for any address, or what matches begin at multiples of").into()
            );
        }
        let (pattern, range) = (pattern(needle)?, span(start, end)?);
        let verb = SEARCH.shaped(Shape::Allowed);
        let total = self.short(|map, memory| {
            let sections = Access { map, memory, verb, range }.sections()?;
            Ok(sections.iter().map(Section::size).sum())
        })?;
        let found = SearchState {
            search: Search::new(pattern, range, align.0),
            left: limit.map_or(u64::MAX, |limit| limit.0),
            done: 0,
            generation: None,
        };
        let (space, interrupt) = (self.space.clone(), PyInterrupt::new(needle.py(), progress)?);
        let threads = threads.map(|threads| threads.0);
        Ok(PySearch { space, incarnation: self.incarnation, interrupt, total, threads, state: Lock::new(found) })
    }
}

/// From `start` to `end`, or to the end of the address space.
pub(super) fn span(start: Address, end: Option<Address>) -> PyResult<Range> {
    match end {
        Some(end) if end.0 < start.0 => {
            let hex = crate::model::format::hex;
            let message = format!("end {} lies below start {}", hex(end.0), hex(start.0));
            Err(Invalid::at(message, Some(start.0), None).into())
        }
        end => Ok(Range::between(start.0, end.map_or(u64::MAX, |end| end.0))),
    }
}
