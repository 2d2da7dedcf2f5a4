//! The one map from errors to Python's exception classes, which live in `dbs_address_space.errors`.

use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::calls::{self, python_call};
use super::logging;
use super::region_objects::RegionObject;
use crate::model::error::{Errno, Error, ImageFault, LeaseInfo, Shortage};
use crate::model::invalid::{Invalid, Kind};
use crate::model::region::SharedRegion;
use crate::sys::fork::Forked;
use crate::sys::once::Once;

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        // An error on the way to an exception is told in its place.
        calls::attach(|py| exception(py, &error).unwrap_or_else(|failure| failure))
            .unwrap_or_else(|| PyRuntimeError::new_err(error.to_string()))
    }
}

impl From<Forked> for PyErr {
    fn from(_: Forked) -> Self {
        Error::Forked.into()
    }
}

impl From<Invalid> for PyErr {
    fn from(invalid: Invalid) -> Self {
        Error::from(invalid).into()
    }
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    // A short access that ended in a fault is told of here: where an exception is made, Python code may run.
    logging::tell(py);
    if let Error::Client { raised: Some(raised), .. } = error
        && let Some(raised) = raised.get::<PyErr>()
    {
        return Ok(raised.clone_ref(py));
    }
    if let Error::NoRoom { message } = error {
        return Ok(PyMemoryError::new_err(message.clone()));
    }
    if let Error::File { message, errno, path } = error {
        // Python makes a `FileNotFoundError` and the like of it.
        return Ok(PyOSError::new_err((*errno, message.clone(), path.clone().into_os_string())));
    }
    described(py, error)?.build(&error.to_string())
}

/// The class of an error and the data that it carries.
fn described<'py>(py: Python<'py>, error: &Error) -> PyResult<Exception<'py>> {
    let new = |class| Exception::new(py, class);
    match error {
        Error::Invalid(invalid) => new(class_of(invalid.kind)).at(invalid.address, invalid.size),
        Error::Layout { region, .. } => new("LayoutViolation").about(Some(region)),
        Error::Overlap { region, conflict } => new("RegionOverlap").about(Some(region))?.conflict(Some(conflict)),
        Error::DuplicateName { region, conflict } => new("DuplicateName").about(Some(region))?.conflict(Some(conflict)),
        Error::Misaligned { address, size, region, .. } => {
            new("Misaligned").at(*address, *size)?.region(region.as_ref())
        }
        Error::Unmapped { address, size, region, .. } => {
            new("UnmappedAddress").at(*address, *size)?.region(region.as_ref())
        }
        Error::UnknownName { .. } => Ok(new("UnknownName")),
        Error::AccessDenied { address, size, region, .. } => {
            new("AccessDenied").at(Some(*address), Some(*size))?.region(Some(region))
        }
        Error::Fault { address, size, region, completed, cause, file_offset, .. } => new("MemoryFault")
            .at(Some(*address), Some(*size))?
            .region(Some(region))?
            .with("completed", completed)?
            .with("cause", cause)?
            .with("file_offset", file_offset),
        Error::Backing { errno, region, .. } => new("BackingError").errno(*errno)?.about(region.as_ref()),
        Error::HugePagesShort { region, missing, page_size, .. } => {
            new("HugePagesShort").about(Some(region))?.with("missing", missing)?.with("page_size", page_size)
        }
        Error::Numa { errno, region, .. } => new("NumaError").errno(*errno)?.about(Some(region)),
        Error::NoSpace { shortage, .. } => new("NoSpace").shortage(shortage),
        Error::Fragmented { shortage, .. } => new("Fragmented").shortage(shortage),
        Error::AlignmentImpossible { shortage, .. } => new("AlignmentImpossible").shortage(shortage),
        Error::Reserved { address, size, region, conflict, .. } => {
            new("RegionOverlap").at(Some(*address), Some(*size))?.region(region.as_ref())?.conflict(conflict.as_ref())
        }
        Error::InvalidPlan { problems } => new("InvalidPlan").with("problems", PyTuple::new(py, problems)?),
        Error::Busy { region, leases, .. } => {
            new("RegionBusy").about(Some(region))?.with("leases", lease_tuple(py, leases)?)
        }
        Error::NotContiguous { address, size, region, conflict, .. } => {
            new("NotContiguous").at(Some(*address), Some(*size))?.region(Some(region))?.conflict(conflict.as_ref())
        }
        Error::Partial { errno, done, size, .. } => {
            new("PartialTransfer").errno(*errno)?.at(None, Some(*size))?.with("done", done)
        }
        Error::NotMapped { .. } => Ok(new("NotMapped")),
        Error::Unsupported { feature, how, region, .. } => {
            new("Unsupported").about(region.as_ref())?.with("feature", feature)?.with("how", how)
        }
        Error::GenerationChanged { .. } => Ok(new("GenerationChanged")),
        Error::TransactionClosed { .. } => Ok(new("TransactionClosed")),
        Error::CheckpointClosed => Ok(new("CheckpointClosed")),
        Error::Reentrant { .. } => Ok(new("ReentrantChange")),
        Error::Forked => Ok(new("ForkedProcess")),
        Error::Client { .. } => Ok(new("ClientError")),
        Error::Share { .. } => Ok(new("ShareError")),
        Error::Image { fault, path, chunk, .. } => {
            new(image_class(*fault)).with("path", path.display().to_string())?.with("chunk", chunk)
        }
        // Only at the interpreter's end: elsewhere `PyInterrupt` raises the exception that interrupted.
        Error::NoRoom { .. } | Error::File { .. } | Error::Interrupted => Ok(new("AddressSpaceError")),
    }
}

