"""The rooms of the crate: each imports only from rooms below it, no files of one import each other in a circle, and `unsafe`,
`libc`, locks and PyO3 stay where they belong."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
LEVELS = {"sys": 0, "model": 1, "dump": 2, "memory": 2, "space": 3, "clients": 4, "image": 5, "stream": 6, "python": 7}
"""How high a room lies."""
UNSAFE = ("sys/", "memory/", "python/buffer.rs")
PLAYED = "sys/sync.rs"
"""Where threads, atomics and locks are chosen: the real ones, or those that `make proofs` plays."""
PURE = re.compile(r"crate::sys::(?!(?:fork|lock|sync)\b)")
"""Of system calls, the map as pure data knows none: of their room, only what threads and processes share."""
LOCKS = re.compile(r"\b(Mutex|RwLock|Condvar|Barrier|(?:Py)?OnceLock|LazyLock|OnceCell|GILOnceCell|intern!)")
"""Names of locks that wait for another thread, which in a forked child may be missing."""
LISTS_ALL_DATA = ("sys/file.rs", "memory/data.rs", "image/verify.rs")
"""Where all data of a region or an image is listed, which is what is asked for there."""
WINDOWS = ("memory/region.rs", "memory/storage.rs")
"""Where bytes of a storage become host addresses; elsewhere one asks the region, whose window knows which bytes it shows."""
ITERATES = ("python/convert.rs",)
"""Where a caller's iterable is gone through, in steps between which signals are handled."""
NO_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|\bb?r(#*)".*?"\1|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\\\'])\'', re.DOTALL)
GROUP = re.compile(r"([\w:]+)::\{([^{}]*)\}")
PATH = re.compile(r"\b(crate|(?:self|super)(?:::super)*)::(\w[\w:]*)")
FUNCTION = re.compile(r"\bfn\b")
PYTHON_CALL = re.compile(
    r"(?<!visit)(?<!self)\.(?:call[01]?|call_method[01]?|getattr(?:_opt)?|hasattr|import|repr|str|try_iter|is_truthy|check_signals)\("
)
ATTACHES = re.compile(r"\bpy(?:\(\))?\.detach\(|\bPython::(?:try_)?(?:attach|detach)\b|\bwith_gil\b")
"""Ways to give up the interpreter's lock and to take it, which at the interpreter's end may end the thread."""
GUARD = re.compile(r"python_call\(\)|calls::attach\(")
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
    """The breaches of a file, its path relative to `src`."""
    code, room = code_of(text), room_of(path)
    yield from imported_wrongly(path, code)
    if not path.startswith(UNSAFE) and re.search(r"\bunsafe\b|\b(allow|expect)\s*\(\s*unsafe_code\b", code):
        yield f"{path} has unsafe code"
    if room != "sys" and re.search(r"\blibc\s*::", code):
        yield f"{path} uses libc"
    if path != PLAYED and LOCKS.search(code):
        yield f"{path} has a lock that is not of sys::lock, or a value made once that is not of sys::once"
    if path not in LISTS_ALL_DATA and re.search(r"\bSeekFrom::Hole\b|\bSEEK_HOLE\b|\bfile::data_runs\b", code):
        yield f"{path} asks for the next hole, which the kernel seeks to the end of the data, however little is wanted"
    if path not in WINDOWS and re.search(r"\bstorage(?:\(\))?\s*\.host\(", code):
        yield f"{path} takes a host address from a storage, whatever part of it the region shows"
    if room != "python" and re.search(r"\bpyo3\b|\bPy\s*<", code):
        yield f"{path} knows of Python"
    if room == "python":
        yield from complaints_of_binding(path, code)
    if not all(re.search(r"\bfrozen\b", arguments) for arguments in PYCLASS.findall(code)):
        yield f"{path} has a class that is not frozen"


def imported_wrongly(path: str, code: str) -> Iterator[str]:
    room = room_of(path)
    for other in imported(path, code) - {room}:
        if LEVELS[room] <= LEVELS[other]:
            yield f"{path} imports from {other}, which does not lie below {room}"
    if room == "model" and PURE.search(code):
        yield f"{path} knows of system calls"


def complaints_of_binding(path: str, code: str) -> Iterator[str]:
    if any(unguarded(function) for function in FUNCTION.split(code)):
        yield f"{path} calls Python without python_call()"
    if path != "python/calls.rs" and ATTACHES.search(code):
        yield f"{path} gives up the interpreter's lock, or takes it, other than by calls::detach and calls::attach"
    if path not in ITERATES and ".try_iter()" in code:
        yield f"{path} goes through a caller's iterable other than by convert::items"


def unguarded(function: str) -> bool:
    """Whether a function calls Python before it takes the guard of such calls."""
    call = PYTHON_CALL.search(function)
    return call is not None and not GUARD.search(function[: call.start()])


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


def module_of(path: str) -> str:
    """The module of a file, its path relative to `src`; a `mod.rs` is its folder."""
    return path.removesuffix(".rs").removesuffix("/mod").replace("/", "::")


def paths_in(path: str, text: str) -> set[str]:
    """The paths from the crate's root that the code of a file names, but for its own tests."""
    code = re.sub(r"\s*(::|[{},])\s*", r"\1", code_of(text.partition("#[cfg(test)]")[0]))
    while group := GROUP.search(code):
        members = (f"{group[1]}::{member}" for member in group[2].split(",") if member)
        code = code.replace(group[0], ",".join(members))

    def from_root(start: str, rest: str) -> str:
        here = [] if start == "crate" else module_of(path).split("::")
        return "::".join([*here[: len(here) - start.count("super")], rest])

    return {from_root(start, rest) for start, rest in PATH.findall(code)}


def imports_within_rooms(sources: dict[str, str]) -> dict[str, set[str]]:
    """Which modules of its own room each module names."""
    modules = {module_of(path) for path in sources}

    def named(path: str, text: str) -> Iterator[str]:
        for name in paths_in(path, text):
            parts = name.split("::")
            prefixes = ("::".join(parts[:length]) for length in range(len(parts), 0, -1))
            yield from [prefix for prefix in prefixes if prefix in modules][:1]

    def is_near(module: str, other: str) -> bool:
        return other != module and other.partition("::")[0] == module.partition("::")[0]

    return {
        (module := module_of(path)): {other for other in named(path, text) if is_near(module, other)}
        for path, text in sources.items()
    }


def in_circles(imports: dict[str, set[str]]) -> set[str]:
    """The modules that lie on circles, or between two of them."""
    left = set(imports)
    while True:
        imported = set().union(*(imports[module] & left for module in left))
        inner = {module for module in left if module in imported and imports[module] & left}
        if inner == left:
            return inner
        left = inner


def test_no_files_import_each_other_in_a_circle() -> None:
    imports = imports_within_rooms({path: text for path, text in files().items() if "/" in path})
    assert in_circles(imports) == set()
    assert len(imports) >= 100
    assert sum(map(len, imports.values())) >= 300
    assert imports["space::change"] >= {"space::space", "space::prepared", "space::subscribe"}
    assert "model::wait" in imports["model::unplug"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("use super::two::Two;", "use super::one::One;"),
        ("use super::two::Two;", "impl super::one::One for &dyn super::three::Three {}"),
        ("use crate::room::two;", "fn f() -> super::one::One {}"),
        ("use crate::{model, room::{three, two::{self, Two}}};", "use crate::room::{one};"),
        ("pub use super::{\n    two::Two,\n    three,\n};", "impl self::super::one::One {}"),
    ],
)
def test_circles_are_found(one: str, other: str) -> None:
    sources = {"room/mod.rs": "pub mod one; pub mod two;", "room/one.rs": one, "room/two.rs": other}
    assert in_circles(imports_within_rooms(sources)) == {"room::one", "room::two"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("use super::two::Two;", "// use super::one::One;"),
        ("use crate::room::two;", "use crate::model::one::One;"),
        ("use super::two::Two;", "fn f() {}\n#[cfg(test)]\nmod tests { use super::super::one::One; }"),
        ("use super::two::Two; use super::three::Three;", "use super::three::Three;"),
    ],
)
def test_what_is_no_circle_is_not_found(one: str, other: str) -> None:
    sources = {"room/one.rs": one, "room/two.rs": other, "room/three.rs": "", "model/one.rs": "use crate::room::two;"}
    assert in_circles(imports_within_rooms(sources)) == set()


