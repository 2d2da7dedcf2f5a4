//! Arguments that are seconds.

use std::time::Duration;

use pyo3::Borrowed;
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::calls::python_call;
use crate::model::invalid::Invalid;

/// Seconds to wait.
#[derive(Clone, Copy, Debug)]
pub struct Timeout(pub(super) Duration);

impl<'py> FromPyObject<'_, 'py> for Timeout {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        not_negative(object, "timeout", ", or None to wait for ever").map(Self)
    }
}

/// Seconds for which a guest may stand still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Downtime(pub(super) Duration);

impl Downtime {
    /// Where the caller says nothing.
    pub(super) const DEFAULT: Self = Self(Duration::from_millis(300));
}

impl<'py> FromPyObject<'_, 'py> for Downtime {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        not_negative(object, "max_downtime", "").map(Self)
    }
}

/// Seconds of at least 0; those that are too many for a clock are as many as it can have.
fn not_negative(object: Borrowed<'_, '_, PyAny>, what: &str, or: &str) -> PyResult<Duration> {
    let seconds = seconds(object, what)?;
    if seconds.is_nan() || seconds < 0.0 {
        return Err(Invalid::argument(format!("{what} is {seconds}: give seconds of at least 0{or}")).into());
    }
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// Seconds between two looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Poll(pub(super) Duration);

impl Poll {
    /// Where the caller says nothing.
    pub(super) const DEFAULT: Self = Self(Duration::from_millis(1));
}

impl<'py> FromPyObject<'_, 'py> for Poll {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let seconds = seconds(object, "poll")?;
        if seconds.is_nan() || seconds <= 0.0 {
            return Err(Invalid::argument(format!("poll is {seconds}: give seconds of more than 0")).into());
        }
        Ok(Self(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)))
    }
}

/// A number of seconds, which may be any float.
fn seconds(object: Borrowed<'_, '_, PyAny>, what: &str) -> PyResult<f64> {
    let _guard = python_call();
    if object.is_instance_of::<PyBool>() {
        return Err(Invalid::argument(format!("{what} is {}: give seconds, not a bool", object.str()?)).into());
    }
    match object.extract::<f64>() {
        // An int too large for a float: only its sign matters.
        Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
            Ok(if object.lt(0)? { f64::NEG_INFINITY } else { f64::INFINITY })
        }
        seconds => seconds,
    }
}
