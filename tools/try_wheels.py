"""Runs what is in dist/ as a user would have it: here, on an emulated aarch64, on musl, and from the sdist, without git."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

import musl_python
from debian import Debian
from try_pythons import environment_for
from wheels import DIST, ROOT, TARGET

TRIALS = TARGET / "trials"
DEBIAN = TARGET / "debian"
TESTERS = ("pytest>=9", "pytest-timeout>=2.4")
# The tests of memory that an emulator of programs, rather than of a machine, can run: no seccomp, userfaultfd or huge pages.
EMULATED = [
    "memory",
    "views",
    "structs",
    "vectors",
    "atomics",
    "copy",
    "transfer",
    "search",
    "scans",
    "streams",
    "user_files",
    "adopted",
    "guest_file",
]
IMPORT = re.compile(r"^\s*(?:import|from) (\w+)", re.MULTILINE)


def example() -> str:
    """The README's first example."""
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_files(*folders: str, without: set[str]) -> Iterator[str]:
    """The test files of folders that can do without some packages, and whose helpers can."""
    for path in sorted(path for folder in folders for path in (ROOT / "tests" / folder).glob("test_*.py")):
        if not needs(path, without):
            yield str(path)


def needs(path: Path, packages: set[str]) -> bool:
    """Whether a file, or a helper that it imports, imports one of the packages."""
    names = set(IMPORT.findall(path.read_text()))
    helpers = [folder / f"{name}.py" for name in names for folder in (ROOT / "tests", ROOT / "tests" / "helpers")]
    return bool(names & packages) or any(needs(helper, packages) for helper in helpers if helper.exists())


def only(pattern: str) -> Path:
    """The one file in dist/ that matches."""
    found = sorted(DIST.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"dist/ has {len(found)} files {pattern}: run `make wheels` first")
    return found[0]


def site(name: str, wheel: Path, python: str, platforms: Sequence[str], *packages: str) -> Path:
    """A folder with the wheel and what its tests need, as pip would choose it on that platform."""
    folder = TRIALS / name
    shutil.rmtree(folder, ignore_errors=True)
    options = ["--quiet", "--only-binary", ":all:", "--python-version", python, "--target", str(folder)]
    options += [word for platform in platforms for word in ("--platform", platform)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel), *TESTERS, *packages], check=True)
    return folder


def run(command: Sequence[str | Path], folder: Path, files: Sequence[str], *, deselected: str = "") -> None:
    """Runs the README's example, and tests."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([*command, "-X", "dev", "-W", "error", "-c", example()], check=True, env=environment, cwd=TRIALS)
    options = ["-q", "-p", "no:cacheprovider", *(["-k", f"not ({deselected})"] if deselected else [])]
    subprocess.run([*command, "-m", "pytest", *options, *files], check=True, env=environment, cwd=ROOT)


def try_native() -> None:
    """The wheel of this machine with all tests: it is linked in another way than the extension that `make test` builds."""
    python = environment_for("native", Path(sys.executable), only(f"*-manylinux_*_{os.uname().machine}.whl"))
    run([python], TRIALS, ["tests"])


def try_aarch64() -> None:
    """The aarch64 wheel in Debian's Python for that machine, each instruction emulated."""
    emulator = Debian(DEBIAN / "amd64", ("bookworm",)).unpack(["qemu-user-static"], DEBIAN / "emulator")
    machine = Debian(DEBIAN / "arm64", ("bookworm",), ("arm64",))
    root = machine.unpack(["python3.11", "libstdc++6"], DEBIAN / "arm64-root", with_dependencies=True)
    wheel = only("*-manylinux_*_aarch64.whl")
    platforms = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64")
    folder = site("aarch64", wheel, "3.11", platforms, "numpy", "blake3", "hypothesis>=6.112")
    command: list[str | Path] = [emulator / "usr/bin/qemu-aarch64-static", "-L", root, root / "usr/bin/python3.11"]
    files = list(test_files("model", without={"drgn", "rich", "unicorn", "volatility3"}))
    files += [str(ROOT / "tests" / "memory" / f"test_{name}.py") for name in EMULATED]
    # Address space is scarce there, PAGEMAP_SCAN and huge pages are missing, and a Python that starts another one does not know
    # that it is emulated.
    run(command, folder, files, deselected="terabyte or 4_tib or shared_memory or stays_ranges or heat or huge_pages")


def try_musl() -> None:
    """The musl wheel in a CPython for musl."""
    folder = site("musl", only("*-musllinux_*_x86_64.whl"), musl_python.VERSION, ("musllinux_1_2_x86_64",))
    # That CPython lacks zlib, which Hypothesis wants too, and the others have no wheels for it.
    without = {"blake3", "drgn", "gzip", "hypothesis", "numpy", "rich", "unicorn", "volatility3", "zipfile"}
    run([musl_python.build()], folder, list(test_files("model", "memory", "space", without=without)))


def try_sdist() -> None:
    """The sdist: installed into an environment of its own, and unpacked, checked and tested where there is no git."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment["CARGO_TARGET_DIR"] = str(TARGET / "sdist")
    with tempfile.TemporaryDirectory(prefix="sdist-") as name:
        folder = Path(name)
        python = folder / "venv" / "bin" / "python"
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", only("*.tar.gz")], check=True, env=environment)
        subprocess.run([python, "-c", example()], check=True, cwd=folder)
        subprocess.run(
            ["tar", "--extract", "--strip-components=1", "--directory", folder, "--file", only("*.tar.gz")], check=True
        )
        subprocess.run(["make", "check"], check=True, cwd=folder, env=environment)
        subprocess.run(
            [folder / ".venv/bin/python", "-m", "pytest", "-q", "tests/model", "tests/python"], check=True, cwd=folder
        )


TRIES = {"native": try_native, "aarch64": try_aarch64, "musl": try_musl, "sdist": try_sdist}


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*TRIES, []], help="the default is all of it")
    for name in parser.parse_args().what or TRIES:
        sys.stdout.write(f"trying: {name}\n")
        sys.stdout.flush()
        TRIALS.mkdir(parents=True, exist_ok=True)
        TRIES[name]()


if __name__ == "__main__":
    main()
