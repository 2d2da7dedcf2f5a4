//! `Machine`.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::convert::{self, Address, Size, U32};
use super::keywords;
use super::layout::{self, PyLayout, window, windows};
use crate::model::format::hex;
use crate::model::invalid::Invalid;
use crate::model::machine::{Arch, Machine};
use crate::model::range::Range;

/// The address map of a kind of machine: where its RAM may lie, and the holes round which RAM is split.
///
/// `mem_start`, `mem_end` (exclusive) and `phys_bits` bound RAM and everything; `mmio_windows` are `(base, size)` and hold
/// no RAM; `reserved` ranges, `(base, size)` or `(base, size, kind)`, are kept for ever, as in an `AddressSpaceLayout`. Below a hole less than `min_split` is left unused. RAM that does not
/// all fit below the first window ends at `split_end`, where the window then begins, as in QEMU's `pc` and `q35`. With
/// `pci_hole64_size`, the bytes that 64-bit PCI devices need, RAM that does not fit below `mem_end` may end so many bytes below the
/// end of all addresses, QEMU's rule. `firmware` is `(base, size)`, `arch` the architecture of hosts that can run it. Raises `InvalidAddressRange`, and `InvalidArgument` for a bad name.
///
/// >>> from dbs_address_space import Machine
/// >>> machine = Machine("mine", mem_start=0, mem_end=1 << 39, phys_bits=40, mmio_windows=[(0xe000_0000, "512MiB")])
/// >>> machine.layout.mem_end == 1 << 39
/// True
#[pyclass(frozen, eq, hash, weakref, name = "Machine", module = "dbs_address_space")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PyMachine(pub(super) Machine);

impl PyMachine {
    pub(super) fn keywords<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (machine, layout) = (&self.0, &self.0.layout);
        let pairs = |ranges: &[Range]| ranges.iter().map(|range| (range.base(), range.size())).collect::<Vec<_>>();
        let keywords = PyDict::new(py);
        keywords.set_item("mem_start", layout.mem_start())?;
        keywords.set_item("mem_end", layout.mem_end())?;
        keywords.set_item("phys_bits", machine.phys_bits)?;
        keywords.set_item("mmio_windows", pairs(layout.mmio_windows()))?;
        keywords.set_item("reserved", layout::reserved_of(layout))?;
        keywords.set_item("min_split", machine.min_split)?;
        keywords.set_item("split_end", machine.split_end)?;
        keywords.set_item("pci_hole64_size", machine.pci_hole64_size)?;
        keywords.set_item("max_slots", machine.max_slots)?;
        keywords.set_item("arch", machine.arch.map(Arch::name))?;
        keywords.set_item("firmware", machine.firmware.map(|range| (range.base(), range.size())))?;
        keywords.set_item("max_vcpus", machine.max_vcpus)?;
        Ok(keywords)
    }
}

