"""Writes THIRD-PARTY.txt, which libraries a wheel contains and under which licences; or checks that it is up to date."""

import argparse
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "THIRD-PARTY.txt"
TARGETS = [f"{machine}-unknown-linux-{libc}" for machine in ("x86_64", "aarch64") for libc in ("gnu", "musl")]
TEXTS = re.compile(r"LICENSE-(MIT|BSD.*)")
HEAD = """\
The libraries that the wheels of dbs-address-space contain, as Cargo.lock has them. `make third-party` writes this file.

A library that offers the Apache License 2.0 is used under it (see LICENSE), memchr under the MIT licence, snap under its own.
The texts of other licences than Apache, and whose they are, follow the list.
"""
# What the compilers add.
TOOLCHAIN = (
    f"{'std of Rust':<32}MIT OR Apache-2.0",
    f"{'libunwind, compiler-rt of LLVM':<32}Apache-2.0 WITH LLVM-exception",
)


@dataclass(frozen=True, order=True)
class Crate:
    """A crate of another source."""

    name: str
    version: str
    licence: str
    rust_version: str
    folder: Path

    def texts(self) -> Iterator[str]:
        """Its licences' texts, but for the Apache one, which is the same everywhere."""
        for path in sorted(self.folder.iterdir()):
            if TEXTS.fullmatch(path.name):
                yield path.read_text().strip()


def cargo(*arguments: str) -> str:
    """Cargo's metadata of the locked crates."""
    return subprocess.run(
        ["cargo", *arguments, "--locked"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout


def crates() -> list[Crate]:
    """All crates that Cargo.lock names, those for other systems and for the build among them."""
    packages: list[dict[str, Any]] = json.loads(cargo("metadata", "--format-version=1"))["packages"]
    return sorted(
        Crate(
            package["name"],
            package["version"],
            package["license"],
            package["rust_version"] or "1.0",
            Path(package["manifest_path"]).parent,
        )
        for package in packages
        if package["source"]
    )


def linked() -> list[Crate]:
    """The crates that the extension contains, on whichever platform."""
    names = set()
    for target in TARGETS:
        tree = cargo("tree", "--edges=normal,no-proc-macro", "--prefix=none", "--format={p}", f"--target={target}")
        names |= {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    return [crate for crate in crates() if (crate.name, f"v{crate.version}") in names]


def document(crates: Iterable[Crate]) -> str:
    """The file's text."""
    owners = defaultdict(list)
    lines = [HEAD]
    for crate in crates:
        lines.append(f"{f'{crate.name} {crate.version}':<32}{crate.licence}")
        for text in crate.texts():
            owners[text].append(crate.name)
    lines += TOOLCHAIN
    for text, names in owners.items():
        lines += ["", "-" * 80, f"{', '.join(names)}:", "", text]
    return "\n".join(lines) + "\n"


def too_new(crates: Iterable[Crate], promised: str) -> list[str]:
    """The crates that ask for a newer Rust than the one that this package promises to build with."""
    return [
        f"{crate.name} {crate.version} needs Rust {crate.rust_version}: Cargo.toml promises {promised}"
        for crate in crates
        if _numbers(crate.rust_version) > _numbers(promised)
    ]


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def main() -> None:
    """Writes the file, or checks it and the versions of Rust."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is out of date")
    is_check = parser.parse_args().check
    text = document(linked())
    if not is_check:
        FILE.write_text(text)
        return
    promised = re.search(r'^rust-version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    problems = too_new(crates(), promised[1] if promised else "1.0")
    if not FILE.exists() or FILE.read_text() != text:
        problems.append("THIRD-PARTY.txt is out of date: run `make third-party`")
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
