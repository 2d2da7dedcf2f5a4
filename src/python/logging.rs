//! The logger `dbs_address_space`, which tells what the journal has: where Python code may run, and only to who has imported `logging`.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::calls::python_call;
use super::import_once::ImportOnce;
use crate::model::journal;
use crate::sys::once::Once;

/// The logger, once the program has imported `logging`: before that nobody can have asked for it.
fn logger(py: Python<'_>) -> PyResult<Option<&Bound<'_, PyAny>>> {
    static LOGGER: Once<Py<PyAny>> = Once::new();
    if let Some(logger) = LOGGER.get() {
        return Ok(Some(logger.bind(py)));
    }
    let _guard = python_call();
    static MODULES: ImportOnce = ImportOnce::new();
    let modules = MODULES.import(py, "sys", "modules")?.cast::<PyDict>()?;
    // A thread that imports it now is not done yet: `getLogger` comes late in that module.
    let Some(logging) = modules.get_item("logging")?.filter(|logging| logging.hasattr("NullHandler").unwrap_or(false))
    else {
        return Ok(None);
    };
    let made = LOGGER.get_or_try_init(|| {
        let logger = logging.call_method1("getLogger", ("dbs_address_space",))?;
        // Without a handler, warnings would go to the standard error of programs that did not ask.
        logger.call_method1("addHandler", (logging.call_method0("NullHandler")?,))?;
        Ok::<_, PyErr>(logger.unbind())
    })?;
    Ok(Some(made.bind(py)))
}

/// Looks from which level on the journal is read, before work that may write to it.
pub(super) fn look(py: Python<'_>) {
    let _guard = python_call();
    let level = logger(py).and_then(|logger| {
        logger.map_or(Ok(journal::NOBODY), |logger| logger.call_method0("getEffectiveLevel")?.extract())
    });
    // A level beyond all of ours is none of them.
    journal::read_from(level.unwrap_or(journal::NOBODY));
}

/// Tells what the journal has. What a handler raises has nowhere to go.
pub(super) fn tell(py: Python<'_>) {
    let entries = journal::taken();
    if entries.is_empty() {
        return;
    }
    let _guard = python_call();
    let told = logger(py).and_then(|logger| {
        let Some(logger) = logger else { return Ok(()) };
        // As an argument, so that a name with a percent sign is not taken for a format.
        entries.iter().try_for_each(|entry| {
            logger.call_method1("log", (entry.level.number(), "%s", entry.text.as_str())).map(drop)
        })
    });
    if let Err(error) = told {
        error.write_unraisable(py, None);
    }
}
