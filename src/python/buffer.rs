//! Both directions of the buffer protocol, and `bytes` results that are written once.

#![allow(unsafe_code, reason = "the buffer protocol is pointers")]

use std::ffi::{CStr, c_int};
use std::marker::PhantomPinned;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};

use pyo3::exceptions::{PyBufferError, PyMemoryError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyInt, PyMemoryView};
use pyo3::{Borrowed, ffi};

use super::argument::Argument;
use super::calls::{self, python_call};
use super::exporter::{is_plain, is_steady, may_fault};
use super::interrupt::detached;
use super::space_ref::{OwnedSpace, SpaceRef};
use crate::memory::buffer::{Bytes, Output};
use crate::memory::held_lease::Writes;
use crate::memory::lease::{Lease, WeakRegion};
use crate::memory::places::Refused;
use crate::memory::section::Section;
use crate::model::format::hex;
use crate::model::int::u64_of;
use crate::model::quote::quoted;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::model::room;
use crate::model::source::{KeepAlive, UserBuffer};

/// The value of an int from 0 to 2^64 - 1.
///
/// `PyLong_AsSize_t` reads an int of several digits, which most addresses are, in a third of the time of the call for 64 bits.
#[inline]
pub(super) fn plain_int(int: Borrowed<'_, '_, PyInt>) -> Option<u64> {
    // SAFETY: a live int.
    let value = unsafe { ffi::PyLong_AsSize_t(int.as_ptr()) };
    // The C function's -1 may be an error or the number itself.
    if value == usize::MAX && PyErr::take(int.py()).is_some() {
        return None;
    }
    u64::try_from(value).ok()
}

/// A `bytes` object of `size` bytes that `fill` writes; no one has seen it yet, so it needs no zeroing.
#[inline]
pub(super) fn new_bytes<'py>(
    py: Python<'py>,
    size: u64,
    fill: impl FnOnce(&Output<'_>) -> PyResult<()>,
) -> PyResult<Bound<'py, PyBytes>> {
    if size == 0 {
        // There is one empty `bytes` object, which must not be written to.
        return fill(&Output::from(&mut [][..])).map(|()| PyBytes::new(py, b""));
    }
    let length =
        isize::try_from(size).map_err(|_| PyMemoryError::new_err("the result is larger than any bytes object"))?;
    // SAFETY: makes an uninitialised object of that length, or gives null with an exception set.
    let object = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), length))? };
    // SAFETY: the object is a `bytes` of `length` bytes that only we know of.
    let output = unsafe { Output::new(ffi::PyBytes_AsString(object.as_ptr()).cast(), length.unsigned_abs()) };
    fill(&output)?;
    // SAFETY: made as `bytes` above.
    Ok(unsafe { object.cast_into_unchecked() })
}

/// A `bytes` object with a copy of some bytes.
pub(super) fn copied<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    new_bytes(py, u64_of(bytes.len()), |output| Ok(output.put(0, bytes)?))
}

/// Bytearrays of `size` bytes that `fill` writes, all of them; no one has seen them yet, so they need no zeroing.
pub(super) fn new_bytearrays<const N: usize>(
    py: Python<'_>,
    size: usize,
    fill: impl FnOnce([Output<'_>; N]) -> PyResult<()>,
) -> PyResult<[Bound<'_, PyByteArray>; N]> {
    let length =
        isize::try_from(size).map_err(|_| PyMemoryError::new_err("the result is larger than any bytearray"))?;
    // Made empty first: PyByteArray_FromStringAndSize of a size without room prints a SystemError, for it drops what it has not
    // initialised. Not by `bytearray(size)`, whose fresh pages would each be a fault.
    let arrays = [(); N].map(|()| PyByteArray::new(py, b""));
    for array in &arrays {
        // SAFETY: a live bytearray that nobody else has seen; without room there is an exception.
        if unsafe { ffi::PyByteArray_Resize(array.as_ptr(), length) } != 0 {
            return Err(PyErr::fetch(py));
        }
    }
    // SAFETY: each has `size` bytes now, and nobody else can change that.
    fill(arrays.each_ref().map(|array| unsafe { Output::new(array.data(), size) }))?;
    Ok(arrays)
}

/// A contiguous buffer that is held: its exporter keeps the bytes where they are meanwhile. It stays where it was filled, for its
/// pointers may lead into it.
///
/// PyO3's own refuses exporters that leave out strides, as every object of `ctypes` does.
pub(super) struct PyBuffer {
    buffer: ffi::Py_buffer,
    /// Whether taking and releasing it may run Python code.
    may_run: bool,
    /// Whether a touch may fault.
    may_fault: bool,
    _stays: PhantomPinned,
}

impl std::fmt::Debug for PyBuffer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PyBuffer").field("start", &self.buffer.buf).field("size", &self.buffer.len).finish()
    }
}

