"""The rooms of the crate: each imports only from rooms below it, its files in no circle, and unsafe code stays in its place."""

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
LEVELS = {"sys": 0, "model": 0, "memory": 1, "space": 2, "clients": 3, "image": 4, "python": 5}
"""How high a room lies; those of one level know nothing of each other."""
UNSAFE = ("sys/", "memory/", "python/buffer.rs")
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
    if room != "python" and re.search(r"\bpyo3\b|\bPy\s*<", code):
        yield f"{path} knows of Python"
    for arguments in PYCLASS.findall(code):
        if not re.search(r"\bfrozen\b", arguments):
            yield f"{path} has a class that is not frozen"


def leaves(code: str, at: int) -> tuple[list[str], int]:
    """Every path of the `use` tree, or of the expression, that begins at a place of the code, and where it ends."""
    path = re.compile(r"(?:\w+::)*[\w*]*").match(code, at)
    assert path
    if not path[0].endswith("::"):
        return [path[0]], path.end()
    found, at = [], path.end() + 1
    while code[at] != "}":
        if re.match(r"[\w*]", code[at]):
            inner, at = leaves(code, at)
            found += [path[0] + leaf for leaf in inner]
        else:
            at += 1
    return found, at + 1


def module_of(path: str) -> list[str]:
    return [part for part in path.removesuffix(".rs").split("/") if part != "mod"]


def graph(texts: dict[str, str]) -> dict[str, set[str]]:
    """The files that each file names by a path from `crate` or `super`."""
    modules = {tuple(module_of(path)): path for path in texts}
    found: dict[str, set[str]] = {path: set() for path in texts}
    for path, text in texts.items():
        code = code_of(text).split("#[cfg(test)]")[0]
        for start in re.finditer(r"(?<![\w:])(?:crate|super)::", code):
            for leaf in leaves(code, start.start())[0]:
                parts = leaf.split("::")
                home = [] if parts[0] == "crate" else module_of(path)[: -parts.count("super")]
                name = (*home, *(part for part in parts if part not in ("crate", "super")))
                named = next((modules[name[:size]] for size in range(len(name), 0, -1) if name[:size] in modules), path)
                found[path] |= {named} - {path}
    return found


def circle(texts: dict[str, str]) -> list[str]:
    """Files that import each other in a circle."""
    try:
        TopologicalSorter(graph(texts)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


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


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(files()) == []
    assert sum(map(len, graph(files()).values())) >= 500


def test_a_circle_is_found() -> None:
    texts = {
        "a/mod.rs": "pub mod b; pub mod c;",
        "a/b.rs": "use super::{c::{self, C as D}, missing}; use std::fs;",
        "a/c.rs": "fn f() -> crate::a::b::B {} #[cfg(test)] mod tests { use super::*; }",
    }
    assert graph(texts) == {"a/mod.rs": set(), "a/b.rs": {"a/c.rs", "a/mod.rs"}, "a/c.rs": {"a/b.rs"}}
    assert set(circle(texts)) == {"a/b.rs", "a/c.rs"}
    assert circle({**texts, "a/c.rs": "struct C;"}) == []


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
    ],
)
def test_the_guard_is_silent(path: str, text: str) -> None:
    assert list(complaints(path, text)) == []
