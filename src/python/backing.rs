//! `BackingOptions` and `NumaPolicy`.

use crate::model::format::hex;
use crate::model::quote::quoted;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString, PyTuple};

use super::argument::{Argument, wanted};
use super::calls::python_call;
use super::convert::{self, Size};
use super::keywords;
use crate::model::backing::{BackingOptions, Seal};
use crate::model::invalid::Invalid;
use crate::model::policy::{NumaPolicy, PolicyMode, node_list, parse_node_list};

/// The NUMA nodes of the host that memory should come from.
///
/// `mode` is `"default"`, `"bind"`, `"preferred"` (one node), `"preferred-many"`, `"interleave"` or `"weighted-interleave"`. `nodes`
/// are ints of any size, or text such as `"0-2,64"`; none stand for the `host_numa_node_id` of the region. With `strict` a page that
/// is there already and can't be moved is an error. Set before the first touch, by `mbind(2)`. Raises `InvalidArgument`.
///
/// >>> from dbs_address_space import NumaPolicy
/// >>> NumaPolicy("interleave", "0-1,64").nodes
/// (0, 1, 64)
#[pyclass(frozen, eq, hash, weakref, name = "NumaPolicy", module = "dbs_address_space")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PyNumaPolicy(pub(super) NumaPolicy);

#[pymethods]
impl PyNumaPolicy {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str) {
        ("mode", "nodes")
    }

    #[new]
    #[pyo3(signature = (mode, nodes=None, *, strict=false, **others), text_signature = "(mode, nodes=(), *, strict=False)")]
    fn new(
        mode: &str,
        nodes: Option<&Bound<'_, PyAny>>,
        strict: bool,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse::<Self>(others)?;
        let _guard = python_call();
        let mode = PolicyMode::parse(mode)?;
        let nodes = match nodes {
            None => Default::default(),
            Some(text) if text.is_instance_of::<PyString>() => {
                let text = convert::text(text)?;
                parse_node_list(&text).ok_or_else(|| {
                    Invalid::argument(format!(
                        "{text} is not a list of NUMA nodes: write \"0\", \"0-3\" or \"0,2-3\"",
                        text = quoted(&text)
                    ))
                })?
            }
            Some(given) => super::numa::ids(Some(given), "nodes")?.into_iter().collect(),
        };
        let policy = NumaPolicy { mode, nodes, strict };
        policy.check()?;
        Ok(Self(policy))
    }

    /// The policy's name.
    #[getter]
    fn mode(&self) -> &'static str {
        self.0.mode.name()
    }

    /// The nodes by ascending number; none stand for the region's own.
    #[getter]
    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.nodes)
    }

    /// Whether pages that can't be moved are an error.
    #[getter]
    fn strict(&self) -> bool {
        self.0.strict
    }

    fn __repr__(&self) -> String {
        let (mode, nodes) = (self.0.mode.name(), node_list(&self.0.nodes));
        let nodes = if nodes.is_empty() { String::new() } else { format!(", '{nodes}'") };
        let strict = if self.0.strict { ", strict=True" } else { "" };
        format!("NumaPolicy('{mode}'{nodes}{strict})")
    }

    #[allow(clippy::type_complexity, reason = "what pickle asks for")]
    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<((&'static str, Bound<'py, PyTuple>), Bound<'py, PyDict>)> {
        let keywords = PyDict::new(py);
        keywords.set_item("strict", self.0.strict)?;
        Ok(((self.mode(), self.nodes(py)?), keywords))
    }
}