// SAFETY: the buffer may be used from any thread; it is released with the interpreter's lock.
unsafe impl Send for PyBuffer {}
// SAFETY: as above; nothing in it is changed.
unsafe impl Sync for PyBuffer {}

impl PyBuffer {
    const fn empty() -> Self {
        Self { buffer: ffi::Py_buffer::new(), may_run: false, may_fault: false, _stays: PhantomPinned }
    }

    /// A buffer that outlives the call.
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Pin<Box<Self>>> {
        let mut buffer = Box::pin(Self::empty());
        buffer.as_mut().fill(object)?;
        Ok(buffer)
    }

    /// Takes the buffer of an object; called once.
    fn fill(self: Pin<&mut Self>, object: &Bound<'_, PyAny>) -> PyResult<&Self> {
        // SAFETY: nothing is moved out.
        let this = unsafe { self.get_unchecked_mut() };
        this.may_run = !is_plain(object);
        let _guard = this.may_run.then(python_call);
        this.may_fault = this.may_run && may_fault(object, PyGuestView::may_fault)?;
        // SAFETY: asks a live object to fill the buffer, which stays where it is.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut this.buffer, ffi::PyBUF_FULL_RO) } != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        // SAFETY: a filled buffer.
        if unsafe { ffi::PyBuffer_IsContiguous(&raw const this.buffer, std::ffi::c_char::from_ne_bytes([b'C'])) } == 0 {
            return Err(PyBufferError::new_err(
                "the buffer is not contiguous: copy it with bytes() or numpy.ascontiguousarray first",
            ));
        }
        Ok(this)
    }

    fn size(&self) -> usize {
        self.buffer.len.unsigned_abs()
    }

    pub(super) fn bytes(&self) -> Bytes<'_> {
        // SAFETY: the exporter keeps the bytes where they are while we hold the buffer.
        unsafe { Bytes::new(self.buffer.buf.cast(), self.size()) }.guarded(self.may_fault)
    }

    fn require_writable(&self, advice: &str) -> PyResult<()> {
        if self.buffer.readonly == 0 {
            return Ok(());
        }
        Err(PyTypeError::new_err(format!("the buffer is read-only: {advice}")))
    }

    /// The `struct` format of the items; bytes when there is none.
    fn format(&self) -> &CStr {
        // SAFETY: null, or a string that lives as long as the buffer.
        if self.buffer.format.is_null() { c"B" } else { unsafe { CStr::from_ptr(self.buffer.format) } }
    }
}

impl Drop for PyBuffer {
    /// At the interpreter's end nothing can be released any more.
    fn drop(&mut self) {
        // SAFETY: empty, or filled by `PyObject_GetBuffer`, and released once.
        let _ = calls::attach(|_| unsafe { ffi::PyBuffer_Release(&raw mut self.buffer) });
    }
}

/// The buffers of as many objects as a caller chose.
pub(super) struct PyBuffers(Vec<PyBuffer>);

impl PyBuffers {
    pub(super) fn of<'a, 'py: 'a>(objects: impl ExactSizeIterator<Item = &'a Bound<'py, PyAny>>) -> PyResult<Self> {
        let mut all = Self(room::collected((0..objects.len()).map(|_| PyBuffer::empty()))?);
        for (buffer, object) in all.0.iter_mut().zip(objects) {
            // SAFETY: the vector has all of its items, and nothing moves them.
            unsafe { Pin::new_unchecked(buffer) }.fill(object)?;
        }
        Ok(all)
    }

    pub(super) fn bytes(&self) -> impl ExactSizeIterator<Item = Bytes<'_>> {
        self.0.iter().map(PyBuffer::bytes)
    }
}

