"""Missing tools are named at once, with one command, before anything is installed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "sort", "head", "cut", "cat", "id", "env")


WITH_THE_COMPILER = {"cc", "readelf"}
"""Programs that come with what `doctor.sh` asks for."""
PACKAGED = {"chromium-browser": "chromium"}
"""Other names of programs."""


def test_a_skip_for_what_is_not_installed_fails_where_all_is_required() -> None:
    """By `require` and `imported`: pytest's own skips know nothing of REQUIRE_ALL."""
    texts = {path.name: path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)}
    skips = re.compile(r"importorskip|skip(?:if)?\([^)]*(?:installed|there is no (?!/dev/kvm))")
    assert {name: found for name, text in texts.items() if (found := skips.findall(text))} == {}
    assert sum(len(re.findall(r"\b(?:require|imported)\(", text)) for text in texts.values()) >= 30
    assert skips.findall('pytest.skip("gdb is not installed")')


def test_setup_brings_every_program_that_a_test_looks_for() -> None:
    setup = (ROOT / "tools" / "setup.sh").read_text()
    texts = [path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    wanted = {name for text in texts for name in re.findall(r"\bwhich\(\"([\w.-]+)\"\)", text)} - WITH_THE_COMPILER
    assert [name for name in wanted if f"command -v {PACKAGED.get(name, name)} " not in setup] == []
    assert len(wanted) >= 7


def doctor(folder: Path, goal: str, **programs: str) -> "subprocess.CompletedProcess[str]":
    """Asks on a machine that has only the shell's own tools, and programs that say what they are told."""
    for name in TOOLS:
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, answer in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{answer}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": str(folder), "PYTHON": sys.executable if "python3" not in programs else "python3"}
    command = ["sh", str(ROOT / "tools" / "doctor.sh"), goal]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def test_a_bare_machine_is_told_everything_at_once(tmp_path: Path) -> None:
    done = doctor(tmp_path, "test", python3="exit 1")
    assert done.returncode == 1
    assert done.stdout == ""
    (command,) = [line.strip() for line in done.stderr.splitlines() if "apt-get install" in line]
    packages = "python3 python3-venv gcc libc6-dev python3-dev rustc-web cargo-web rustfmt-web rust-web-clippy"
    assert command == f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install --yes --no-install-recommends {packages}"


def test_debians_own_rust_is_too_old(tmp_path: Path) -> None:
    done = doctor(tmp_path, "demo", cc="exit 0", rustc="echo rustc 1.63.0", cargo="exit 0")
    assert done.returncode == 1
    assert "Rust 1.88 or newer (1.63.0 found)" in done.stderr
    assert "--no-install-recommends rustc-web cargo-web\n" in done.stderr


def test_the_oldest_rust_is_new_enough_and_nothing_is_said(tmp_path: Path) -> None:
    done = doctor(tmp_path, "demo", cc="exit 0", rustc="echo rustc 1.88.0", cargo="exit 0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