/// How a region's memory is requested from the kernel. An immutable value; `None` leaves the choice to the source.
///
/// - `page_size`: of a huge source, any that the host lists; the region's `page_size`.
/// - `alignment`: of the host address, a power of two. Anonymous memory with `transparent_hugepage` is aligned to 2 MiB anyway.
/// - `reserve`: whether memory is set aside when mapping; `False` is `MAP_NORESERVE`, with which a full pool is found out later.
/// - `transparent_hugepage`, `ksm`: advised or forbidden; the region's `is_hugepage` and `is_mergeable` for `True`. The kernel merges
///   private memory of small pages alone; elsewhere `ksm` is for whoever asks the region.
/// - `dontdump`, `dontfork`: left out of core dumps; not there in forked children, where an access is `MemoryFault`.
/// - `mlock`: all pages are there and stay there.
/// - `max_size`: the most bytes that `grow_region` may give the region without a new memory. Host addresses for as many are set aside, and of huge pages
///   the pages; other pages cost nothing before they are touched. For memfds and anonymous memory, without `mlock` and `MAP_POPULATE`.
/// - `guard_pages`: an inaccessible page before and behind the mapping.
/// - `may_block`: somebody answers page faults of the memory, as with a userfaultfd: accesses let other threads run, and one that is not
///   answered within a second is `MemoryFault`. Views and atomics are refused. For memory that is registered only after it was mapped.
/// - `trusted`: of a file or buffer, your word that nobody cuts or moves it: it is touched directly, with views and atomics. Where the word is
///   broken, a touch kills the process. Huge pages are guarded all the same, and so is all memory under `vm.overcommit_memory=2`.
/// - `seals`: of a memfd, some of `"shrink"`, `"grow"`, `"seal"` (the three that are the default) and `"future-write"`.
/// - `policy`: a `NumaPolicy` or its mode alone.
///
/// Raises `InvalidArgument`.
///
/// >>> from dbs_address_space import AddressSpaceRegion, BackingOptions
/// >>> options = BackingOptions(mlock=True, policy="bind")
/// >>> AddressSpaceRegion("ram", 0, "1MiB", host_numa_node_id=0, backing=options).backing == options
/// True
#[pyclass(frozen, eq, hash, weakref, name = "BackingOptions", module = "dbs_address_space")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PyBackingOptions(pub(super) BackingOptions);

pub(super) fn policy(object: &Bound<'_, PyAny>) -> PyResult<NumaPolicy> {
    if object.is_instance_of::<PyString>() {
        return Ok(PyNumaPolicy::new(&convert::text(object)?, None, false, None)?.0);
    }
    let policy = object.cast::<PyNumaPolicy>().map_err(|_| wanted("a NumaPolicy or its mode", object))?;
    Ok(policy.get().0.clone())
}

fn seals(object: &Bound<'_, PyAny>) -> PyResult<Vec<Seal>> {
    let _guard = python_call();
    if object.is_instance_of::<PyString>() {
        return Ok(vec![Seal::parse(&convert::text(object)?)?]);
    }
    convert::items(object, "names of seals", |seal| Ok(Seal::parse(&convert::text(&seal)?)?))
}

