//! NumPy arrays over guest memory, through a memoryview.

use pyo3::exceptions::{PyModuleNotFoundError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMemoryView, PyTuple};

use super::argument::Argument;
use super::calls::python_call;
use super::convert::{self, U64};
use crate::model::invalid::Invalid;

/// The bytes that an array takes, and how NumPy lays it over them.
pub(super) struct ArrayLayout<'py> {
    keywords: Bound<'py, PyDict>,
    numpy: Bound<'py, PyModule>,
    size: u64,
}

impl<'py> ArrayLayout<'py> {
    /// Asks NumPy for the item size; shapes are one int or a sequence.
    pub(super) fn new(
        py: Python<'py>,
        shape: &Bound<'py, PyAny>,
        dtype: &Bound<'py, PyAny>,
        strides: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        let _guard = python_call();
        let numpy = numpy(py, "array")?;
        let dtype = numpy.call_method1("dtype", (dtype,)).argument("dtype")?;
        let shape = lengths(shape).argument("shape")?;
        if dtype.getattr("hasobject")?.is_truthy()? {
            return Err(PyTypeError::new_err(format!(
                "dtype {dtype} holds Python objects, which can't live in guest memory"
            )));
        }
        let item_size: u64 = dtype.getattr("itemsize")?.extract()?;
        let strides = strides.map(lengths).transpose().argument("strides")?;
        let size = size(&shape, item_size, strides.as_deref())?;
        let keywords = PyDict::new(py);
        keywords.set_item("shape", PyTuple::new(py, shape)?)?;
        keywords.set_item("dtype", dtype)?;
        keywords.set_item("strides", strides.map(|strides| PyTuple::new(py, strides)).transpose()?)?;
        Ok(Self { keywords, numpy, size })
    }

    /// The number of bytes from the first to behind the last.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// The array over a view of that many bytes.
    ///
    /// `ndarray(buffer=view)` would keep the view's exporter, which holds no lease; `frombuffer` keeps the view itself.
    pub(super) fn over(&self, view: &Bound<'py, PyMemoryView>) -> PyResult<Bound<'py, PyAny>> {
        let _guard = python_call();
        self.keywords.set_item("buffer", self.numpy.call_method1("frombuffer", (view, "u1"))?)?;
        self.numpy.getattr("ndarray")?.call((), Some(&self.keywords))
    }
}

/// NumPy, or how to get it for a verb.
pub(super) fn numpy<'py>(py: Python<'py>, verb: &str) -> PyResult<Bound<'py, PyModule>> {
    let _guard = python_call();
    py.import("numpy").map_err(|error| {
        let message = format!("{verb}() needs NumPy: pip install 'dbs-address-space[numpy]'");
        let missing = PyModuleNotFoundError::new_err(message);
        missing.set_cause(py, Some(error));
        missing
    })
}

/// One int, or several.
fn lengths(given: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    let _guard = python_call();
    match given.hasattr("__iter__")? {
        true => convert::items(given, "ints", |item| Ok(item.extract::<U64>()?.0)),
        false => Ok(vec![given.extract::<U64>()?.0]),
    }
}

fn size(lengths: &[u64], item_size: u64, strides: Option<&[u64]>) -> PyResult<u64> {
    if lengths.contains(&0) {
        return Ok(0);
    }
    let size = match strides {
        None => lengths.iter().try_fold(item_size, |size, length| size.checked_mul(*length)),
        Some(strides) if strides.len() == lengths.len() => {
            let last = |length: &u64, stride: &u64| length.saturating_sub(1).checked_mul(*stride);
            lengths
                .iter()
                .zip(strides)
                .try_fold(item_size, |size, (length, stride)| size.checked_add(last(length, stride)?))
        }
        Some(_) => return Err(Invalid::argument("strides must have as many items as shape").into()),
    };
    size.ok_or_else(|| Invalid::number("the array is larger than 2^64 bytes").into())
}