const fn class_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Argument => "InvalidArgument",
        Kind::Range => "InvalidAddressRange",
        Kind::RegionType => "InvalidRegionType",
        Kind::MemorySourceType => "InvalidMemorySourceType",
    }
}

const fn image_class(fault: ImageFault) -> &'static str {
    match fault {
        ImageFault::Refused => "ImageError",
        ImageFault::Corrupt => "ImageCorrupt",
        ImageFault::Mismatch => "ImageMismatch",
        ImageFault::TooNew => "ImageTooNew",
    }
}

/// An exception in the making; data that it is not given is its class's default.
pub(super) struct Exception<'py> {
    class: &'static str,
    data: Bound<'py, PyDict>,
}

impl<'py> Exception<'py> {
    pub(super) fn new(py: Python<'py>, class: &'static str) -> Self {
        Self { class, data: PyDict::new(py) }
    }

    pub(super) fn with(self, name: &str, value: impl IntoPyObject<'py>) -> PyResult<Self> {
        self.data.set_item(name, value)?;
        Ok(self)
    }

    fn at(self, address: Option<u64>, size: Option<u64>) -> PyResult<Self> {
        self.with("address", address)?.with("size", size)
    }

    fn region(self, region: Option<&SharedRegion>) -> PyResult<Self> {
        self.with("region", region.cloned().map(RegionObject))
    }

    /// A region, where there is one, and its range as the address and size.
    fn about(self, region: Option<&SharedRegion>) -> PyResult<Self> {
        let Some(region) = region else { return Ok(self) };
        self.at(Some(region.base()), Some(region.size()))?.region(Some(region))
    }

    fn conflict(self, region: Option<&SharedRegion>) -> PyResult<Self> {
        self.with("conflict", region.cloned().map(RegionObject))
    }

    fn shortage(self, shortage: &Shortage) -> PyResult<Self> {
        self.at(None, Some(shortage.size))?
            .with("free", shortage.free)?
            .with("largest", shortage.largest)?
            .with("align", shortage.align)
    }

    fn errno(self, errno: Errno) -> PyResult<Self> {
        match errno {
            Errno::Failed(number) => self.with("errno", number),
            Errno::Refused(number) => self.with("errno", number)?.with("_call_failed", false),
        }
    }

    pub(super) fn build(self, message: &str) -> PyResult<PyErr> {
        let _guard = python_call();
        let class = errors(self.data.py())?.getattr(self.class)?;
        Ok(PyErr::from_value(class.call((message,), Some(&self.data))?))
    }
}

pub(super) fn lease_tuple<'py>(py: Python<'py>, leases: &[LeaseInfo]) -> PyResult<Bound<'py, PyTuple>> {
    let _guard = python_call();
    let class = errors(py)?.getattr("Lease")?;
    let leases: Vec<Bound<'py, PyAny>> = leases
        .iter()
        .map(|lease| class.call1((lease.what, lease.address, lease.size, lease.pid)))
        .collect::<PyResult<_>>()?;
    PyTuple::new(py, leases)
}

fn errors(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    let _guard = python_call();
    static ERRORS: Once<Py<PyModule>> = Once::new();
    let module = ERRORS.get_or_try_init(|| py.import("dbs_address_space.errors").map(Bound::unbind))?;
    Ok(module.bind(py))
}
