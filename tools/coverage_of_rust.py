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
    environment["COVERAGE_FILE"] = str(FOLDER / "python.coverage")
    measured = [sys.executable, "-m", "coverage", "run", f"--source={PACKAGE / 'dbs_address_space'}"]
    subprocess.run([*measured, "-m", "pytest", "-q", *arguments], check=False, cwd=ROOT, env=environment)


def rust_report(library: Path) -> dict[str, Any]:
    """The counts of every Rust file of ours."""
    tools, environment = llvm()
    merged = FOLDER / "all.profdata"
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


def python_percent() -> float:
    """The percent of the package's lines."""
    told = FOLDER / "python.json"
    environment = {"COVERAGE_FILE": str(FOLDER / "python.coverage")}
    run(sys.executable, "-m", "coverage", "json", "--quiet", "-o", str(told), **environment)
    return float(json.loads(told.read_text())["totals"]["percent_covered"])


def main() -> int:
    """Measures, prints the files with the most lines that nothing enters, and compares with the floors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pytest", nargs="*", help="arguments for pytest; with some, the floors do not count")
    arguments = parser.parse_args().pytest
    library = build()
    test(arguments)
    report = rust_report(library)
    missed = {
        Path(file["filename"]).relative_to(ROOT): file["summary"]["lines"]["count"]
        - file["summary"]["lines"]["covered"]
        for file in report["files"]
    }
    for path, count in sorted(missed.items(), key=lambda item: -item[1])[:20]:
        print(f"{count:5} lines of {path}")
    measured = {"rust": float(report["totals"]["lines"]["percent"]), "python": python_percent()}
    for name, percent in measured.items():
        print(f"{name}: {percent:.1f} % of lines, at least {FLOORS[name]:.1f} % are wanted")
    return 0 if arguments else int(any(percent < FLOORS[name] for name, percent in measured.items()))


if __name__ == "__main__":
    sys.exit(main())
