//! A map as people look at it: rows, tables, pictures; of `AddressSpaceBase`, and of `AddressSpace` with its reservations.

use std::sync::Arc;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::base::PyBase;
use super::convert::{self, U32};
use super::drawing::drawn;
use super::interrupt::of_many;
use super::keywords;
use super::queries::example;
use super::space::PySpace;
use crate::model::reservations::Reservation;
use crate::model::rows::{Row, rows};
use crate::model::table::table;
use crate::model::terminal_table::{Terminal, terminal_table};

const ELLIPSIS: &str = "…";

/// A row as Python sees it, with the objects of its regions.
fn py_row<'py>(py: Python<'py>, base: &PyBase, row: &Row<'_>) -> PyResult<Bound<'py, PyAny>> {
    let fields = [
        row.range.base().into_py_any(py)?,
        row.range.end().into_py_any(py)?,
        row.size().into_py_any(py)?,
        row.kind().into_py_any(py)?,
        row.look().into_py_any(py)?,
        row.name(ELLIPSIS).into_py_any(py)?,
        row.type_text().into_py_any(py)?,
        row.protection(ELLIPSIS).into_py_any(py)?,
        row.backing(ELLIPSIS).into_py_any(py)?,
        row.node(ELLIPSIS).into_py_any(py)?,
        row.is_hotplug().into_py_any(py)?,
        base.objects_of(py, row.regions())?.into_py_any(py)?,
    ];
    convert::py_map_row(py, PyTuple::new(py, fields)?)
}

fn count(number: U32) -> usize {
    usize::try_from(number.0).unwrap_or(usize::MAX)
}

impl PyBase {
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "the counterpart of `PySpace::reserved`")]
    fn reserved(&self) -> PyResult<Vec<Arc<Reservation>>> {
        Ok(Vec::new())
    }
}

impl PySpace {
    fn reserved(&self) -> PyResult<Vec<Arc<Reservation>>> {
        Ok(self.inner().reservation_list()?)
    }
}

