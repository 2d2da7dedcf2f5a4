"""Proves that wheels are what their names say: a tag is a promise that a loader keeps, or breaks, at import."""

import argparse
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

from debian import Debian
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

ROOT = Path(__file__).resolve().parent.parent
MUSL = ROOT / "target" / "debian" / "musl"
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# The parts of glibc that manylinux promises and the extension uses.
GLIBC = re.compile(
    r"(libc\.so\.6|libm\.so\.6|libpthread\.so\.0|libdl\.so\.2|librt\.so\.1|ld-linux-(x86-64|aarch64)\.so\.[12])"
)
PYTHON = re.compile(r"_?Py[A-Z_]")
LICENCES = ("LICENSE", "NOTICE", "THIRD-PARTY")


@dataclass(frozen=True)
class Symbol:
    """A symbol that a library takes from another one."""

    name: str
    version: str | None
    is_weak: bool


@dataclass(frozen=True)
class Library:
    """The loader's view of an extension."""

    machine: str
    needed: tuple[str, ...]
    undefined: tuple[Symbol, ...]
    is_stripped: bool


def read_library(content: bytes) -> Library:
    """Reads an ELF file."""
    elf = ELFFile(BytesIO(content))
    dynamic = elf.get_section_by_name(".dynamic")
    assert isinstance(dynamic, DynamicSection)
    needed = tuple(tag.needed for tag in dynamic.iter_tags("DT_NEEDED"))
    is_stripped = elf.get_section_by_name(".symtab") is None
    return Library(elf["e_machine"], needed, tuple(_undefined(elf)), is_stripped)


def _undefined(elf: ELFFile) -> Iterator[Symbol]:
    symbols = elf.get_section_by_name(".dynsym")
    assert isinstance(symbols, SymbolTableSection)
    versions = _versions(elf)
    for symbol, version in zip(symbols.iter_symbols(), versions or [None] * symbols.num_symbols(), strict=True):
        if symbol.name and symbol["st_shndx"] == "SHN_UNDEF":
            yield Symbol(symbol.name, version, symbol["st_info"]["bind"] == "STB_WEAK")


def _versions(elf: ELFFile) -> list[str | None]:
    """The version that each dynamic symbol asks for; nothing where none does."""
    table = elf.get_section_by_name(".gnu.version")
    needs = elf.get_section_by_name(".gnu.version_r")
    if not isinstance(table, GNUVerSymSection) or not isinstance(needs, GNUVerNeedSection):
        return []
    names = {entry["vna_other"]: entry.name for _, entries in needs.iter_versions() for entry in entries}
    return [names.get(symbol["ndx"]) for symbol in table.iter_symbols()]


def manylinux_problems(library: Library, glibc: tuple[int, int]) -> Iterator[str]:
    """The obstacles on a machine with just that glibc."""
    for name in library.needed:
        if not GLIBC.fullmatch(name):
            yield f"needs {name}, which manylinux does not promise"
    for symbol in library.undefined:
        if symbol.version is None:
            # The loader looks for a strong symbol at import, and an old glibc need not have what a new one has.
            if not symbol.is_weak and not PYTHON.match(symbol.name):
                yield f"{symbol.name} has no version: it need not be in glibc {glibc[0]}.{glibc[1]}"
        elif symbol.version.startswith("GLIBC_") and _numbers(symbol.version) > glibc:
            yield f"{symbol.name} needs {symbol.version}"


def musllinux_problems(library: Library, exported: frozenset[str]) -> Iterator[str]:
    """The obstacles on a machine whose musl exports those symbols."""
    for name in library.needed:
        if not re.fullmatch(r"libc\.(so|musl-\w+\.so\.1)", name):
            yield f"needs {name}, which musllinux does not promise"
    for symbol in library.undefined:
        if not (symbol.is_weak or PYTHON.match(symbol.name) or symbol.name in exported):
            yield f"{symbol.name} is not in musl"