/// Calls `work` with the bytes of a contiguous bytes-like object, which is held meanwhile.
#[inline]
pub(super) fn with_input<T>(
    data: &Bound<'_, PyAny>,
    name: &str,
    work: impl FnOnce(Bytes<'_>) -> PyResult<T>,
) -> PyResult<T> {
    // By far the most frequent, and immutable: no buffer need be asked for.
    if let Ok(bytes) = data.cast_exact::<PyBytes>() {
        return work(Bytes::from(bytes.as_bytes()));
    }
    work(pin!(PyBuffer::empty()).fill(data).argument(name)?.bytes())
}

/// Calls `work` with a contiguous writable buffer, which is held meanwhile.
#[inline]
pub(super) fn with_output<T>(
    target: &Bound<'_, PyAny>,
    name: &str,
    work: impl FnOnce(&Output<'_>) -> PyResult<T>,
) -> PyResult<T> {
    let buffer = pin!(PyBuffer::empty());
    let buffer = buffer.fill(target).argument(name)?;
    buffer.require_writable("give a bytearray, a writable memoryview or array").argument(name)?;
    // SAFETY: the exporter keeps the bytes where they are, and lets us write them, while we hold the buffer.
    work(&unsafe { Output::new(buffer.buffer.buf.cast(), buffer.size()) }.guarded(buffer.may_fault))
}

/// The bytes of a contiguous bytes-like object, an error where they can't be reached; `name` is that of the parameter.
#[pyfunction]
pub fn copied_buffer<'py>(data: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyBytes>> {
    let py = data.py();
    with_input(data, name, |bytes| {
        new_bytes(py, u64_of(bytes.size()), |output| detached(py, None, |interrupt| bytes.copy_all(output, interrupt)))
    })
}

/// Puts bytes at the start of a writable buffer, an error where it can't be reached; `name` is that of the parameter.
#[pyfunction]
pub fn fill_buffer(target: &Bound<'_, PyAny>, data: &[u8], name: &str) -> PyResult<()> {
    let py = target.py();
    with_output(target, name, |output| detached(py, None, |interrupt| Bytes::from(data).copy_all(output, interrupt)))
}

/// Calls `work` with the u64 integers of a contiguous buffer, an array of NumPy for example.
pub(super) fn with_integers<T>(
    object: &Bound<'_, PyAny>,
    name: &str,
    work: impl FnOnce(Bytes<'_>) -> PyResult<T>,
) -> PyResult<T> {
    let buffer = pin!(PyBuffer::empty());
    let buffer = buffer.fill(object).argument(name)?;
    let is_u64 = buffer.buffer.itemsize.unsigned_abs() == size_of::<u64>()
        && matches!(buffer.format().to_str(), Ok("Q" | "L" | "<Q" | "<L" | "=Q" | "=L" | "@Q" | "@L" | "N"));
    if !is_u64 {
        return Err(PyTypeError::new_err(format!(
            "the buffer must hold unsigned integers of 8 bytes (array('Q'), dtype '<u8'), not items of format {}",
            quoted(&buffer.format().to_string_lossy())
        )))
        .argument(name);
    }
    work(buffer.bytes())
}

/// Whether an object has the buffer protocol.
pub(super) fn is_buffer(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: asks a live object.
    unsafe { ffi::PyObject_CheckBuffer(object.as_ptr()) == 1 }
}

/// A region that shows a user's buffer holds it until the region is gone everywhere.
impl KeepAlive for Pin<Box<PyBuffer>> {}

/// The memory of a contiguous buffer, and what keeps it.
pub(super) fn adopt(object: &Bound<'_, PyAny>) -> PyResult<UserBuffer> {
    let buffer = PyBuffer::of(object)?;
    let host = buffer.buffer.buf.expose_provenance();
    Ok(UserBuffer {
        host,
        size: u64::try_from(buffer.size()).unwrap_or(u64::MAX),
        is_steady: is_steady(object, |exporter| exporter.is_exact_instance_of::<PyGuestView>())?,
        is_writable: buffer.buffer.readonly == 0,
        keep: Arc::new(buffer),
    })
}

/// The exporter of a view's bytes. Every export holds a lease on the region; slices of a memoryview share it.
#[pyclass(frozen, name = "_GuestView", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PyGuestView {
    /// Weak, so that a view keeps its own region alive and no other.
    space: Weak<OwnedSpace>,
    /// Weak, so that an exporter without an export keeps nothing alive.
    region: WeakRegion,
    range: Range,
    readonly: bool,
}

impl PyGuestView {
    /// A memoryview of part of a region.
    pub(super) fn memoryview<'py>(
        py: Python<'py>,
        space: &SpaceRef,
        section: &Section<'_>,
        readonly: bool,
    ) -> PyResult<Bound<'py, PyMemoryView>> {
        let (space, region) = (space.downgrade(), WeakRegion::from(section.region()));
        PyMemoryView::from(Bound::new(py, Self { space, region, range: section.range(), readonly })?.as_any())
    }

    /// An empty memoryview, which holds nothing.
    pub(super) fn empty(py: Python<'_>) -> PyResult<Bound<'_, PyMemoryView>> {
        PyMemoryView::from(PyByteArray::new(py, b"").as_any())
    }

    /// Whether a touch of the bytes of one may fault, which its region decides; `None` of another object.
    fn may_fault(exporter: &Bound<'_, PyAny>) -> Option<bool> {
        exporter.cast_exact::<Self>().ok().map(|view| !view.get().region.is_always_direct())
    }

    /// A lease on the bytes; while a change is deciding about the region, waits for what it decides.
    fn lease(&self, py: Python<'_>) -> PyResult<Lease> {
        let writes = if self.readonly { Writes::Never } else { Writes::Unseen };
        loop {
            match self.region.lease("view", self.range, writes) {
                Ok(lease) => return self.allowed(lease),
                Err(Refused::Closed) => return Err(self.gone()),
                Err(Refused::Closing) => {
                    let space = self.space.upgrade().ok_or_else(|| self.gone())?;
                    detached(py, None, |interrupt| space.wait_settled(&self.region, interrupt))?;
                }
            }
        }
    }

    /// The region may have lost a protection since this was made; from here on the lease keeps what there is.
    fn allowed(&self, lease: Lease) -> PyResult<Lease> {
        let needed = if self.readonly { PROT_READ } else { PROT_READ | PROT_WRITE };
        if lease.allows(self.range, needed)? {
            return Ok(lease);
        }
        let address = hex(self.range.base());
        Err(PyBufferError::new_err(format!("the memory at {address} was protected: take a new view")))
    }

    fn gone(&self) -> PyErr {
        let address = hex(self.range.base());
        PyBufferError::new_err(format!("the region at {address} was removed: take a new view"))
    }
}

#[pymethods]
impl PyGuestView {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        // SAFETY: the caller's buffer; its consumer must find no exporter in it when there is an exception.
        unsafe { (*view).obj = std::ptr::null_mut() };
        let this = slf.get();
        let lease = this.lease(slf.py())?;
        let host = lease.host(this.range).cast();
        let length = isize::try_from(this.range.size())
            .map_err(|_| PyBufferError::new_err("the view is larger than any buffer"))?;
        // SAFETY: fills the caller's buffer with memory that the lease keeps mapped, or sets an exception.
        let result =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), host, length, c_int::from(this.readonly), flags) };
        if result != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        // SAFETY: `view` was filled above; `internal` is ours until the release.
        unsafe { (*view).internal = Box::into_raw(Box::new(lease)).cast() };
        Ok(())
    }

    unsafe fn __releasebuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer) {
        // SAFETY: `internal` is what `__getbuffer__` stored, and a buffer is released once.
        let lease = unsafe { Box::from_raw((*view).internal.cast::<Lease>()) };
        // The last one unmaps, maybe gigabytes: other threads go on meanwhile.
        if lease.is_last_user() {
            calls::detach(slf.py(), || drop(lease));
        }
    }
}
