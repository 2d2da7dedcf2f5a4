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
SAMPLES = ROOT / "tests/formats/samples"
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


def seeds(name: str) -> dict[str, bytes]:
    """The beginning of a corpus, by names: what no fuzzer would come upon."""
    found = {"image": images, "dump": dumps, "wire": messages}.get(name)
    return found() if found else {}


def images() -> dict[str, bytes]:
    """A full image and a difference, without their data."""
    space, found = AddressSpaceBuilder(numa_regions=["4MiB"]).build(), {}
    space.memory.write(0x1_0000, b"full")
    with tempfile.TemporaryDirectory() as folder:
        full = space.save(f"{folder}/full.img")
        space.memory.write(0x2_0000, b"difference")
        space.memory.fill(0x1_0000, 4)
        for saved in full, space.save(f"{folder}/difference.img", parent=full):
            content = Path(saved.path).read_bytes()
            (table,) = struct.unpack_from("<Q", content, 88)
            found[Path(saved.path).stem] = content[:4096] + content[table:]
    return found


def dumps() -> dict[str, bytes]:
    """The samples of the tests behind the number of their format: ELF's program headers, LiME and AVML."""
    found = {path.name: b"\x00" + path.read_bytes()[64:4096] for path in SAMPLES.glob("*.core")}
    for number, suffix in ((b"\x02", "lime"), (b"\x03", "avml")):
        found |= {path.name: number + path.read_bytes() for path in SAMPLES.glob(f"*.{suffix}")}
    if missing := {"core", "lime", "avml"} - {name.rpartition(".")[2] for name in found}:
        raise SystemExit(f"{SAMPLES} has nothing of {', '.join(sorted(missing))}")
    return found


def messages() -> dict[str, bytes]:
    """A message of each kind, with what a follower wishes and says."""
    wish, text = struct.pack("<HHIHH4x", 8, 16, 1, 1, 1), struct.pack("<HHI5s3x", 7, 16, 5, b"hello")
    size = 40 + len(wish) + len(text)
    heads = {kind: struct.pack("<4sHHIIQQHHI", b"DBSP", 1, kind, size, 0, 1, 2, 0, 0, 2) for kind in range(1, 13)}
    return {str(kind): head + wish + text for kind, head in heads.items()}


def main(seconds: int, names: list[str]) -> None:
    """Installs what is missing, and runs one target after the other; the first crash ends it, with its input's path."""
    if not (TOOLS / "bin/cargo-fuzz").exists():
        subprocess.run(["cargo", "install", "--quiet", "--locked", "cargo-fuzz", "--root", TOOLS], check=True)
    for name in names or targets():
        corpus = CORPORA / name
        corpus.mkdir(parents=True, exist_ok=True)
        for file, content in seeds(name).items():
            (corpus / file).write_bytes(content)
        command = ["cargo", "fuzz", "run", "--fuzz-dir", str(FOLDER), "--sanitizer", "address", name, str(corpus)]
        limits = [f"-max_total_time={seconds}", "-malloc_limit_mb=512", "-rss_limit_mb=2048", "-print_final_stats=1"]
        subprocess.run([*command, "--", *limits], check=True, cwd=ROOT, env=ENVIRONMENT)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, sys.argv[2:])
