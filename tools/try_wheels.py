"""Runs what is in dist/ as a user would have it: on an emulated aarch64, on musl, and from the sdist, without git."""

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
from wheels import DIST, ROOT, TARGET

TRIALS = TARGET / "trials"
DEBIAN = TARGET / "debian"
TESTERS = ("pytest>=9", "pytest-timeout>=2.4", "hypothesis>=6.112")
# Not every platform has these, and few tests need them.
RARE = re.compile(r"^\s*(?:import|from) (numpy|blake3|drgn|unicorn|volatility3)\b", re.MULTILINE)


def example() -> str:
    """The README's first example."""
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_files(*folders: str) -> Iterator[str]:
    """The test files of folders that need none of the rare packages."""
    for path in sorted(path for folder in folders for path in (ROOT / "tests" / folder).glob("test_*.py")):
        if not RARE.search(path.read_text()):
            yield str(path)


def only(pattern: str) -> Path:
    """The one file in dist/ that matches."""
    found = sorted(DIST.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"dist/ has {len(found)} files {pattern}: run `make wheels` first")
    return found[0]


def site(name: str, wheel: Path, python: str, *platforms: str) -> Path:
    """A folder with the wheel and what its tests need, as pip would choose it on that platform."""
    folder = TRIALS / name
    shutil.rmtree(folder, ignore_errors=True)
    options = ["--quiet", "--only-binary", ":all:", "--python-version", python, "--target", str(folder)]
    options += [word for platform in platforms for word in ("--platform", platform)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel), *TESTERS], check=True)
    return folder


def run(command: Sequence[str | Path], folder: Path, files: Sequence[str], *, deselected: str = "") -> None:
    """Runs the README's example, and tests."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([*command, "-X", "dev", "-W", "error", "-c", example()], check=True, env=environment, cwd=TRIALS)
    options = ["-q", "-p", "no:cacheprovider", *(["-k", f"not ({deselected})"] if deselected else [])]
    subprocess.run([*command, "-m", "pytest", *options, *files], check=True, env=environment, cwd=ROOT)


def try_aarch64() -> None:
    """The aarch64 wheel in Debian's Python for that machine, each instruction emulated."""
    emulator = Debian(DEBIAN / "amd64", ("bookworm",)).unpack(["qemu-user-static"], DEBIAN / "emulator")
    machine = Debian(DEBIAN / "arm64", ("bookworm",), ("arm64",))
    root = machine.unpack(["python3.11", "libstdc++6"], DEBIAN / "arm64-root", with_dependencies=True)
    wheel = only("*-manylinux_*_aarch64.whl")
    folder = site("aarch64", wheel, "3.11", "manylinux_2_28_aarch64", "manylinux_2_17_aarch64")
    command: list[str | Path] = [emulator / "usr/bin/qemu-aarch64-static", "-L", root, root / "usr/bin/python3.11"]
    run(command, folder, list(test_files("model", "memory")))


def try_musl() -> None:
    """The musl wheel in a CPython for musl."""
    folder = site("musl", only("*-musllinux_*_x86_64.whl"), musl_python.VERSION, "musllinux_1_2_x86_64")
    run([musl_python.build()], folder, list(test_files("model", "memory", "space")))


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


TRIES = {"aarch64": try_aarch64, "musl": try_musl, "sdist": try_sdist}


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
