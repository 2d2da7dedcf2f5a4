//! A file of the package's Python part that has its name when it is whole.

use std::os::fd::AsRawFd;
use std::path::PathBuf;

use pyo3::prelude::*;

use super::calls;
use crate::image::part::failed;
use crate::sys::lock::Lock;
use crate::sys::new_file::NewFile;

/// A file in the making: its `with` block, and its end, leave nothing of one that was not published.
#[pyclass(frozen, weakref, name = "_NewFile", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PyNewFile(Lock<Option<NewFile>>);

#[pymethods]
impl PyNewFile {
    #[new]
    fn new(path: PathBuf) -> PyResult<Self> {
        let made = NewFile::create(&path, 0o666).map_err(|error| failed(&path, &error))?;
        Ok(Self(Lock::new(Some(made))))
    }

    /// The descriptor, which stays this one's; -1 once it is published or gone.
    fn fileno(&self) -> PyResult<i32> {
        Ok(self.0.lock()?.as_ref().map_or(-1, |made| made.file().as_raw_fd()))
    }

    /// Gives the file its name.
    fn publish(&self, py: Python<'_>) -> PyResult<()> {
        let made = self.0.lock()?.take();
        let publish = |made: NewFile| {
            let path = made.target().to_path_buf();
            made.publish().map_err(|error| failed(&path, &error))
        };
        Ok(calls::detach(py, || made.map_or(Ok(()), publish))?)
    }

    const fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let made = self.0.lock()?.take();
        calls::detach(py, || drop(made));
        Ok(())
    }
}
