"""The rooms of the crate: each imports only from rooms below it, and `unsafe`, `libc`, locks and PyO3 stay where they belong."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
LEVELS = {"sys": 0, "model": 0, "memory": 1, "space": 2, "clients": 3, "image": 4, "python": 5}
"""How high a room lies; those of one level know nothing of each other."""
UNSAFE = ("sys/", "memory/", "python/buffer.rs")
LOCKS = ("model/lock.rs", "model/wait.rs")
NO_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|\bb?r(#*)".*?"\1|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\\\'])\'', re.DOTALL)
PYCLASS = re.compile(r"#\[(?:pyo3::)?pyclass\b(.*?)\]", re.DOTALL)


def code_of(text: str) -> str:
    """The text without comments, strings and characters."""
    return NO_CODE.sub(" ", text)


def room_of(path: str) -> str:
    return path.split("/", maxsplit=1)[0]


def imported(path: str, code: str) -> set[str]:
    """The rooms that a file names; in a room's own `mod.rs`, `super` is the crate."""
    roots = "crate|super" if re.fullmatch(r"\w+/mod\.rs", path) else "crate"
    rooms = set(re.findall(rf"\b(?:{roots})::(\w+)", code))
    for group in re.findall(rf"\b(?:{roots})::\{{([^;]*)\}}", code):
        rooms.update(re.findall(r"\w+", group))
    return rooms & LEVELS.keys()


def complaints(path: str, text: str) -> Iterator[str]:
    """What is wrong with a file, its path relative to `src`."""
    code, room = code_of(text), room_of(path)
    for other in imported(path, code) - {room}:
        if LEVELS[room] <= LEVELS[other]:
            yield f"{path} imports from {other}, which does not lie below {room}"
    if not path.startswith(UNSAFE) and re.search(r"\bunsafe\b|\b(allow|expect)\s*\(\s*unsafe_code\b", code):
        yield f"{path} has unsafe code"
    if room != "sys" and re.search(r"\blibc\s*::", code):
        yield f"{path} uses libc"
    if path not in LOCKS and re.search(r"\b(Mutex|RwLock|Condvar)\b", code):
        yield f"{path} has a lock that is not of model::lock"
    if room != "python" and re.search(r"\bpyo3\b|\bPy\s*<", code):
        yield f"{path} knows of Python"
    for arguments in PYCLASS.findall(code):
        if not re.search(r"\bfrozen\b", arguments):
            yield f"{path} has a class that is not frozen"


def files() -> dict[str, str]:
    return {str(path.relative_to(SRC)): path.read_text() for path in sorted(SRC.rglob("*.rs"))}


def test_rooms_keep_their_order_and_what_is_unsafe_its_place() -> None:
    rooms = {path: text for path, text in files().items() if "/" in path}
    assert [complaint for path, text in rooms.items() for complaint in complaints(path, text)] == []
    assert len(rooms) >= 50
    assert {room_of(path) for path in rooms} >= {"sys", "model", "memory", "space", "python"}
    assert sum(len(imported(path, code_of(text))) for path, text in rooms.items()) >= 60
    assert sum(len(PYCLASS.findall(code_of(text))) for text in rooms.values()) >= 12
    assert sum("unsafe {" in code_of(text) for text in rooms.values()) >= 5


def test_there_is_nothing_beside_the_rooms() -> None:
    assert {path.name for path in SRC.iterdir()} - LEVELS.keys() == {"lib.rs"}
    library = code_of((SRC / "lib.rs").read_text())
    assert not re.search(r"\bunsafe\b|\blibc\b|\bfn\b|\bstruct\b", library)
    assert set(re.findall(r"pub mod (\w+);", library)) == {room.name for room in SRC.iterdir() if room.is_dir()}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("model/map.rs", "use crate::space::AddressSpace;"),
        ("model/map.rs", "use crate::sys::file;"),
        ("sys/file.rs", "fn f() -> crate::model::error::Error {}"),
        ("memory/map.rs", "use crate::{model::map::Map, space::turn};"),
        ("memory/mod.rs", "use super::python::region;"),
        ("space/turn.rs", "fn f() { unsafe { g() } }"),
        ("space/turn.rs", '#![allow(unsafe_code, reason = "just once")]'),
        ("python/region.rs", 'const A: &str = "//"; unsafe fn f() {}'),
        ("python/region.rs", "fn f<'a>(x: &'a u8) { let quote = '\"'; unsafe {} }"),
        ("memory/map.rs", "const SIZE: libc::c_int = 1;"),
        ("space/turn.rs", "use std::sync::{Arc, Mutex};"),
        ("python/pin.rs", "struct Pin(std::sync::RwLock<()>);"),
        ("space/client.rs", "struct Client(Py<PyAny>);"),
        ("clients/kvm.rs", "use pyo3::prelude::*;"),
        ("python/region.rs", '#[pyclass(eq, name = "frozen")] struct R;'),
        ("python/region.rs", "#[pyclass] struct R;"),
        ("python/region.rs", "#[pyo3::pyclass(\n    eq,\n    hash,\n)]\nstruct R;"),
    ],
)
def test_the_guard_complains(path: str, text: str) -> None:
    assert len(list(complaints(path, text))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("space/turn.rs", "use crate::memory::map; use crate::model::map::Map; use crate::space::client;"),
        (
            "space/turn.rs",
            '// unsafe, libc::c_int\n/* Py<A> */ const A: &str = "unsafe { pyo3 }"; const B: &str = r#"a "unsafe" b"#;',
        ),
        ("space/mod.rs", "use super::memory; pub use space::AddressSpace;"),
        ("memory/map.rs", "unsafe { f() }"),
        ("python/buffer.rs", "unsafe { f() }"),
        ("python/region.rs", '#[pyclass(frozen, name = "R")] struct R(Py<PyAny>);'),
        ("sys/file.rs", "const A: libc::c_int = 1;"),
        ("model/lock.rs", "pub struct Lock<T>(std::sync::Mutex<T>);"),
        ("space/turn.rs", "use std::sync::{Arc, OnceLock}; use crate::model::lock::{Lock, SharedLock};"),
    ],
)
def test_the_guard_is_silent(path: str, text: str) -> None:
    assert list(complaints(path, text)) == []
