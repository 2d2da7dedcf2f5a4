//! Arguments from Python, checked; enum members and named tuples to Python.

use std::borrow::Cow;
use std::path::PathBuf;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyList, PyString, PyTuple};
use pyo3::{Borrowed, IntoPyObjectExt};

use super::argument::{Argument, has, type_name, wanted};
use super::buffer;
use super::calls::python_call;
use super::import_once::{ImportOnce, interned};
use crate::model::format;
use crate::model::invalid::Invalid;
use crate::model::quote::quoted;
use crate::model::range::Range;
use crate::model::region::{PROT_EXEC, PROT_READ, PROT_WRITE, RegionType};
use crate::model::room::{self, Room};
use crate::model::source::SourceType;

/// Ints of Python's, checked: no other parameter of a method is a number (`tests/python/test_arguments.py`).
macro_rules! integers {
    ($($(#[$doc:meta])* $visibility:vis $name:ident($type:ty);)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        $visibility struct $name(pub(super) $type);

        impl<'py> FromPyObject<'_, 'py> for $name {
            type Error = PyErr;

            #[inline]
            fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
                narrow(object).map(Self)
            }
        }
    )* };
}

integers! {
    /// A guest physical address.
    pub Address(u64);
    /// A number of 64 bits that is neither an address nor a size.
    pub(super) U64(u64);
    /// A number of 32 bits, such as a NUMA node.
    pub(super) U32(u32);
    /// One byte's value.
    pub(super) Byte(u8);
    /// `mmap` flags, a protection or a descriptor: a C int that isn't negative.
    pub CInt(i32);
}

/// A number of bytes, also as text.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub(super) u64);

impl Size {
    /// The length of something in memory.
    #[inline]
    pub(super) fn of(length: usize) -> Self {
        Self(u64::try_from(length).unwrap_or(u64::MAX))
    }
}

impl<'py> FromPyObject<'_, 'py> for Size {
    type Error = PyErr;

    #[inline]
    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match exact_unsigned(object, u64::MAX) {
            Some(size) => Ok(Self(size)),
            None => size_slowly(object).map(Self),
        }
    }
}

#[cold]
fn size_slowly(object: Borrowed<'_, '_, PyAny>) -> PyResult<u64> {
    match object.cast::<PyString>() {
        Ok(text) => Ok(format::parse_size(&word(&text)?)?),
        Err(_) => unsigned_slowly(object, u64::MAX, "a size, an int or text such as \"512MiB\","),
    }
}

/// The name of a region: text that can be written as UTF-8.
#[derive(Clone, Debug)]
pub(super) struct Name(pub(super) Box<str>);

impl<'py> FromPyObject<'_, 'py> for Name {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let text = object.cast::<PyString>()?;
        let shown = word(&text)?;
        let name = text.to_cow().map_err(|_| {
            Invalid::argument(format!("{} can't be a region's name: it has lone surrogates", quoted(&shown)))
        })?;
        Ok(Self(room::text(&name)?.into()))
    }
}

/// The most characters of a text that names something, or a size.
const LONGEST_WORD: usize = 1 << 14;

/// A text that names something, or a size, with lone surrogates shown as such; a long one is refused before anything is made of it.
pub(super) fn word<'a>(text: &'a Borrowed<'_, '_, PyString>) -> PyResult<Cow<'a, str>> {
    let length = text.len()?;
    if length > LONGEST_WORD {
        return Err(
            Invalid::argument(format!("a text of {length} characters names nothing: at most {LONGEST_WORD}")).into()
        );
    }
    Ok(text.to_string_lossy())
}

/// A copy of a text.
pub(super) fn text(object: &Bound<'_, PyAny>) -> PyResult<String> {
    let text = object.cast::<PyString>().map_err(|_| wanted("a str", object))?;
    Ok(room::text(&text.to_cow()?)?)
}

/// A protection: bits, or text such as `"rw-"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Protection(pub(super) i32);

impl<'py> FromPyObject<'_, 'py> for Protection {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.cast::<PyString>() {
            Ok(text) => Ok(Self(format::parse_protection(&word(&text)?)?)),
            Err(_) => {
                let CInt(flags) = object.extract()?;
                if flags & !(PROT_READ | PROT_WRITE | PROT_EXEC) == 0 {
                    return Ok(Self(flags));
                }
                let message = format!(
                    "{flags:#x} is not a protection: give some of Prot.READ, WRITE and EXEC, or text such as \"rw-\""
                );
                Err(Invalid::argument(message).into())
            }
        }
    }
}

/// A type of numbers, of which those from 0 on are taken.
pub(super) trait Number: TryFrom<u64> {
    /// The highest.
    const MAX: Self;
    /// The same in 64 bits.
    const MAX_U64: u64;
}

macro_rules! numbers {
    ($($type:ty: $max:expr;)*) => { $(
        impl Number for $type {
            const MAX: Self = <$type>::MAX;
            const MAX_U64: u64 = $max;
        }
    )* };
}

numbers! { u8: 0xff; u16: 0xffff; u32: 0xffff_ffff; u64: u64::MAX; i32: 0x7fff_ffff; }