#[pymethods]
impl PyMachine {
    #[new]
    #[pyo3(signature = (name, *, mem_start, mem_end, phys_bits, mmio_windows=None, reserved=None, min_split=Size(128 << 20), split_end=None, firmware=None, max_vcpus=U32(255), pci_hole64_size=None, arch=None, max_slots=U32(256), **others),
        text_signature = "(name, *, mem_start, mem_end, phys_bits, mmio_windows=(), reserved=(), min_split='128MiB', split_end=None, firmware=None, max_vcpus=255, pci_hole64_size=None, arch=None, max_slots=256)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn new(
        name: &str,
        mem_start: Address,
        mem_end: Address,
        phys_bits: U32,
        mmio_windows: Option<&Bound<'_, PyAny>>,
        reserved: Option<&Bound<'_, PyAny>>,
        min_split: Size,
        split_end: Option<Address>,
        firmware: Option<&Bound<'_, PyAny>>,
        max_vcpus: U32,
        pci_hole64_size: Option<Size>,
        arch: Option<&str>,
        max_slots: U32,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse::<Self>(others)?;
        if mem_start.0 > mem_end.0 {
            let (start, end) = (hex(mem_start.0), hex(mem_end.0));
            let message = format!("a machine needs mem_start <= mem_end, not {start} and {end}");
            return Err(Invalid::at(message, Some(mem_start.0), None).into());
        }
        let ram = Range::between(mem_start.0, mem_end.0);
        let windows = windows(mmio_windows, "mmio_windows")?;
        let machine = Machine::new(name, phys_bits.0, ram, windows)?.with_reserved(layout::reserved(reserved)?)?;
        let machine = Machine {
            arch: arch.map(Arch::parse).transpose()?,
            min_split: min_split.0,
            split_end: split_end.map(|end| end.0),
            firmware: window(firmware, "firmware")?,
            max_vcpus: max_vcpus.0,
            max_slots: max_slots.0,
            pci_hole64_size: pci_hole64_size.map(|size| size.0),
            ..machine
        };
        Ok(Self(machine.checked()?))
    }

    /// A machine by its name: `"dragonball"` (x86_64 or aarch64, the original's constants), QEMU's `"pc"`, `"q35"` and `"microvm"`
    /// (x86_64) or `"virt"` (aarch64).
    ///
    /// `arch` and `phys_bits` that are not given are the machine's: 46 bits on x86_64, 40 on aarch64. Raises `InvalidArgument`.
    ///
    /// >>> from dbs_address_space import Machine
    /// >>> Machine.named("q35", phys_bits=40)
    /// Machine('q35', mem_start=0x0, mem_end=0x80_0000_0000, phys_bits=40)
    #[staticmethod]
    #[pyo3(signature = (name, *, arch=None, phys_bits=None, **others),
        text_signature = "(name, *, arch=None, phys_bits=None)")]
    fn named(
        name: &str,
        arch: Option<&str>,
        phys_bits: Option<U32>,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        keywords::refuse_of::<Self>("named", others)?;
        let arch = arch.map(Arch::parse).transpose()?;
        Ok(Self(Machine::named(name, arch, phys_bits.map(|bits| bits.0))?))
    }

    /// The name.
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// The bounds and windows, an `AddressSpaceLayout`.
    #[getter]
    fn layout(&self) -> PyLayout {
        PyLayout(self.0.layout.clone())
    }

    /// `"x86_64"`, `"aarch64"`, or `None` for a machine of your own that runs on any host.
    #[getter]
    fn arch(&self) -> Option<&'static str> {
        self.0.arch.map(Arch::name)
    }

    /// Bits of a guest physical address.
    #[getter]
    fn phys_bits(&self) -> u32 {
        self.0.phys_bits
    }

    /// The ranges that are kept for ever: a sorted tuple of `(base, size, kind)`.
    #[getter]
    fn reserved<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.layout().reserved(py)
    }

    /// Below a hole, less than these bytes are left unused.
    #[getter]
    fn min_split(&self) -> u64 {
        self.0.min_split
    }

    /// The end of RAM below the first window when it does not all fit there, or `None`.
    #[getter]
    fn split_end(&self) -> Option<u64> {
        self.0.split_end
    }

    /// The bytes behind all RAM that 64-bit PCI devices need, or `None` where `mem_end` is fixed.
    #[getter]
    fn pci_hole64_size(&self) -> Option<u64> {
        self.0.pci_hole64_size
    }

    /// The addresses of firmware, an `AddressRange`, or `None`.
    #[getter]
    fn firmware<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.firmware.map(|range| convert::py_range(py, (range.base(), range.size()))).transpose()
    }

    /// The number of DIMM slots that it can have; 0 for a machine without.
    #[getter]
    fn max_slots(&self) -> u32 {
        self.0.max_slots
    }

    /// The number of vCPUs that it can have.
    #[getter]
    fn max_vcpus(&self) -> u32 {
        self.0.max_vcpus
    }

    fn __repr__(&self) -> String {
        let (name, layout, bits) = (&self.0.name, &self.0.layout, self.0.phys_bits);
        let (start, end) = (hex(layout.mem_start()), hex(layout.mem_end()));
        format!("Machine('{name}', mem_start={start}, mem_end={end}, phys_bits={bits})")
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<((&str,), Bound<'py, PyDict>)> {
        Ok(((self.name(),), self.keywords(py)?))
    }
}