def test_what_has_a_proof_is_made_of_what_can_be_played() -> None:
    proven = {path: text for path, text in files().items() if "mod proofs" in text}
    real = re.compile(r"\bstd::(?:sync::atomic|thread)\b|\barc_swap::.*ArcSwap\b")
    code = {path: code_of(text.partition("#[cfg(test)]")[0]) for path, text in proven.items()}
    code["space/space.rs"], code["space/change.rs"] = (files()[f"space/{name}.rs"] for name in ("space", "change"))
    assert [path for path, text in code.items() if real.search(text)] == []
    assert len(proven) >= 5


def played_statics(text: str) -> list[str]:
    """Statics of atomics that `make proofs` plays: several scenes at once would meet in them."""
    atomics = re.compile(r"^use (?:crate::sys|super)::sync::\{?[^;]*\bAtomic", re.MULTILINE)
    return re.findall(r"\bstatic (\w+): Atomic", text) if atomics.search(text) else []


def test_no_static_is_shared_by_scenes() -> None:
    texts = {path: code_of(path.read_text()) for path in SRC.rglob("*.rs")}
    assert {path.name: found for path, text in texts.items() if (found := played_statics(text))} == {}
    assert sum("static " in text for text in texts.values()) >= 5
    assert played_statics("use crate::sys::sync::{AtomicU8, Ordering};\nstatic LEVEL: AtomicU8 = X;") == ["LEVEL"]