/// The verbs for a class that has `query`, as in `queries.rs`, and `reserved`.
macro_rules! pictures {
    ($class:ident, $name:literal) => {
        #[pymethods]
        impl $class {
            /// The map as `MapRow`s, by ascending address: from 0 to the end of the layout, without a gap or an overlap.
            ///
            /// A row is a region, addresses that a live space has reserved, or free ones, cut where an MMIO window or a reservation begins or
            /// ends. With a `limit`, neighbours that look alike become one row of kind `"group"`, until there are no more than `limit` rows of
            /// regions; nothing is joined across an end of a window or reservation. All tables and pictures show these rows.
            ///
            #[doc = example!($name)]
            /// >>> [(row.kind, row.name) for row in guest.rows()]
            /// [('region', 'ram0'), ('free', 'free')]
            #[pyo3(signature = (*, limit=None))]
            fn rows<'py>(slf: &Bound<'py, Self>, limit: Option<U32>) -> PyResult<Bound<'py, PyTuple>> {
                let (py, reserved) = (slf.py(), slf.get().reserved()?);
                // Not a query: it makes objects of Python, and must not hold the map meanwhile.
                let base = Self::base(slf)?;
                let base = base.get();
                let rows = rows(&base.map, &reserved, limit.map(count)).into_iter();
                PyTuple::new(py, convert::collected(py, rows.map(|row| py_row(py, base, &row)))?)
            }

            /// The map as a table for a terminal of `width` columns, low addresses on top; `print` shows another one, for programs.
            ///
            /// It has bars on a logarithmic scale, and no column that would be empty. Where `width` is short, bars, ends and other facts make
            /// room for the names, which are cut at last. `ascii` leaves out all other characters, `color` adds escape sequences. `limit` is
            /// that of `rows`, and `free=False` leaves free addresses out. Control characters of names are shown and not sent.
            ///
            #[doc = example!($name)]
            /// >>> print(guest.table(ascii=True))
            ///            start               end      size                    type  prot  backing  name
            ///              0x0         0x10_0000     1 MiB  ################  ram   rw-   shmem    ram0
            ///        0x10_0000  0x4000_0000_0000  63.9 TiB                                         free
            /// 0x4000_0000_0000
            #[allow(clippy::too_many_arguments, reason = "the keywords of a table")]
            #[pyo3(signature = (*, width=U32(120), limit=None, ascii=false, color=false, free=true, **others), text_signature = "($self, *, width=120, limit=None, ascii=False, color=False, free=True)")]
            fn table(
                &self,
                py: Python<'_>,
                width: U32,
                limit: Option<U32>,
                ascii: bool,
                color: bool,
                free: bool,
                others: Option<&Bound<'_, PyDict>>,
            ) -> PyResult<String> {
                keywords::refuse_of::<Self>("table", others)?;
                let reserved = self.reserved()?;
                let terminal = Terminal { width: count(width), is_ascii: ascii, has_color: color };
                let map = self.query(py, |base| Ok(Arc::clone(&base.map)))?;
                of_many(py, map.regions().len(), |interrupt| {
                    let mut rows = rows(&map, &reserved, limit.map(count));
                    rows.retain(|row| free || row.kind() != "free");
                    terminal_table(&rows, terminal, interrupt)
                })
            }

            /// The map as an SVG picture, row by row of `rows(limit=limit)`: low addresses on top, sizes as heights, types as colours.
            ///
            /// `width` is in pixels; below 760 only addresses, names and sizes remain. `theme` is `"light"`, `"dark"` or `"auto"`, which
            /// follows the viewer and is light on paper. Names are escaped.
            ///
            /// `view="host"` draws the files and the memory of the host behind the rows. `view="heat"` draws the pages of a mapped space:
            /// those that are resident, and in other colours the `DirtyPages` in `dirty`. Raises `InvalidArgument` for another view or theme,
            /// less than 320 pixels, or pages of a map, `NotMapped`.
            ///
            #[doc = example!($name)]
            /// >>> guest.to_svg(view="host")[:4]
            /// '<svg'
            #[allow(clippy::too_many_arguments, reason = "the keywords of a picture")]
            #[pyo3(signature = (*, title="Address space", theme="auto", width=U32(984), limit=U32(48), view="map", dirty=None, **others),
                text_signature = "($self, *, title='Address space', theme='auto', width=984, limit=48, view='map', dirty=None)")]
            fn to_svg<'py>(
                slf: &Bound<'py, Self>,
                title: &str,
                theme: &str,
                width: U32,
                limit: U32,
                view: &str,
                dirty: Option<&Bound<'py, PyAny>>,
                others: Option<&Bound<'_, PyDict>>,
            ) -> PyResult<Bound<'py, PyAny>> {
                keywords::refuse_of::<Self>("to_svg", others)?;
                drawn(slf.as_any(), "svg", "to_svg", (title, theme, width.0, limit.0, view, dirty))
            }

            /// The map as a page of HTML: one file without network, to read without scripts, to search and print.
            ///
            /// Groups of `rows(limit=limit)` open. `theme` is that of `to_svg`. Raises `InvalidArgument` for another one.
            ///
            #[doc = example!($name)]
            /// >>> guest.to_html()[:15]
            /// '<!doctype html>'
            #[pyo3(signature = (*, title="Address space", theme="auto", limit=U32(48), **others),
                text_signature = "($self, *, title='Address space', theme='auto', limit=48)")]
            fn to_html<'py>(
                slf: &Bound<'py, Self>,
                title: &str,
                theme: &str,
                limit: U32,
                others: Option<&Bound<'_, PyDict>>,
            ) -> PyResult<Bound<'py, PyAny>> {
                keywords::refuse_of::<Self>("to_html", others)?;
                drawn(slf.as_any(), "html", "to_html", (title, theme, limit.0))
            }

            /// The form for notebooks: a table without scripts or styles, which such viewers leave out.
            fn _repr_html_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
                drawn(slf.as_any(), "notebook", "to_table", ())
            }

            /// The form for `rich.print`: the table that fits its console.
            fn __rich_console__<'py>(
                slf: &Bound<'py, Self>,
                console: &Bound<'py, PyAny>,
                options: &Bound<'py, PyAny>,
            ) -> PyResult<Bound<'py, PyAny>> {
                drawn(slf.as_any(), "console", "lines", (console, options))
            }

            fn __str__(&self, py: Python<'_>) -> PyResult<String> {
                let reserved = self.reserved()?;
                let map = self.query(py, |base| Ok(Arc::clone(&base.map)))?;
                of_many(py, map.regions().len(), |interrupt| table(&rows(&map, &reserved, None), interrupt))
            }
        }
    };
}

pictures!(PyBase, "AddressSpaceBase");
pictures!(PySpace, "AddressSpace");
