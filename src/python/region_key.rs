//! `_RegionKey`: which region a handle of the package is about.

use pyo3::prelude::*;

use crate::model::region_map::RegionEntry;

/// Stands for one region from its insertion to its removal, and for no other that takes its place or its name.
#[pyclass(frozen, weakref, name = "_RegionKey", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PyRegionKey(pub(super) RegionEntry);

#[pymethods]
impl PyRegionKey {
    fn __repr__(&self) -> String {
        format!("_RegionKey({})", self.0)
    }
}
