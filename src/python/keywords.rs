//! Keywords that a callable does not have: the refusal names the one that is meant.
//!
//! PyO3 refuses them before any code of ours runs, so a callable that is to say more takes `**others`. Each call of it then makes a tuple,
//! and a dict where there are keywords, which takes 40 and 70 ns, as long as `read_u64` itself: so constructors, functions and verbs with
//! options do, and the small verbs of memory do not.

use pyo3::PyTypeInfo;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::calls::python_call;
use super::convert::word;
use super::guesses;

/// The keywords that are left over when a callable has taken its own.
type Others<'a, 'py> = Option<&'a Bound<'py, PyDict>>;

/// Refuses what is left over of the arguments of a class.
pub(super) fn refuse<T: PyTypeInfo>(others: Others<'_, '_>) -> PyResult<()> {
    let Some(others) = others else { return Ok(()) };
    let class = T::type_object(others.py());
    let name = class.name()?.to_string();
    Err(refusal(&class, &name, &name, others)?)
}

/// Refuses what is left over of the arguments of a method of a class.
pub(super) fn refuse_of<T: PyTypeInfo>(method: &str, others: Others<'_, '_>) -> PyResult<()> {
    let Some(others) = others else { return Ok(()) };
    let _guard = python_call();
    let class = T::type_object(others.py());
    let name = class.name()?.to_string();
    Err(refusal(&class.getattr(method)?, &name, &format!("{name}.{method}"), others)?)
}

/// Refuses what is left over of the arguments of a function.
pub(super) fn refuse_of_function(name: &str, others: Others<'_, '_>) -> PyResult<()> {
    let Some(others) = others else { return Ok(()) };
    let _guard = python_call();
    let function = others.py().import("dbs_address_space._core")?.getattr(name)?;
    Err(refusal(&function, "", name, others)?)
}

fn refusal(callable: &Bound<'_, PyAny>, class: &str, name: &str, others: &Bound<'_, PyDict>) -> PyResult<PyErr> {
    let _guard = python_call();
    let first = others.keys().iter().next();
    let first = first.as_ref().and_then(|first| first.cast::<PyString>().ok()).map(Bound::as_borrowed);
    let given = first.as_ref().map(word).transpose()?.unwrap_or_default();
    let signature: String = callable.getattr("__text_signature__")?.extract()?;
    let known = names(&signature);
    let meant = match guesses::meant(class, &given).filter(|ours| known.contains(ours)) {
        Some(ours) => Some(ours.to_owned()),
        None => closest(others.py(), &given, &known)?,
    };
    let hint =
        meant.map_or_else(|| format!("it takes {}", known.join(", ")), |meant| format!("did you mean '{meant}'?"));
    Ok(PyTypeError::new_err(format!("{name}() got an unexpected keyword argument '{given}': {hint}")))
}

/// The names in a text signature.
fn names(signature: &str) -> Vec<&str> {
    let parameters = signature.trim_matches(['(', ')']).split(", ");
    let names = parameters.map(|parameter| parameter.split('=').next().unwrap_or_default());
    names.filter(|name| !matches!(*name, "*" | "/" | "" | "$self")).collect()
}

fn closest(py: Python<'_>, given: &str, known: &[&str]) -> PyResult<Option<String>> {
    let _guard = python_call();
    let found = py.import("difflib")?.call_method1("get_close_matches", (given, known, 1))?;
    let part = || known.iter().find(|name| name.contains(given)).map(|name| (*name).to_owned());
    found.extract::<Vec<String>>().map(|mut found| found.pop().or_else(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_signature() {
        assert_eq!(names("(machine='q35', *, arch=None, windows=(), nodes)"), ["machine", "arch", "windows", "nodes"]);
        assert_eq!(names("($self, size, *, align=None)"), ["size", "align"]);
        assert!(names("()").is_empty());
    }
}
