"""Breaks the code in one place after the other, and shows which breaks no test notices.

    python tools/mutants.py src/model/pattern.rs [--shard 0/8] [--tests tests/memory/test_search.py ...]

The mutants are those of `cargo-mutants`. Each is made in a copy of the tree, built, and judged by the crate's own tests and
then by pytest, for most tests of this project are in Python. What survives is either equal to the original, and stands in
`docs/proofs.md` with the reason, or wants a test.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from wheels import ROOT, TARGET

TOOLS = TARGET / "tools"
COPY = TARGET / "mutants" / "tree"
ENVIRONMENT = os.environ | {
    "PATH": f"{TOOLS / 'bin'}:{os.environ['PATH']}",
    "CARGO_TARGET_DIR": str(TARGET / "mutants" / "target"),
    "PYO3_PYTHON": sys.executable,
}


def run(*command: str | Path, cwd: Path = COPY, seconds: float = 1200) -> bool:
    """Whether a command succeeds in time; a mutant may make it wait for ever."""
    try:
        done = subprocess.run(command, check=False, cwd=cwd, env=ENVIRONMENT, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def mutants(files: list[str], shard: str | None) -> list[str]:
    """The differences that `cargo-mutants` would make."""
    if not (TOOLS / "bin/cargo-mutants").exists():
        subprocess.run(["cargo", "install", "--quiet", "--locked", "cargo-mutants", "--root", TOOLS], check=True)
    chosen = [argument for file in files for argument in ("--file", file)]
    command = ["cargo", "mutants", "--list", "--diff", *chosen, *(["--shard", shard] if shard else [])]
    told = subprocess.run(command, check=True, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True).stdout
    parts = told.split("\n--- ")
    return [f"--- {part}\n" for part in parts[1:]]


def is_noticed(difference: str, tests: list[str]) -> bool | None:
    """Whether a test fails with the difference; none where it does not compile."""
    subprocess.run(["git", "checkout", "--quiet", "."], check=True, cwd=COPY)
    subprocess.run(["patch", "--quiet", "-p1"], input=difference, text=True, check=True, cwd=COPY)
    if not run("cargo", "build", "--locked", "--quiet"):
        return None
    if not run("cargo", "test", "--locked", "--quiet", "--lib"):
        return True
    library = TARGET / "mutants/target/debug/lib_core.so"
    (COPY / "python/dbs_address_space/_core.abi3.so").write_bytes(library.read_bytes())
    ENVIRONMENT["PYTHONPATH"] = str(COPY / "python")
    return not run(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests)


def main() -> int:
    """Judges every mutant, and prints those that survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--shard", help="K/N: every Nth mutant, from the Kth on")
    parser.add_argument("--tests", nargs="+", default=["tests"])
    options = parser.parse_args()
    if not COPY.exists():
        subprocess.run(["git", "worktree", "add", "--quiet", "--force", "--detach", COPY], check=True, cwd=ROOT)
    subprocess.run(["git", "checkout", "--quiet", "--detach", "--force", "main"], check=True, cwd=COPY)
    verdicts: dict[bool | None, int] = {True: 0, False: 0, None: 0}
    for difference in mutants(options.files, options.shard):
        verdict = is_noticed(difference, options.tests)
        verdicts[verdict] += 1
        if verdict is False:
            print(f"survives:\n{difference}", flush=True)
    print(f"{verdicts[True]} noticed, {verdicts[False]} survive, {verdicts[None]} do not compile")
    return int(verdicts[False] > 0 or sum(verdicts.values()) == 0)


if __name__ == "__main__":
    sys.exit(main())