/// An int that fits its type, or why not.
#[inline]
pub(super) fn narrow<T: Number>(object: Borrowed<'_, '_, PyAny>) -> PyResult<T> {
    // It fits, having been compared with the type's highest.
    unsigned(object, T::MAX_U64).map(|value| T::try_from(value).unwrap_or(T::MAX))
}

/// A type of signed numbers.
pub(super) trait Signed: TryFrom<i64> + Into<i64> {
    /// The lowest.
    const MIN: Self;
    /// The highest.
    const MAX: Self;
}

macro_rules! signed_numbers {
    ($($type:ty)*) => { $(
        impl Signed for $type {
            const MIN: Self = <$type>::MIN;
            const MAX: Self = <$type>::MAX;
        }
    )* };
}

signed_numbers! { i8 i16 i32 i64 }

/// A signed int that fits its type, or why not.
#[inline]
pub(super) fn narrow_signed<T: Signed>(object: Borrowed<'_, '_, PyAny>) -> PyResult<T> {
    let int = object.cast_exact::<PyInt>().ok().and_then(|int| int.extract::<i64>().ok());
    match int.and_then(|value| T::try_from(value).ok()) {
        Some(value) => Ok(value),
        None => signed_slowly(object),
    }
}

#[cold]
fn signed_slowly<T: Signed>(object: Borrowed<'_, '_, PyAny>) -> PyResult<T> {
    let index = index_of(object, "an int")?;
    let value = index.extract::<i64>().ok().and_then(|value| T::try_from(value).ok());
    let lowest = || format!("-{}", format::hex(T::MIN.into().unsigned_abs()));
    value.ok_or_else(|| out_of_range(&index, &lowest(), T::MAX.into().unsigned_abs()))
}

/// An int that fits, or why not: a `bool` is not a number, and nothing wraps.
#[inline]
pub(super) fn unsigned(object: Borrowed<'_, '_, PyAny>, highest: u64) -> PyResult<u64> {
    match exact_unsigned(object, highest) {
        Some(value) => Ok(value),
        None => unsigned_slowly(object, highest, "an int"),
    }
}

/// A plain int that fits.
#[inline]
fn exact_unsigned(object: Borrowed<'_, '_, PyAny>, highest: u64) -> Option<u64> {
    let int = object.cast_exact::<PyInt>().ok()?;
    buffer::plain_int(int).filter(|value| *value <= highest)
}

#[cold]
fn unsigned_slowly(object: Borrowed<'_, '_, PyAny>, highest: u64, what: &str) -> PyResult<u64> {
    let index = index_of(object, what)?;
    let value = index.extract::<u64>().ok().filter(|value| *value <= highest);
    value.ok_or_else(|| out_of_range(&index, "0", highest))
}

/// The plain int of a number.
fn index_of<'py>(object: Borrowed<'_, 'py, PyAny>, what: &str) -> PyResult<Bound<'py, PyAny>> {
    let _guard = python_call();
    if object.is_instance_of::<PyBool>() {
        return Err(Invalid::number(format!("{} is a bool where a number is needed", object.str()?)).into());
    }
    if !has(&object, "__index__")? {
        return Err(wanted(what, &object));
    }
    object.py().import("operator")?.call_method1("index", (object,))
}

fn out_of_range(index: &Bound<'_, PyAny>, lowest: &str, highest: u64) -> PyErr {
    let _guard = python_call();
    let written =
        index.call_method1("__format__", ("#x",)).map_or_else(|_| String::from("it"), |text| text.to_string());
    let highest = format::hex(highest);
    Invalid::number(format!("{written} is out of range: it must lie between {lowest} and {highest}")).into()
}

/// The range of an access.
#[inline]
pub(super) fn range(addr: Address, size: Size) -> PyResult<Range> {
    Ok(Range::new(addr.0, size.0)?)
}

/// Text, or the `value` of an enum member.
fn text_of(object: &Bound<'_, PyAny>, what: &str) -> PyResult<String> {
    let _guard = python_call();
    let value = if object.is_instance_of::<PyString>() {
        object.clone()
    } else {
        object.getattr("value").unwrap_or_else(|_| object.clone())
    };
    let text = value.cast::<PyString>().map_err(|_| {
        PyTypeError::new_err(format!("{what} must be a member of its enum or a str, not {}", type_name(object)))
    })?;
    Ok(word(&text.as_borrowed())?.into())
}

/// A region type from a member, its value or its name.
pub(super) fn region_type(object: &Bound<'_, PyAny>) -> PyResult<RegionType> {
    Ok(RegionType::parse(&text_of(object, "region_type")?)?)
}

/// A memory source from a member or one of the nine strings.
pub(super) fn source_type(object: &Bound<'_, PyAny>) -> PyResult<SourceType> {
    Ok(SourceType::parse(&text_of(object, "mem_type")?)?)
}

/// A path from text or an `os.PathLike`.
pub(super) fn path(object: &Bound<'_, PyAny>, name: &str) -> PyResult<PathBuf> {
    let _guard = python_call();
    object.extract().argument(name)
}