#[pymethods]
impl PyBackingOptions {
    #[new]
    #[pyo3(signature = (*, page_size=None, alignment=None, max_size=None, reserve=None, transparent_hugepage=None, ksm=None, dontdump=None, dontfork=None, mlock=None,
        guard_pages=None, may_block=None, trusted=None, seals=None, policy=None, **others),
        text_signature = "(*, page_size=None, alignment=None, max_size=None, reserve=None, transparent_hugepage=None, ksm=None, dontdump=None, dontfork=None, mlock=None, guard_pages=None, may_block=None, trusted=None, seals=None, policy=None)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn new(
        page_size: Option<Size>,
        alignment: Option<Size>,
        max_size: Option<Size>,
        reserve: Option<bool>,
        transparent_hugepage: Option<bool>,
        ksm: Option<bool>,
        dontdump: Option<bool>,
        dontfork: Option<bool>,
        mlock: Option<bool>,
        guard_pages: Option<bool>,
        may_block: Option<bool>,
        trusted: Option<bool>,
        seals: Option<&Bound<'_, PyAny>>,
        policy: Option<&Bound<'_, PyAny>>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse::<Self>(others)?;
        let options = BackingOptions {
            page_size: page_size.map(|size| size.0),
            alignment: alignment.map(|size| size.0),
            max_size: max_size.map(|size| size.0),
            reserve,
            transparent_hugepage,
            ksm,
            dontdump,
            dontfork,
            mlock,
            guard_pages,
            may_block,
            trusted,
            seals: seals.map(self::seals).transpose().argument("seals")?,
            policy: policy.map(self::policy).transpose().argument("policy")?,
        };
        Ok(Self(options.checked()?))
    }

    /// The page size of a huge source in bytes.
    #[getter]
    fn page_size(&self) -> Option<u64> {
        self.0.page_size
    }

    /// The most bytes that the region may grow to.
    #[getter]
    fn max_size(&self) -> Option<u64> {
        self.0.max_size
    }

    /// The alignment of the host address in bytes.
    #[getter]
    fn alignment(&self) -> Option<u64> {
        self.0.alignment
    }

    /// Whether memory is set aside when mapping.
    #[getter]
    fn reserve(&self) -> Option<bool> {
        self.0.reserve
    }

    /// Whether transparent huge pages are advised or forbidden.
    #[getter]
    fn transparent_hugepage(&self) -> Option<bool> {
        self.0.transparent_hugepage
    }

    /// Whether kernel samepage merging is advised or forbidden.
    #[getter]
    fn ksm(&self) -> Option<bool> {
        self.0.ksm
    }

    /// Whether it is left out of core dumps.
    #[getter]
    fn dontdump(&self) -> Option<bool> {
        self.0.dontdump
    }

    /// Whether forked children do not get it.
    #[getter]
    fn dontfork(&self) -> Option<bool> {
        self.0.dontfork
    }

    /// Whether it is locked in memory.
    #[getter]
    fn mlock(&self) -> Option<bool> {
        self.0.mlock
    }

    /// Whether inaccessible pages lie before and behind it.
    #[getter]
    fn guard_pages(&self) -> Option<bool> {
        self.0.guard_pages
    }

    /// Whether accesses may wait for whoever answers page faults.
    #[getter]
    fn may_block(&self) -> Option<bool> {
        self.0.may_block
    }

    /// Whether the user vouches that nobody cuts the file, nor moves the buffer.
    #[getter]
    fn trusted(&self) -> Option<bool> {
        self.0.trusted
    }

    /// The seals of a memfd, a tuple of their names.
    #[getter]
    fn seals<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.0.seals.as_ref().map(|seals| PyTuple::new(py, seals.iter().map(|seal| seal.name()))).transpose()
    }

    /// The NUMA policy.
    #[getter]
    fn policy(&self) -> Option<PyNumaPolicy> {
        self.0.policy.clone().map(PyNumaPolicy)
    }

    #[pyo3(signature = (**changes))]
    fn __replace__<'py>(&self, py: Python<'py>, changes: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        self.replace(py, changes)
    }

    /// The options with some of them changed, as `copy.replace` does too; raises as the class does.
    ///
    /// >>> from dbs_address_space import BackingOptions
    /// >>> BackingOptions(mlock=True).replace(mlock=None, ksm=True)
    /// BackingOptions(ksm=True)
    #[pyo3(signature = (**changes))]
    fn replace<'py>(&self, py: Python<'py>, changes: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        let _guard = python_call();
        let keywords = self.keywords(py)?;
        if let Some(changes) = changes {
            keywords.update(changes.as_mapping())?;
        }
        py.get_type::<Self>().call((), Some(&keywords))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let _guard = python_call();
        let items: Vec<String> = self
            .keywords(py)?
            .iter()
            .filter(|(_, value)| !value.is_none())
            .map(|(name, value)| Ok(format!("{name}={}", shown(&value)?)))
            .collect::<PyResult<_>>()?;
        Ok(format!("BackingOptions({})", items.join(", ")))
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        Ok((PyTuple::empty(py), self.keywords(py)?))
    }
}

/// A size in hex, anything else as it is.
fn shown(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let _guard = python_call();
    match value.cast_exact::<PyInt>() {
        Ok(size) => Ok(hex(size.extract()?)),
        Err(_) => Ok(value.repr()?.to_string()),
    }
}

impl PyBackingOptions {
    fn keywords<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let keywords = PyDict::new(py);
        keywords.set_item("page_size", self.0.page_size)?;
        keywords.set_item("alignment", self.0.alignment)?;
        keywords.set_item("max_size", self.0.max_size)?;
        for (name, value) in [
            ("reserve", self.0.reserve),
            ("transparent_hugepage", self.0.transparent_hugepage),
            ("ksm", self.0.ksm),
            ("dontdump", self.0.dontdump),
            ("dontfork", self.0.dontfork),
            ("mlock", self.0.mlock),
            ("guard_pages", self.0.guard_pages),
            ("may_block", self.0.may_block),
            ("trusted", self.0.trusted),
        ] {
            keywords.set_item(name, value)?;
        }
        keywords.set_item("seals", self.seals(py)?)?;
        keywords.set_item("policy", self.policy())?;
        Ok(keywords)
    }
}
