//! `threads=`, of verbs that share their work out.

use pyo3::prelude::*;

use super::convert::U32;
use crate::model::int::usize_of;
use crate::model::invalid::Invalid;

/// How many threads are to work.
#[derive(Clone, Copy, Debug)]
pub struct Threads(pub(super) usize);

impl<'py> FromPyObject<'_, 'py> for Threads {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let count = usize_of(object.extract::<U32>()?.0.into());
        if (1..=1024).contains(&count) {
            return Ok(Self(count));
        }
        Err(Invalid::argument("threads must lie between 1 and 1024").into())
    }
}
