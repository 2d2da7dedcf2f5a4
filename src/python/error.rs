//! The one map from errors to Python's exception classes, which live in `dbs_address_space.errors`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use super::region_objects::RegionObject;
use crate::model::error::{Error, LeaseInfo};
use crate::model::invalid::{Invalid, Kind};
use crate::model::region::SharedRegion;

/// What every exception carries.
#[derive(Default)]
pub(super) struct Common<'a> {
    address: Option<u64>,
    size: Option<u64>,
    region: Option<&'a SharedRegion>,
    conflict: Option<&'a SharedRegion>,
}

impl<'a> Common<'a> {
    fn at(address: Option<u64>, size: Option<u64>, region: Option<&'a SharedRegion>) -> Self {
        Self { address, size, region, conflict: None }
    }

    fn of(region: &'a SharedRegion) -> Self {
        Self::at(Some(region.base()), Some(region.size()), Some(region))
    }

    fn of_some(region: Option<&'a SharedRegion>) -> Self {
        region.map_or_else(Self::default, Self::of)
    }

    fn against(self, conflict: Option<&'a SharedRegion>) -> Self {
        Self { conflict, ..self }
    }
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        Python::attach(|py| exception(py, &error).unwrap_or_else(|failure| failure))
    }
}

impl From<Invalid> for PyErr {
    fn from(invalid: Invalid) -> Self {
        Error::from(invalid).into()
    }
}

/// The exception of an error: its class, the data that all carry, and its own.
fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    if let Error::Client { raised: Some(raised), .. } = error
        && let Some(raised) = raised.get::<PyErr>()
    {
        return Ok(raised.clone_ref(py));
    }
    let own = PyDict::new(py);
    add_own(error, &own)?;
    let (class, common) = class_of(error);
    build(py, class, &error.to_string(), &common, &own)
}

/// The class of an error, and the data that all carry.
fn class_of(error: &Error) -> (&'static str, Common<'_>) {
    match error {
        Error::Invalid(invalid) => (class_of_invalid(invalid.kind), Common::at(invalid.address, invalid.size, None)),
        Error::Layout { region, .. } => ("LayoutViolation", Common::of(region)),
        Error::Overlap { region, conflict } => ("RegionOverlap", Common::of(region).against(Some(conflict))),
        Error::DuplicateName { region, conflict } => ("DuplicateName", Common::of(region).against(Some(conflict))),
        Error::Misaligned { address, size, region, .. } => ("Misaligned", Common::at(*address, *size, region.as_ref())),
        Error::Unmapped { address, size, region, .. } => {
            ("UnmappedAddress", Common::at(*address, *size, region.as_ref()))
        }
        Error::AccessDenied { address, size, region, .. } => {
            ("AccessDenied", Common::at(Some(*address), Some(*size), Some(region)))
        }
        Error::Fault { address, size, region, .. } => {
            ("MemoryFault", Common::at(Some(*address), Some(*size), Some(region)))
        }
        Error::Backing { region, .. } => ("BackingError", Common::of_some(region.as_ref())),
        Error::HugePagesShort { region, .. } => ("HugePagesShort", Common::of(region)),
        Error::Numa { region, .. } => ("NumaError", Common::of(region)),
        Error::NoSpace { shortage, .. } => ("NoSpace", Common::at(None, Some(shortage.size), None)),
        Error::Fragmented { shortage, .. } => ("Fragmented", Common::at(None, Some(shortage.size), None)),
        Error::AlignmentImpossible { shortage, .. } => {
            ("AlignmentImpossible", Common::at(None, Some(shortage.size), None))
        }
        Error::Reserved { address, size, region, conflict, .. } => {
            ("RegionOverlap", Common::at(Some(*address), Some(*size), region.as_ref()).against(conflict.as_ref()))
        }
        Error::InvalidPlan { .. } => ("InvalidPlan", Common::default()),
        Error::Busy { region, .. } => ("RegionBusy", Common::of(region)),
        Error::NotContiguous { address, size, region, conflict, .. } => {
            ("NotContiguous", Common::at(Some(*address), Some(*size), Some(region)).against(conflict.as_ref()))
        }
        Error::Partial { size, .. } => ("PartialTransfer", Common::at(None, Some(*size), None)),
        Error::NotMapped { .. } => ("NotMapped", Common::default()),
        Error::Unsupported { region, .. } => ("Unsupported", Common::of_some(region.as_ref())),
        Error::GenerationChanged { .. } => ("GenerationChanged", Common::default()),
        Error::Reentrant { .. } => ("ReentrantChange", Common::default()),
        Error::Forked => ("ForkedProcess", Common::default()),
        Error::Client { .. } => ("ClientError", Common::default()),
        Error::Interrupted => ("AddressSpaceError", Common::default()),
    }
}

const fn class_of_invalid(kind: Kind) -> &'static str {
    match kind {
        Kind::Argument => "InvalidAddressRange",
        Kind::RegionType => "InvalidRegionType",
        Kind::MemorySourceType => "InvalidMemorySourceType",
    }
}

/// The data that only its class carries.
fn add_own(error: &Error, own: &Bound<'_, PyDict>) -> PyResult<()> {
    match error {
        Error::Fault { completed, cause, file_offset, .. } => {
            own.set_item("completed", completed)?;
            own.set_item("cause", cause)?;
            own.set_item("file_offset", file_offset)
        }
        Error::Backing { errno, .. } | Error::Numa { errno, .. } => own.set_item("errno", errno),
        Error::HugePagesShort { missing, page_size, .. } => {
            own.set_item("missing", missing)?;
            own.set_item("page_size", page_size)
        }
        Error::NoSpace { shortage, .. }
        | Error::Fragmented { shortage, .. }
        | Error::AlignmentImpossible { shortage, .. } => {
            own.set_item("free", shortage.free)?;
            own.set_item("largest", shortage.largest)?;
            own.set_item("align", shortage.align)
        }
        Error::InvalidPlan { problems } => own.set_item("problems", PyTuple::new(own.py(), problems)?),
        Error::Busy { leases, .. } => own.set_item("leases", lease_tuple(own.py(), leases)?),
        Error::Partial { errno, done, .. } => {
            own.set_item("errno", errno)?;
            own.set_item("done", done)
        }
        Error::Unsupported { feature, how, .. } => {
            own.set_item("feature", feature)?;
            own.set_item("how", how)
        }
        _ => Ok(()),
    }
}

pub(super) fn build(
    py: Python<'_>,
    class: &str,
    message: &str,
    common: &Common<'_>,
    arguments: &Bound<'_, PyDict>,
) -> PyResult<PyErr> {
    arguments.set_item("address", common.address)?;
    arguments.set_item("size", common.size)?;
    for (name, region) in [("region", common.region), ("conflict", common.conflict)] {
        arguments.set_item(name, region.map(|region| RegionObject(SharedRegion::clone(region))))?;
    }
    Ok(PyErr::from_value(errors(py)?.getattr(class)?.call((message,), Some(arguments))?))
}

fn lease_tuple<'py>(py: Python<'py>, leases: &[LeaseInfo]) -> PyResult<Bound<'py, PyTuple>> {
    let class = errors(py)?.getattr("Lease")?;
    let leases: Vec<Bound<'py, PyAny>> =
        leases.iter().map(|lease| class.call1((lease.what, lease.address, lease.size))).collect::<PyResult<_>>()?;
    PyTuple::new(py, leases)
}

fn errors(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static ERRORS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module = ERRORS.get_or_try_init(py, || py.import("dbs_address_space.errors").map(Bound::unbind))?;
    Ok(module.bind(py))
}
