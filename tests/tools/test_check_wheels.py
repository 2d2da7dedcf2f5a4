"""The proof of the wheels' tags finds what a loader would stumble over; libraries are built by the C compiler here."""

import platform
import subprocess
import zipfile
from pathlib import Path

import check_wheels
import pytest
from check_wheels import Library, Symbol, library_problems, read_library, wheel_problems

MACHINE = platform.machine()
OTHER = {"x86_64": "aarch64", "aarch64": "x86_64"}[MACHINE]
# Debian 12's glibc has it since 2.27: with a libc to link, its version is noted; without one, nothing is.
SOURCE = 'int memfd_create(const char *, unsigned); int call(void) { return memfd_create("", 0); }'


def compiled(tmp_path: Path, *options: str, source: str = SOURCE) -> bytes:
    """A shared library."""
    path = tmp_path / "library.so"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", "-o", str(path), *options]
    subprocess.run(command, check=True, input=source, text=True)
    return path.read_bytes()


def problems(content: bytes, kind: str) -> list[str]:
    return list(library_problems(read_library(content), f"{kind}_{MACHINE}"))


def test_a_library_that_fits_has_no_problems(tmp_path: Path) -> None:
    content = compiled(tmp_path, "-s")
    assert problems(content, "manylinux_2_28") == []
    assert Symbol("memfd_create", "GLIBC_2.27", is_weak=False) in read_library(content).undefined


def test_a_symbol_that_is_newer_than_the_tag(tmp_path: Path) -> None:
    assert problems(compiled(tmp_path, "-s"), "manylinux_2_17") == ["memfd_create needs GLIBC_2.27"]


def test_a_strong_symbol_without_a_version_need_not_be_there(tmp_path: Path) -> None:
    """A library linked for manylinux_2_17, as auditwheel lets it pass: import fails where glibc has no memfd_create."""
    found = problems(compiled(tmp_path, "-s", "-nostdlib"), "manylinux_2_17")
    assert found == ["memfd_create has no version: it need not be in glibc 2.17"]


@pytest.mark.parametrize(
    "source",
    [
        "int gettid(void) __attribute__((weak)); int call(void) { return gettid(); }",
        "int PyX(void); int call(void) { return PyX(); }",
    ],
    ids=["weak", "Python's"],
)
def test_weak_and_python_symbols_need_no_version(tmp_path: Path, source: str) -> None:
    assert problems(compiled(tmp_path, "-s", "-nostdlib", source=source), "manylinux_2_17") == []


def test_a_library_that_the_tag_does_not_promise(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    compiled(tmp_path / "other", "-Wl,-soname,libother.so.1", source="int other(void) { return 1; }")
    options = ["-s", "-Wl,--no-as-needed", str(tmp_path / "other" / "library.so")]
    assert problems(compiled(tmp_path, *options), "manylinux_2_28") == [
        "needs libother.so.1, which manylinux does not promise"
    ]


def test_another_machine_and_a_symbol_table(tmp_path: Path) -> None:
    library = read_library(compiled(tmp_path))
    found = list(library_problems(library, f"manylinux_2_28_{OTHER}"))
    assert found == [f"is built for {check_wheels.MACHINES[MACHINE]}", "is not stripped"]


def test_a_tag_that_nobody_knows() -> None:
    library = Library("EM_X86_64", (), (), is_stripped=True)
    assert list(library_problems(library, "linux_x86_64")) == ["linux_x86_64 is a tag that this check does not know"]


def test_musl_has_only_what_it_exports() -> None:
    undefined = (
        Symbol("mmap", None, is_weak=False),
        Symbol("gnu_get_libc_version", None, is_weak=False),
        Symbol("__cxa_thread_atexit_impl", None, is_weak=True),
        Symbol("PyLong_AsLong", None, is_weak=False),
    )
    library = Library("EM_X86_64", ("libc.so", "libgcc_s.so.1"), undefined, is_stripped=True)
    found = list(check_wheels.musllinux_problems(library, frozenset({"mmap"})))
    assert found == ["needs libgcc_s.so.1, which musllinux does not promise", "gnu_get_libc_version is not in musl"]


def test_a_wheel_that_lacks_what_every_wheel_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / f"dbs_address_space-0.1.0-cp312-cp312-manylinux_2_28_{MACHINE}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("dbs_address_space/_core.abi3.so", compiled(tmp_path, "-s"))
        archive.writestr("dbs_address_space/notes.txt", f"built in {check_wheels.ROOT}")
    monkeypatch.setattr(check_wheels, "tool_problems", lambda *_: iter(()))
    found = list(wheel_problems(wheel))
    assert found[0] == "is for cp312-cp312, not for every CPython from 3.11"
    assert f"dbs_address_space/notes.txt names the builder's folder {check_wheels.ROOT}" in found
    missing = ["LICENSE", "NOTICE", "THIRD-PARTY", "list of what is built in (SBOM)", "py.typed"]
    assert found[-5:] == [f"has no {what}" for what in missing]
