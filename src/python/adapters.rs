//! The verbs of `AddressSpace` that attach engines and debuggers with an interface in Python, as their adapters are.

use pyo3::prelude::*;

use super::calls::python_call;
use super::space::PySpace;

#[pymethods]
impl PySpace {
    /// Shows a Unicorn engine every region, by pointer, and lets it follow each change: `adapters.unicorn.attach`.
    ///
    /// `uc` is a `unicorn.Uc`. Regions with memory are mapped without a copy, readable and executable where they can be read, writable
    /// where they can be written; the guest's accesses to devices go to `dispatch`. Changes must be made while the engine does
    /// not run, or in one of its hooks; code that it has translated and that is then written from here needs `uc.ctl_flush_tb()`.
    /// `uc.mem_write` to what the space protects is a forced write of the space; `uc.mem_protect` that would let the engine write there is
    /// `Unsupported`. Returns an `Attachment`. Raises `NotMapped`, `ClientError` when the engine refuses, `Unsupported` for one whose contexts save
    /// memory (`UC_CTL_CONTEXT_MEMORY`), which is also what `uc.ctl` raises for that mode while the engine is attached.
    ///
    /// >>> from unicorn import UC_ARCH_X86, UC_MODE_64, Uc
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> space.memory.write(0x1000, b"hello")
    /// >>> engine = Uc(UC_ARCH_X86, UC_MODE_64)
    /// >>> with space.attach_unicorn(engine):
    /// ...     bytes(engine.mem_read(0x1000, 5))
    /// b'hello'
    fn attach_unicorn<'py>(slf: Bound<'py, Self>, uc: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        attach(slf, "dbs_address_space.adapters.unicorn", uc)
    }

    /// Lets a drgn `Program` read guest physical memory, always on the current map: `adapters.drgn.attach`.
    ///
    /// A read that meets a hole is drgn's own `FaultError`. Returns an `Attachment`. Raises `NotMapped`.
    ///
    /// >>> from drgn import Architecture, Platform, Program
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> space.memory.write(0x1000, b"hello")
    /// >>> program = Program(Platform(Architecture.X86_64))
    /// >>> with space.attach_drgn(program):
    /// ...     program.read(0x1000, 5, physical=True)
    /// b'hello'
    fn attach_drgn<'py>(slf: Bound<'py, Self>, program: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        attach(slf, "dbs_address_space.adapters.drgn", program)
    }
}

fn attach<'py>(space: Bound<'py, PySpace>, module: &str, to: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let _guard = python_call();
    space.py().import(module)?.getattr("attach")?.call1((space, to))
}