def test_there_is_nothing_beside_the_rooms() -> None:
    assert {path.name for path in SRC.iterdir()} - LEVELS.keys() == {"lib.rs"}
    library = code_of((SRC / "lib.rs").read_text())
    assert not re.search(r"\bunsafe\b|\blibc\b|\bfn\b|\bstruct\b", library)
    rooms = {room.name for room in SRC.iterdir() if room.is_dir()}
    assert set(re.findall(r"^mod (\w+);", library, re.MULTILINE)) == {*rooms, "tests"}


def test_no_room_is_open_to_other_crates() -> None:
    """Only code that these tests look at can break the invariants; the benches get to what they measure by a feature."""
    library = (SRC / "lib.rs").read_text()
    assert re.findall(r"(.*)\npub mod (\w+)", library) == [('#[cfg(feature = "benches")]', "measured")]


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
        ("memory/extent.rs", "use std::sync::OnceLock;"),
        ("python/error.rs", "static ERRORS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();"),
        ("python/device.rs", 'intern!(py, "read")'),
        ("python/pin.rs", "struct Pin(std::sync::RwLock<()>);"),
        ("sys/copy.rs", "rustix::fs::seek(file, SeekFrom::Hole(position))"),
        ("memory/extent.rs", "file::data_runs(&file, 0, 1, found)"),
        ("memory/section.rs", "fn f() { region.storage().host(0) }"),
        ("clients/kvm.rs", "fn f() { let storage = region.storage(); storage.host(offset) }"),
        ("space/client.rs", "struct Client(Py<PyAny>);"),
        ("clients/kvm.rs", "use pyo3::prelude::*;"),
        ("python/region.rs", '#[pyclass(eq, name = "frozen")] struct R;'),
        ("python/region.rs", "#[pyclass] struct R;"),
        ("python/region.rs", "#[pyo3::pyclass(\n    eq,\n    hash,\n)]\nstruct R;"),
        ("python/space.rs", "fn f() { handler.call1((1,)); }"),
        ("python/space.rs", "fn f() { slf.py().detach(|| drop(lease)) }"),
        ("python/space.rs", "fn f() { Python::try_attach(|py| work(py)) }"),
        ("python/space.rs", "fn f() { let _guard = python_call(); given.try_iter()?.collect() }"),
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
        ("memory/region.rs", "fn f() { self.storage.host(part.base()) }"),
        ("python/buffer.rs", "unsafe { f() }"),
        ("python/region.rs", '#[pyclass(frozen, name = "R")] struct R(Py<PyAny>);'),
        ("sys/file.rs", "const A: libc::c_int = 1;"),
        ("space/turn.rs", "use std::sync::Arc; use crate::sys::lock::Lock; use crate::sys::once::Once;"),
        ("model/wait.rs", "use crate::sys::fork::Process; use crate::sys::lock::Lock;"),
        ("python/device.rs", 'interned!(py, "read")'),
        ("python/device.rs", "fn f() { calls::attach(|py| handler.call0(py)); self.detach(py) }"),
    ],
)
def test_the_guard_is_silent(path: str, text: str) -> None:
    assert list(complaints(path, text)) == []
