//! The verbs of `AddressSpace` that attach engines and debuggers with an interface in Python, as their adapters are.

use pyo3::prelude::*;
use pyo3::types::PyDict;

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
    /// `Unsupported`. Unicorn takes whole pages of 4 KiB: memory that begins or ends inside one is refused, or mapped without such parts with
    /// `partial_pages="skip"`, and they are in `left_out` of the attachment's `client`.
    /// Returns a `Subscription`. Raises `NotMapped`, `ClientError` when the engine refuses or for parts of pages, `Unsupported` for one whose contexts save
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
    #[pyo3(signature = (uc, *, partial_pages="refuse"), text_signature = "($self, uc, *, partial_pages='refuse')")]
    fn attach_unicorn<'py>(
        slf: Bound<'py, Self>,
        uc: &Bound<'py, PyAny>,
        partial_pages: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _guard = python_call();
        let adapter = slf.py().import("dbs_address_space.adapters.unicorn")?.getattr("attach")?;
        let keywords = PyDict::new(slf.py());
        keywords.set_item("partial_pages", partial_pages)?;
        adapter.call((slf, uc), Some(&keywords))
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
        let _guard = python_call();
        slf.py().import("dbs_address_space.adapters.drgn")?.getattr("attach")?.call1((slf, program))
    }
}
