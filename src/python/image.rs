//! Files of images, for `dbs_address_space.images`, which knows what their JSON means.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyDict};

use super::buffer;
use super::callback;
use super::calls::python_call;
use super::convert::Size;
use super::interrupt::detached;
use super::keywords;
use super::space::PySpace;
use super::threads::Threads;
use crate::image::chain::Image;
use crate::image::merge;
use crate::image::part::Part;
use crate::image::writer::Description;
use crate::memory::buffer::Output;
use crate::model::error::{ImageFault, Result};
use crate::model::int::u64_of;
use crate::model::room;

/// One file of an image, open and checked but for the bytes of memory and the blobs.
#[pyclass(frozen, weakref, name = "_ImagePart", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PyImagePart(Arc<Part>);

#[pymethods]
impl PyImagePart {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Ok(Self(Arc::new(detached(py, None, |_| Part::open(&path))?)))
    }

    /// The root digest, by which a child names it.
    #[getter]
    fn digest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        bytes(py, &self.0.header().root)
    }

    /// The digest of what memory is.
    #[getter]
    fn content<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        bytes(py, &self.0.header().content)
    }

    /// The root digest of the parent, or `None`.
    #[getter]
    fn parent<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        self.0.header().parent.map(|digest| bytes(py, &digest)).transpose()
    }

    /// The description.
    #[getter]
    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        bytes(py, self.0.json())
    }

    /// The bytes of the file that hold memory.
    #[getter]
    fn data_size(&self) -> u64 {
        let pages = self.0.chunks().iter().map(|chunk| u64::from(chunk.pages.count_ones()));
        pages.fold(0u64, u64::saturating_add).saturating_mul(crate::image::chunk::PAGE)
    }

    /// The bytes that the data has room for.
    #[getter]
    fn room(&self) -> u64 {
        self.0.header().data.size()
    }

    /// The offset of the data in the file.
    #[getter]
    fn data_offset(&self) -> u64 {
        self.0.header().data.base()
    }

    /// The ELF machine.
    #[getter]
    fn machine(&self) -> u32 {
        self.0.header().machine
    }

    /// Whether it is of this machine's architecture.
    #[getter]
    fn is_of_this_machine(&self) -> bool {
        self.0.header().machine == crate::image::header::MACHINE
    }

    /// The generation of the map.
    #[getter]
    fn generation(&self) -> u64 {
        self.0.header().generation
    }

    /// Whether writes would have been noticed while it was saved.
    #[getter]
    fn is_watched(&self) -> bool {
        self.0.header().is_watched
    }

    /// The descriptor, for who maps the file; it stays this one's.
    fn fileno(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(self.0.file())
    }

    /// The error of damage to it.
    fn corrupt(&self, message: String) -> PyErr {
        self.0.fault(ImageFault::Corrupt, message, None).into()
    }

    /// The error of what does not belong to it.
    fn mismatch(&self, message: String) -> PyErr {
        self.0.fault(ImageFault::Mismatch, message, None).into()
    }

    /// Bytes of the blobs; `None` when there are not so many.
    fn blob<'py>(&self, py: Python<'py>, offset: Size, size: Size) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let blobs = self.0.header().blobs;
        let wanted = blobs.skip(offset.0).take(size.0);
        if wanted.size() != size.0 {
            return Ok(None);
        }
        bytes(py, &detached(py, None, |_| self.0.section(wanted))?).map(Some)
    }
}

/// The memory that a file and its ancestors describe together.
#[pyclass(frozen, weakref, name = "_Image", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PyImage(Arc<Image>);

impl PyImage {
    pub(super) const fn inner(&self) -> &Arc<Image> {
        &self.0
    }
}

#[pymethods]
impl PyImage {
    /// The file, its parent, the parent of that and so on.
    #[new]
    fn new(py: Python<'_>, newest: &PyImagePart, older: Vec<PyRef<'_, PyImagePart>>) -> PyResult<Self> {
        let older = room::collected(older.iter().map(|part| Arc::clone(&part.0)))?;
        let newest = Arc::clone(&newest.0);
        Ok(Self(Arc::new(detached(py, None, |_| Image::of(newest, older))?)))
    }

    /// The digest of other bytes, by which they are known again.
    #[staticmethod]
    fn digest<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        bytes(py, blake3::hash(data).as_bytes())
    }

    /// Reads all and compares it with the digests.
    fn verify(&self, py: Python<'_>, threads: Option<Threads>, progress: Option<Py<PyAny>>) -> PyResult<()> {
        detached(py, progress, |interrupt| self.0.verify(threads.map(|threads| threads.0), interrupt))
    }

    /// Writes a full image of the same memory, with a description of its own.
    fn merge(
        &self,
        py: Python<'_>,
        path: PathBuf,
        sync: bool,
        threads: Option<Threads>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let threads = threads.map(|threads| threads.0);
        detached(py, progress, |interrupt| {
            merge::merge(&self.0, &path, &description_of(&self.0)?, (sync, threads), interrupt).map(drop)
        })
    }
}

