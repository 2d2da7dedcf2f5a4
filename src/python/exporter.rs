//! Whose bytes those of a buffer are, and whether a touch of them may fault.

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyType};

use super::calls::python_call;
use super::import_once::{ImportOnce, interned};
use crate::sys::once::Once;

/// Whether an object has bytes of its own, in the heap, and gives them without running Python code: this is asked for each short copy.
pub(super) fn is_plain(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyByteArray>() || object.is_exact_instance_of::<PyBytes>()
}

/// Whether a touch of an object's bytes may fault: of all but those that Python's and NumPy's own objects have from the allocator, also
/// through memoryviews and arrays, and of what is `known`. An `mmap` may be of a file that others cut, and any other exporter may show one, as
/// those of `ctypes` do.
pub(super) fn may_fault(
    object: &Bound<'_, PyAny>,
    known: impl Fn(&Bound<'_, PyAny>) -> Option<bool>,
) -> PyResult<bool> {
    static ARRAY: ImportOnce = ImportOnce::new();
    let (py, _guard) = (object.py(), python_call());
    let mut exporter = object.clone();
    // A chain that is longer was made to have no end.
    for _ in 0..64 {
        if is_plain(&exporter) {
            return Ok(false);
        }
        if exporter.is_exact_instance_of::<PyMemoryView>() {
            exporter = exporter.getattr(interned!(py, "obj"))?;
            continue;
        }
        if let Some(may_fault) = known(&exporter) {
            return Ok(may_fault);
        }
        if !is_numpy_array(&exporter)? {
            return Ok(!exporter.get_type().is(ARRAY.import(py, "array", "array")?));
        }
        let Some(base) = exporter.getattr_opt(interned!(py, "base"))? else { break };
        if base.is_none() {
            return owns_its_bytes(&exporter).map(|owns| !owns);
        }
        exporter = base;
    }
    Ok(true)
}

/// Whether the bytes of an object stay where they are for as long as a buffer of it is held: its exporter, behind memoryviews and arrays of
/// NumPy, refuses to move them, and is of a class that is known for that, or `known`. NumPy's own bytes are moved by
/// `resize(refcheck=False)`, those of `ctypes` by `ctypes.resize`.
pub(super) fn is_steady(object: &Bound<'_, PyAny>, known: impl Fn(&Bound<'_, PyAny>) -> bool) -> PyResult<bool> {
    static CLASSES: [ImportOnce; 2] = [ImportOnce::new(), ImportOnce::new()];
    let (py, _guard) = (object.py(), python_call());
    let mut exporter = object.clone();
    for _ in 0..64 {
        exporter = if exporter.is_exact_instance_of::<PyMemoryView>() {
            exporter.getattr(interned!(py, "obj"))?
        } else if is_exactly_numpy_array(&exporter)? {
            exporter.getattr(interned!(py, "base"))?
        } else {
            let [array, mmap] = &CLASSES;
            let class = exporter.get_type();
            return Ok(is_plain(&exporter)
                || known(&exporter)
                || class.is(array.import(py, "array", "array")?)
                || class.is(mmap.import(py, "mmap", "mmap")?)
                || class.is(&class_of_views_of_bytes_io(py)?));
        };
    }
    Ok(false)
}

/// The class of what `BytesIO.getbuffer()` is a memoryview of; it has no name to import it by.
fn class_of_views_of_bytes_io(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let _guard = python_call();
    let file = py.import(interned!(py, "io"))?.getattr("BytesIO")?.call0()?;
    Ok(file.call_method0("getbuffer")?.getattr(interned!(py, "obj"))?.get_type())
}

/// Whether it is of NumPy's own class, of which an object's `base` is the one whose bytes it shows.
fn is_exactly_numpy_array(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let (py, _guard) = (object.py(), python_call());
    let modules = py.import(interned!(py, "sys"))?.getattr("modules")?;
    let numpy = modules.call_method1("get", ("numpy",))?;
    Ok(!numpy.is_none() && object.get_type().is(&numpy.getattr("ndarray")?))
}

/// Whether an object shows the bytes of its `base`, as arrays of NumPy do.
#[inline]
fn is_numpy_array(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    /// NumPy's own class, once an array of it was seen: a look at an attribute of a class takes longer than a small copy.
    static NUMPY: Once<Py<PyType>> = Once::new();
    let class = object.get_type_ptr();
    match NUMPY.get() {
        Some(array) if class == array.as_ptr().cast() => Ok(true),
        _ => has_array_interface(object, &NUMPY),
    }
}

#[cold]
fn has_array_interface(object: &Bound<'_, PyAny>, numpy: &Once<Py<PyType>>) -> PyResult<bool> {
    let (py, class, _guard) = (object.py(), object.get_type(), python_call());
    if class.getattr_opt(interned!(py, "__array_interface__"))?.is_none() {
        return Ok(false);
    }
    if class.name()? == "ndarray" {
        numpy.get_or_init(|| class.unbind());
    }
    Ok(true)
}

fn owns_its_bytes(array: &Bound<'_, PyAny>) -> PyResult<bool> {
    let (py, _guard) = (array.py(), python_call());
    let Some(flags) = array.getattr_opt(interned!(py, "flags"))? else { return Ok(false) };
    let owns = flags.getattr_opt(interned!(py, "owndata"))?;
    owns.map_or(Ok(false), |owns| owns.is_truthy())
}
