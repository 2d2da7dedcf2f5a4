"""Runs every fuzz target of `tests/fuzz_model/` for a while, from the corpus that earlier runs have found.

    python tools/fuzz.py [seconds a target]

`cargo-fuzz` is brought by cargo; a stable Rust is told to take the flags of the sanitizer.
"""

import os
import re
import subprocess
import sys

from wheels import ROOT, TARGET

FOLDER = ROOT / "tests/fuzz_model"
TOOLS = TARGET / "tools"
CORPORA = TARGET / "corpora"
ENVIRONMENT = os.environ | {
    "RUSTC_BOOTSTRAP": "1",
    "CARGO_TARGET_DIR": str(TARGET / "fuzz"),
    "PATH": f"{TOOLS / 'bin'}:{os.environ['PATH']}",
}


def targets() -> list[str]:
    """The names of all targets, of which there must be some."""
    names = re.findall(r'^path = "fuzz_targets/(\w+)\.rs"$', (FOLDER / "Cargo.toml").read_text(), re.MULTILINE)
    if not names:
        raise SystemExit(f"{FOLDER} has no fuzz targets")
    return names


def main(seconds: int) -> None:
    """Installs what is missing, and runs one target after the other; the first crash ends it, with its input's path."""
    if not (TOOLS / "bin/cargo-fuzz").exists():
        subprocess.run(["cargo", "install", "--quiet", "--locked", "cargo-fuzz", "--root", TOOLS], check=True)
    for name in targets():
        corpus = CORPORA / name
        corpus.mkdir(parents=True, exist_ok=True)
        command = ["cargo", "fuzz", "run", "--fuzz-dir", str(FOLDER), "--sanitizer", "address", name, str(corpus)]
        limits = [f"-max_total_time={seconds}", "-malloc_limit_mb=512", "-rss_limit_mb=2048", "-print_final_stats=1"]
        subprocess.run([*command, "--", *limits], check=True, cwd=ROOT, env=ENVIRONMENT)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