macro_rules! imported {
    ($(#[$doc:meta])* $name:ident, $module:literal, $class:literal) => {
        $(#[$doc])*
        pub(super) fn $name<'py>(py: Python<'py>, value: impl pyo3::call::PyCallArgs<'py>) -> PyResult<Bound<'py, PyAny>> {
            static CLASS: ImportOnce = ImportOnce::new();
            let _guard = python_call();
            CLASS.import(py, $module, $class)?.call1(value)
        }
    };
}

imported!(
    /// An `AddressRange`.
    py_range, "dbs_address_space.ranges", "AddressRange"
);
imported!(
    /// A `MapRow`.
    py_map_row, "dbs_address_space.map_row", "MapRow"
);
imported!(
    /// A `PlanCost`.
    py_plan_cost, "dbs_address_space.reports", "PlanCost"
);
imported!(
    /// A `PreallocReport`.
    py_prealloc_report, "dbs_address_space.reports", "PreallocReport"
);
imported!(
    /// A `ResetStats`.
    py_reset_stats, "dbs_address_space.reports", "ResetStats"
);
imported!(
    /// An `EffectiveBacking`.
    py_effective, "dbs_address_space.reports", "EffectiveBacking"
);
imported!(
    /// A `SpaceStats`.
    py_space_stats, "dbs_address_space.reports", "SpaceStats"
);
imported!(
    /// A `NumaPlacement`.
    py_placement, "dbs_address_space.reports", "Placement"
);
imported!(
    /// A `DaxMapping`.
    py_dax_mapping, "dbs_address_space.reports", "DaxMapping"
);

/// A tuple of `AddressRange`, made without Python code: its own checks have nothing to find.
pub(super) fn py_ranges(py: Python<'_>, ranges: Vec<Range>) -> PyResult<Bound<'_, PyTuple>> {
    static CLASS: ImportOnce = ImportOnce::new();
    let _guard = python_call();
    let class = CLASS.import(py, "dbs_address_space.ranges", "AddressRange")?;
    let new = py.get_type::<PyTuple>().getattr(interned!(py, "__new__"))?;
    let list = PyList::empty(py);
    for (index, range) in ranges.iter().enumerate() {
        handle_signals(py, index)?;
        list.append(new.call1((class, (range.base(), range.size())))?)?;
    }
    Ok(list.to_tuple())
}

/// Handles signals now and then, in a loop over as many items as a caller chose.
#[inline]
fn handle_signals(py: Python<'_>, index: usize) -> PyResult<()> {
    let _guard = python_call();
    if index.is_multiple_of(4096) { py.check_signals() } else { Ok(()) }
}

/// The values that `each` makes of the items of a caller's iterable, which may be without end; `of` what it iterates.
pub(super) fn items<'py, T>(
    given: &Bound<'py, PyAny>,
    of: &str,
    mut each: impl FnMut(Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<Vec<T>> {
    let _guard = python_call();
    if given.is_instance_of::<PyString>() || !(has(given, "__iter__")? || has(given, "__getitem__")?) {
        return Err(wanted(&format!("an iterable of {of}, such as a tuple of one,"), given));
    }
    collected(given.py(), given.try_iter()?.map(|item| each(item?)))
}

/// A tuple of as many objects as a map has regions: Ctrl-C ends the making of it.
pub(super) fn py_tuple<'py, T: IntoPyObject<'py>>(
    py: Python<'py>,
    items: impl IntoIterator<Item = T>,
) -> PyResult<Bound<'py, PyTuple>> {
    PyTuple::new(py, collected(py, items.into_iter().map(|item| item.into_bound_py_any(py)))?)
}

/// [`items`] of a parameter that may be left out.
pub(super) fn items_or_none<'py, T>(
    given: Option<&Bound<'py, PyAny>>,
    of: &str,
    each: impl FnMut(Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<Vec<T>> {
    given.map_or_else(|| Ok(Vec::new()), |given| items(given, of, each))
}

/// A pair `(base, size)`.
pub(super) fn pair(object: &Bound<'_, PyAny>) -> PyResult<(Address, Size)> {
    let pair = object.cast::<PyTuple>().map_err(|_| wanted(PAIR, object))?;
    if pair.len() != 2 {
        return Err(Invalid::argument(format!("{PAIR} is needed, not a tuple of {}", pair.len())).into());
    }
    Ok((pair.get_borrowed_item(0)?.extract()?, pair.get_borrowed_item(1)?.extract()?))
}

const PAIR: &str = "a pair of an address and a size, such as (0xc000_0000, \"1GiB\"),";

/// The items of an iterator, as many as a caller chose: Ctrl-C ends it, and a refusal of room is a `MemoryError`.
pub(super) fn collected<T>(py: Python<'_>, items: impl Iterator<Item = PyResult<T>>) -> PyResult<Vec<T>> {
    let mut all = room::unwritten(items.size_hint().0)?;
    for (index, item) in items.enumerate() {
        handle_signals(py, index)?;
        all.add(item?)?;
    }
    Ok(all)
}
