"""Runs fuzz targets of `tests/fuzz_model/` for a while, from the corpus that earlier runs have found.

    python tools/fuzz.py [seconds a target] [target ...]

`cargo-fuzz` is brought by cargo; a stable Rust is told to take the flags of the sanitizer.
"""

import os
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from dbs_address_space import AddressSpaceBuilder
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


def seed(name: str, corpus: Path) -> None:
    """Begins the corpus of images with a full one and a difference, which no fuzzer would come upon."""
    if name != "image":
        return
    space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    space.memory.write(0x1_0000, b"full")
    with tempfile.TemporaryDirectory() as folder:
        full = space.save(f"{folder}/full.img")
        space.memory.write(0x2_0000, b"difference")
        space.memory.fill(0x1_0000, 4)
        for saved in full, space.save(f"{folder}/difference.img", parent=full):
            content = Path(saved.path).read_bytes()
            (table,) = struct.unpack_from("<Q", content, 88)
            (corpus / Path(saved.path).stem).write_bytes(content[:4096] + content[table:])


def main(seconds: int, names: list[str]) -> None:
    """Installs what is missing, and runs one target after the other; the first crash ends it, with its input's path."""
    if not (TOOLS / "bin/cargo-fuzz").exists():
        subprocess.run(["cargo", "install", "--quiet", "--locked", "cargo-fuzz", "--root", TOOLS], check=True)
    for name in names or targets():
        corpus = CORPORA / name
        corpus.mkdir(parents=True, exist_ok=True)
        seed(name, corpus)
        command = ["cargo", "fuzz", "run", "--fuzz-dir", str(FOLDER), "--sanitizer", "address", name, str(corpus)]
        limits = [f"-max_total_time={seconds}", "-malloc_limit_mb=512", "-rss_limit_mb=2048", "-print_final_stats=1"]
        subprocess.run([*command, "--", *limits], check=True, cwd=ROOT, env=ENVIRONMENT)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, sys.argv[2:])
