"""Measures which lines of the extension and of the package the tests enter, and refuses fewer than there were.

The extension is built with LLVM's counters into a folder of its own, and read by Debian's tools of the same LLVM, unpacked
and not installed. A process that is killed leaves no counts: what is entered only there counts as not entered.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from debian import Debian
from wheels import ROOT, TARGET

FOLDER = TARGET / "coverage"
PACKAGE = FOLDER / "package"
PROFILES = FOLDER / "profiles"
SETTINGS = FOLDER / "coverage.ini"
FLOORS = {"rust": 96.0, "python": 97.0}
"""Percent of lines; they only rise."""


def run(*command: str | Path, **environment: str) -> str:
    """The output of a command, which must succeed."""
    done = subprocess.run(
        command, check=True, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def llvm() -> tuple[Path, dict[str, str]]:
    """The folder with `llvm-profdata` and `llvm-cov` of the compiler's own LLVM, and what their libraries want."""
    match = re.search(r"^LLVM version: (\d+)", run("rustc", "-vV"), re.MULTILINE)
    if match is None:
        raise SystemExit("rustc does not say which LLVM it has")
    version = match[1]
    folder = Debian(TARGET / "debian" / "bookworm", ("bookworm", "bookworm-security")).unpack(
        [f"llvm-{version}", f"libllvm{version}"], FOLDER / "llvm"
    )
    libraries = folder / "usr/lib/x86_64-linux-gnu"
    return folder / f"usr/lib/llvm-{version}/bin", {"LD_LIBRARY_PATH": str(libraries)}


def build() -> Path:
    """The package with counters, beside the installed one."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    maturin = [sys.executable, "-m", "maturin", "build", "--quiet", "--locked", "--profile", "assertions"]
    run(*maturin, "--out", str(PACKAGE), RUSTFLAGS="-Cinstrument-coverage", CARGO_TARGET_DIR=str(FOLDER / "target"))
    (wheel,) = PACKAGE.glob("*.whl")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", f"--target={PACKAGE}", wheel)
    return PACKAGE / "dbs_address_space/_core.abi3.so"


def test(arguments: list[str]) -> None:
    """Runs pytest; what fails there is not this program's matter, for `make test` sees it too."""
    shutil.rmtree(PROFILES, ignore_errors=True)
    environment = os.environ | {"PYTHONPATH": str(PACKAGE), "LLVM_PROFILE_FILE": f"{PROFILES}/%8m.profraw"}
    # Commands run in processes of their own, and so do the tests.
    SETTINGS.write_text(
        f"[run]\nsource = {PACKAGE / 'dbs_address_space'}\ndata_file = {FOLDER / 'python.coverage'}\n"
        "parallel = true\npatch = subprocess, _exit\n"
    )
    for old in FOLDER.glob("python.coverage*"):
        old.unlink()
    measured = [sys.executable, "-m", "coverage", "run", f"--rcfile={SETTINGS}", "-m", "pytest", "-q"]
    files = sorted(map(str, (ROOT / "tests").rglob("test_*.py")))
    # Not by xdist, whose workers end without writing LLVM's counts.
    parts = [arguments] if arguments else [files[::2], files[1::2]]
    running = [subprocess.Popen([*measured, *part], cwd=ROOT, env=environment) for part in parts]
    for process in running:
        process.wait()


def rust_report(library: Path) -> dict[str, Any]:
    """The counts of every Rust file of ours."""
    tools, environment = llvm()
    merged = FOLDER / "all.profdata"
    # Of processes that were given an environment of their own.
    for stray in ROOT.glob("default_*.profraw"):
        stray.rename(PROFILES / stray.name)
    run(tools / "llvm-profdata", "merge", "-sparse", *PROFILES.glob("*.profraw"), "-o", merged, **environment)
    told = run(
        tools / "llvm-cov",
        "export",
        "-summary-only",
        f"-instr-profile={merged}",
        "--ignore-filename-regex=registry|rustc",
        library,
        **environment,
    )
    report: dict[str, Any] = json.loads(told)["data"][0]
    return report


def python_report() -> dict[str, Any]:
    """The counts of every Python file of ours."""
    told = FOLDER / "python.json"
    run(sys.executable, "-m", "coverage", "combine", "--quiet", f"--rcfile={SETTINGS}")
    run(sys.executable, "-m", "coverage", "json", "--quiet", f"--rcfile={SETTINGS}", "-o", str(told))
    report: dict[str, Any] = json.loads(told.read_text())
    return report


def main() -> int:
    """Measures, prints the files with the most lines that nothing enters, and compares with the floors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pytest", nargs="*", help="arguments for pytest; with some, the floors do not count")
    arguments = parser.parse_args().pytest
    library = build()
    test(arguments)
    rust, python = rust_report(library), python_report()
    missed = {
        Path(file["filename"]).relative_to(ROOT): file["summary"]["lines"]["count"]
        - file["summary"]["lines"]["covered"]
        for file in rust["files"]
    }
    missed |= {
        (ROOT / name).relative_to(PACKAGE): file["summary"]["missing_lines"] for name, file in python["files"].items()
    }
    for path, count in sorted(missed.items(), key=lambda item: -item[1])[:40]:
        print(f"{count:5} lines of {path}")
    measured = {"rust": rust["totals"]["lines"]["percent"], "python": python["totals"]["percent_covered"]}
    for name, percent in measured.items():
        print(f"{name}: {percent:.1f} % of lines, at least {FLOORS[name]:.1f} % are wanted")
    return 0 if arguments else int(any(percent < FLOORS[name] for name, percent in measured.items()))


if __name__ == "__main__":
    sys.exit(main())
