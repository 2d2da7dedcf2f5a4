//! Values in the formats of the `struct` module.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::PyMemory;
use crate::memory::access::Verb;
use crate::memory::protection::Need;
use crate::model::room;
use crate::python::argument::Argument;
use crate::python::calls::python_call;
use crate::python::convert::{self, Address, Size};
use crate::python::import_once::interned;
use crate::sys::once::Once;

const UNPACK: Verb = Verb::new("unpack", Need::Read);

/// The module, which keeps the formats that it has seen compiled.
fn structs(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    let _guard = python_call();
    static STRUCT: Once<Py<PyModule>> = Once::new();
    let module = STRUCT.get_or_try_init(|| py.import("struct").map(Bound::unbind))?;
    Ok(module.bind(py))
}

#[pymethods]
impl PyMemory {
    /// The values at an address, in a format of the `struct` module.
    ///
    /// They may cross from one region into the next. Raises `struct.error` for a bad format, else as `read` does.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.pack(0x100, "<QIHH", 0x8000, 512, 1, 2)
    /// >>> memory.unpack(0x100, "<QIHH")
    /// (32768, 512, 1, 2)
    fn unpack<'py>(&self, py: Python<'py>, addr: Address, fmt: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let _guard = python_call();
        let structs = structs(py)?;
        let size: u64 = structs.call_method1(interned!(py, "calcsize"), (fmt,)).argument("fmt")?.extract()?;
        let bytes = self.bytes_of(py, UNPACK, convert::range(addr, Size(size))?, None)?;
        structs.call_method1(interned!(py, "unpack"), (fmt, bytes))
    }

    /// Writes values at an address, in a format of the `struct` module.
    ///
    /// Raises `struct.error` for a bad format or values that do not fit it, else as `write` does; then nothing is written.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.pack(0, ">H", 0x1234)
    /// >>> memory.read(0, 2)
    /// b'\x124'
    #[pyo3(signature = (addr, fmt, *values))]
    fn pack(&self, py: Python<'_>, addr: Address, fmt: &Bound<'_, PyAny>, values: &Bound<'_, PyTuple>) -> PyResult<()> {
        let _guard = python_call();
        let arguments = room::collected(std::iter::once(fmt.clone()).chain(values.iter()))?;
        let packed =
            structs(py)?.getattr(interned!(py, "pack"))?.call1(PyTuple::new(py, arguments)?).argument("fmt")?;
        let bytes = packed.cast_into::<PyBytes>().map_err(|_| PyTypeError::new_err("struct.pack gave no bytes"))?;
        self.write_from(py, addr, bytes.as_bytes().into(), false)
    }
}