@cache
def musl_symbols(architecture: str) -> frozenset[str]:
    """The exports of musl 1.2: Debian 12 has 1.2.3, and musl only ever adds symbols."""
    folder = Debian(ROOT / "target" / "debian" / "bookworm", ("bookworm",), ("amd64", "arm64"))
    folder.unpack(("musl:amd64", "musl:arm64"), MUSL)
    elf = ELFFile(BytesIO((MUSL / "lib" / f"{architecture}-linux-musl" / "libc.so").read_bytes()))
    symbols = elf.get_section_by_name(".dynsym")
    assert isinstance(symbols, SymbolTableSection)
    return frozenset(symbol.name for symbol in symbols.iter_symbols() if symbol["st_shndx"] != "SHN_UNDEF")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def library_problems(library: Library, tag: str) -> Iterator[str]:
    """The problems of a platform tag."""
    match = re.fullmatch(r"(manylinux|musllinux)_(\d+)_(\d+)_(x86_64|aarch64)", tag)
    if match is None:
        yield f"{tag} is a tag that this check does not know"
        return
    kind, major, minor, architecture = match.groups()
    if library.machine != MACHINES[architecture]:
        yield f"is built for {library.machine}"
    if not library.is_stripped:
        yield "is not stripped"
    if kind == "manylinux":
        yield from manylinux_problems(library, (int(major), int(minor)))
    elif (major, minor) == ("1", "2"):
        yield from musllinux_problems(library, musl_symbols(architecture))
    else:
        yield f"musl {major}.{minor} is not at hand to check against"


def content_problems(name: str, content: bytes, folders: list[str]) -> Iterator[str]:
    """Which of the builder's folders a file names."""
    for folder in folders:
        if folder.encode() in content:
            yield f"{name} names the builder's folder {folder}"


def builder_folders() -> list[str]:
    """The folders of this machine that a build could leave traces of."""
    homes = [
        str(Path.home()),
        os.environ.get("CARGO_HOME", ""),
        str(ROOT),
        "/.cargo/registry/",
        "rustlib/src/rust/library",
    ]
    return sorted({folder for folder in homes if len(folder) > 1})


def wheel_problems(path: Path) -> Iterator[str]:
    """All that is wrong with a wheel."""
    _, _, interpreter, abi, tag = path.stem.split("-")
    if (interpreter, abi) != ("cp311", "abi3"):
        yield f"is for {interpreter}-{abi}, not for every CPython from 3.11"
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        for name in names:
            yield from content_problems(name, wheel.read(name), builder_folders())
        extensions = [name for name in names if name.endswith(".so")]
        if extensions != ["dbs_address_space/_core.abi3.so"]:
            yield f"has the extensions {extensions}"
        for name in extensions:
            yield from (f"{name}: {problem}" for problem in library_problems(read_library(wheel.read(name)), tag))
    yield from (f"has no {what}" for what in missing(names))
    yield from tool_problems(path, tag)


def missing(names: list[str]) -> Iterator[str]:
    """Which of the files that every wheel has are not there."""
    for licence in LICENCES:
        if not any(re.search(rf"\.dist-info/licenses/{licence}", name) for name in names):
            yield licence
    if not any(name.endswith(".cyclonedx.json") for name in names):
        yield "list of what is built in (SBOM)"
    if "dbs_address_space/py.typed" not in names:
        yield "py.typed"


def tool_problems(path: Path, tag: str) -> Iterator[str]:
    """The verdict of the field's tools."""
    folder = Path(sys.executable).parent
    audit = subprocess.run([folder / "abi3audit", "--strict", path], check=False, capture_output=True, text=True)
    if audit.returncode:
        yield f"abi3audit: {audit.stdout}{audit.stderr}"
    if tag.startswith("manylinux"):  # auditwheel can't read a musl wheel on a machine with glibc
        shown = subprocess.run([folder / "auditwheel", "show", path], check=False, capture_output=True, text=True)
        if f'"{tag}"' not in shown.stdout:
            yield f"auditwheel: {shown.stdout}{shown.stderr}"


def main(arguments: list[str] | None = None) -> None:
    """Checks wheels, and exits with what is wrong with them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", nargs="+", type=Path)
    wheels = parser.parse_args(arguments).wheels
    problems = [f"{wheel.name}: {problem}" for wheel in wheels for problem in wheel_problems(wheel)]
    if problems:
        raise SystemExit("\n".join(problems))
    sys.stdout.write(f"{len(wheels)} wheels are what their names say\n")


if __name__ == "__main__":
    main()