fn description_of(image: &Image) -> Result<Description> {
    let newest = image.newest();
    let header = newest.header();
    Ok(Description {
        json: room::collected(newest.json().iter().copied())?,
        blobs: newest.section(header.blobs)?,
        data_size: header.data.size(),
        generation: header.generation,
        is_watched: header.is_watched,
    })
}

#[pymethods]
impl PySpace {
    /// Writes the map and the memory to an image, with `blobs` by their names, and returns it as an open `SavedSpace`.
    ///
    /// The file is sparse, has digests of all that is in it, and appears under its name when it is whole; an error or Ctrl-C leaves what
    /// was there. With `parent`, a `SavedSpace` or its path, only what differs from it is written; `dirty`, a `DirtyPages` or a
    /// `DirtyTracker`, says which pages may: those that it does not name must be as the parent has them, and a tracker gets its pages
    /// back when saving fails. Without it all is compared. A guest has to be paused: with `check`, pages that are written meanwhile are
    /// saved again, and `ImageError` is raised when that does not end; where the kernel can't watch the memory, `is_checked` of the result
    /// is false. `sync=False` does not wait for the disk. `threads` threads work, by default as many as help. Devices are saved as
    /// regions; what a DAX window shows belongs to its files. Raises `NotMapped`, `AccessDenied` for memory that can't be read, `ImageError` for a path that is in use, `OSError`.
    ///
    /// >>> import tempfile
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> tracker = space.memory.dirty.start()
    /// >>> with tempfile.TemporaryDirectory() as folder:
    /// ...     full = space.save(f"{folder}/0.img")
    /// ...     space.memory.write_u8(0x5000, 1)
    /// ...     space.save(f"{folder}/1.img", parent=full, dirty=tracker).data_size
    /// 4096
    #[pyo3(signature = (path, *, parent=None, dirty=None, blobs=None, sync=true, check=true, threads=None, progress=None, **others),
        text_signature = "($self, path, *, parent=None, dirty=None, blobs=None, sync=True, check=True, threads=None, progress=None)")]
    #[allow(clippy::too_many_arguments, reason = "all but one are keywords")]
    fn save<'py>(
        slf: &Bound<'py, Self>,
        path: &Bound<'py, PyAny>,
        parent: Option<&Bound<'py, PyAny>>,
        dirty: Option<&Bound<'py, PyAny>>,
        blobs: Option<&Bound<'py, PyAny>>,
        sync: bool,
        check: bool,
        threads: Option<&Bound<'py, PyAny>>,
        progress: Option<Py<PyAny>>,
        others: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        keywords::refuse_of::<Self>("save", others)?;
        let _guard = python_call();
        let py = slf.py();
        callback::check_progress(py, progress.as_ref())?;
        let options = [
            ("sync", sync.into_py_any(py)?),
            ("check", check.into_py_any(py)?),
            ("threads", threads.into_py_any(py)?),
            ("progress", progress.into_py_any(py)?),
        ];
        let module = py.import("dbs_address_space.saving")?;
        module.getattr("saved")?.call((slf, path, parent, dirty, blobs), Some(&options.into_py_dict(py)?))
    }

    /// A new space with the map and the memory of an image, or nothing.
    ///
    /// `mode="copy"` reads all, checked against its digests before anybody sees it. `"cow"` maps the file privately, in no time at any size:
    /// the file must stay as it is, accesses go through the kernel, and bytes are checked by `SavedSpace.verify()` only. `"lazy"` returns at
    /// once, too: bytes come in checked when they are first used, by whomever, and before that in the background; where the image turns out to be
    /// damaged a touch is `MemoryFault`. It takes a privilege (`Unsupported` says which). `resolve(digest)` gives the path of a parent that
    /// moved; `threads` and `progress(p)` are for `"copy"` alone, and refused for the others. Raises `ImageCorrupt`, `ImageMismatch`,
    /// `ImageTooNew`, `OSError`, and as `map_memory()` does.
    ///
    /// >>> import tempfile
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> space.memory.write(0x1000, b"hello")
    /// >>> with tempfile.TemporaryDirectory() as folder:
    /// ...     space.save(f"{folder}/vm.img").close()
    /// ...     AddressSpace.restore(f"{folder}/vm.img").memory.read(0x1000, 5)
    /// b'hello'
    #[staticmethod]
    #[pyo3(signature = (path, mode="copy", *, resolve=None, threads=None, progress=None, **others),
        text_signature = "(path, mode='copy', *, resolve=None, threads=None, progress=None)")]
    fn restore<'py>(
        path: &Bound<'py, PyAny>,
        mode: &str,
        resolve: Option<&Bound<'py, PyAny>>,
        threads: Option<&Bound<'py, PyAny>>,
        progress: Option<Py<PyAny>>,
        others: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        keywords::refuse_of::<Self>("restore", others)?;
        let _guard = python_call();
        callback::check_progress(path.py(), progress.as_ref())?;
        let module = path.py().import("dbs_address_space.images")?;
        module.getattr("_restored")?.call1((path, mode, resolve, threads, progress))
    }
}

fn bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    buffer::new_bytes(py, u64_of(bytes.len()), |output: &Output<'_>| Ok(output.put(0, bytes)?))
}
