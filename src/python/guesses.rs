//! Names that users of `mmap`, Unicorn, drgn, NumPy and other VMMs guess first, and ours for them.
//!
//! A guess is an attribute of the class that is never there, so that the names that are stay as fast as they were: a `__getattr__`
//! would make each call of a method twice as slow on CPython 3.11.

use pyo3::PyTypeInfo;
use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyList, PyTuple, PyType};

use super::calls::python_call;
use super::convert;
use super::guess_table::{CLASSES, MODULE};

/// A name that somebody may look for in a class, and ours.
#[pyclass(frozen, name = "_Guess", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PyGuess {
    name: &'static str,
    ours: &'static str,
    class: String,
}

impl PyGuess {
    fn refusal(&self, class: &dyn std::fmt::Display) -> PyErr {
        let Self { name, ours, .. } = self;
        PyAttributeError::new_err(format!("{class} has no attribute '{name}': use {ours}"))
    }
}

#[pymethods]
impl PyGuess {
    fn __get__(slf: Py<Self>, instance: Option<&Bound<'_, PyAny>>, owner: &Bound<'_, PyAny>) -> PyResult<Py<Self>> {
        // Of the class itself it is there: whoever goes through the names of a class finds something under each.
        if instance.is_none() {
            return Ok(slf);
        }
        let _guard = python_call();
        Err(slf.get().refusal(&owner.getattr("__name__")?))
    }

    /// Called on the class, as a constructor of another name would be.
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn __call__(&self, _arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        Err(self.refusal(&self.class))
    }

    fn __repr__(&self) -> String {
        format!("<not an attribute: '{}' is {}>", self.name, self.ours)
    }
}

/// Hides guesses from `dir()`.
#[pyclass(frozen, name = "_Dir", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PyDir;

#[pymethods]
impl PyDir {
    fn __get__<'py>(
        slf: Bound<'py, Self>,
        instance: Option<Py<PyAny>>,
        _owner: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(instance) = instance else { return Ok(slf.into_any()) };
        let names = move |arguments: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
            attributes(instance.bind(arguments.py())).map(Bound::unbind)
        };
        PyCFunction::new_closure(slf.py(), None, None, names).map(Bound::into_any)
    }
}

/// `object.__dir__`, without guesses.
fn attributes<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    let _guard = python_call();
    let py = object.py();
    let is_guess = |name: &Bound<'py, PyAny>| {
        object.get_type().mro().iter().try_fold(false, |found, class| {
            let there = class.getattr("__dict__")?.call_method1("get", (name,))?;
            Ok::<_, PyErr>(found || there.is_instance_of::<PyGuess>())
        })
    };
    let kept = PyList::empty(py);
    convert::items(&PyAny::type_object(py).call_method1("__dir__", (object,))?, "names", |name| {
        if is_guess(&name)? { Ok(()) } else { kept.append(name) }
    })?;
    Ok(kept)
}

/// Gives a class the guesses of its name, and returns the class: a decorator.
#[pyfunction]
pub fn guessed<'py>(owner: Bound<'py, PyType>) -> PyResult<Bound<'py, PyType>> {
    let _guard = python_call();
    let (py, class) = (owner.py(), owner.name()?.to_string());
    for (names, ours) in guesses_of(&class) {
        names
            .split(' ')
            .try_for_each(|name| owner.setattr(name, Py::new(py, PyGuess { name, ours, class: class.clone() })?))?;
        owner.setattr("__dir__", Py::new(py, PyDir)?)?;
    }
    Ok(owner)
}

/// The guesses at names of a class, with ours.
fn guesses_of(class: &str) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let tables = CLASSES.iter().filter(move |(classes, _)| classes.split(' ').any(|one| one == class));
    tables.flat_map(|(_, guesses)| *guesses)
}

/// Our name for a guess at an attribute of a class.
pub(super) fn meant(class: &str, guess: &str) -> Option<&'static str> {
    guesses_of(class).find(|(names, _)| names.split(' ').any(|name| name == guess)).map(|(_, ours)| *ours)
}

/// Our name for a guess at one of the package's.
#[pyfunction]
pub fn guessed_name(name: &str) -> Option<&'static str> {
    MODULE.iter().find(|(names, _)| names.split(' ').any(|guess| guess == name)).map(|(_, ours)| *ours)
}
