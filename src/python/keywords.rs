//! Keywords that a class does not have: the refusal names the one that is meant.

use pyo3::PyTypeInfo;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::calls::python_call;
use super::guesses;

/// Refuses keywords that are left over when the arguments of a class have been taken.
pub(super) fn refuse<T: PyTypeInfo>(others: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
    let _guard = python_call();
    let Some(others) = others else { return Ok(()) };
    let Some(given) = others.keys().iter().next() else { return Ok(()) };
    let class = T::type_object(others.py());
    let (name, given) = (class.name()?.to_string(), given.to_string());
    let signature: String = class.getattr("__text_signature__")?.extract()?;
    let known = names(&signature);
    let meant = match guesses::meant(&name, &given).filter(|ours| known.contains(ours)) {
        Some(ours) => Some(ours.to_owned()),
        None => closest(others.py(), &given, &known)?,
    };
    let hint =
        meant.map_or_else(|| format!("it takes {}", known.join(", ")), |meant| format!("did you mean '{meant}'?"));
    Err(PyTypeError::new_err(format!("{name}() got an unexpected keyword argument '{given}': {hint}")))
}

/// The names in a text signature.
fn names(signature: &str) -> Vec<&str> {
    let parameters = signature.trim_matches(['(', ')']).split(", ");
    let names = parameters.map(|parameter| parameter.split('=').next().unwrap_or_default());
    names.filter(|name| !matches!(*name, "*" | "/" | "")).collect()
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
        assert!(names("()").is_empty());
    }
}
