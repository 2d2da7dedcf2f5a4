//! One Python object a description: the region that a user inserted is the object that maps, mappings and errors show.
//!
//! The rooms below know nothing of Python, and a snapshot must not keep a Python object alive: no garbage collector would find the
//! cycle. So the objects are remembered here, weakly, by the address of their description. Each keeps its own description alive, so
//! that an address whose object lives is that object's; an entry whose object has died means nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::region::PyRegion;
use crate::model::region::SharedRegion;
use crate::sys::lock::Lock;

/// Locked while attached and for a moment; nothing that may run Python code, such as making an object, happens meanwhile.
static KNOWN: Lock<KnownObjects> = Lock::new(KnownObjects { by_address: BTreeMap::new(), sweep_at: 0 });

struct KnownObjects {
    by_address: BTreeMap<usize, Py<PyWeakrefReference>>,
    /// At this many entries the dead ones are forgotten: seldom enough to cost nothing, often enough to stay within twice the living.
    sweep_at: usize,
}

impl KnownObjects {
    fn find<'py>(&self, py: Python<'py>, desc: &SharedRegion) -> Option<Bound<'py, PyRegion>> {
        // An address may be used again when its region is gone, but then the weak reference is dead.
        self.by_address.get(&address(desc))?.bind(py).upgrade_as().ok().flatten()
    }

    fn remember(&mut self, py: Python<'_>, desc: &SharedRegion, object: Py<PyWeakrefReference>) {
        if self.by_address.len() >= self.sweep_at {
            self.by_address.retain(|_, object| object.bind(py).upgrade().is_some());
            self.sweep_at = self.by_address.len().saturating_mul(2).max(64);
        }
        self.by_address.insert(address(desc), object);
    }
}

fn address(desc: &SharedRegion) -> usize {
    Arc::as_ptr(desc).addr()
}

/// A description on its way to Python: as the object that it has, or as a new one.
pub(super) struct RegionObject(pub(super) SharedRegion);

impl<'py> IntoPyObject<'py> for RegionObject {
    type Target = PyRegion;
    type Output = Bound<'py, PyRegion>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyRegion>> {
        // A statement of its own, so that the lock is free when an object is made.
        let known = KNOWN.lock()?.find(py, &self.0);
        match known {
            Some(object) => Ok(object),
            None => {
                let object = Bound::new(py, PyRegion(self.0))?;
                remember(&object)?;
                Ok(object)
            }
        }
    }
}

/// The description of a region that a user hands over for insertion: where it is shown, it is shown as that object.
pub(super) fn handed_over(region: &Bound<'_, PyRegion>) -> PyResult<SharedRegion> {
    let desc = &region.get().0;
    let is_known = KNOWN.lock()?.find(region.py(), desc).is_some();
    if !is_known {
        remember(region)?;
    }
    Ok(Arc::clone(desc))
}

fn remember(region: &Bound<'_, PyRegion>) -> PyResult<()> {
    // Made before the lock: making it may run the collector, and that Python code.
    let weak = PyWeakrefReference::new(region)?.unbind();
    KNOWN.lock()?.remember(region.py(), &region.get().0, weak);
    Ok(())
}
