"""Builds a CPython for musl from Debian's source, into target/: no package has one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from debian import Debian
from wheels import TARGET

DEBIAN = TARGET / "debian"
TOOLS = DEBIAN / "musl-tools"
FOLDER = TARGET / "musl-python"
MULTIARCH = "x86_64-linux-musl"
VERSION = "3.13"


def build() -> Path:
    """The interpreter, built unless it is there."""
    source = FOLDER / "source"
    python = source / "python"
    if (FOLDER / "built").exists():
        return python
    shutil.rmtree(FOLDER, ignore_errors=True)
    source.mkdir(parents=True)
    archive = Debian(DEBIAN / "trixie", ("trixie",)).source(f"python{VERSION}", DEBIAN / "sources")
    subprocess.run(["tar", "--extract", "--strip-components=1", "--directory", source, "--file", archive], check=True)
    environment = os.environ | {"CC": str(_compiler()), "PKG_CONFIG": "false"} | _libffi()
    configure = ["./configure", "--quiet", "--without-ensurepip", "--disable-test-modules"]
    subprocess.run(configure, check=True, cwd=source, env=environment)
    # Modules that want a library which is not there for musl fail; the interpreter and the others are built.
    subprocess.run(["make", "--silent", "--keep-going"], check=False, cwd=source, env=environment)
    subprocess.run([python, "-c", "import ctypes, binascii, hashlib"], check=True)
    (FOLDER / "built").touch()
    return python


def _compiler() -> Path:
    """GCC with musl's headers, start files and loader, as musl-tools wraps it, wherever they are unpacked."""
    Debian(DEBIAN / "bookworm", ("bookworm",), ("amd64", "arm64")).unpack(
        ["musl:amd64", "musl-dev:amd64", "libffi-dev:amd64"], TOOLS
    )
    packaged = (TOOLS / f"usr/lib/{MULTIARCH}/musl-gcc.specs").read_text()
    loader = TOOLS / f"lib/{MULTIARCH}/libc.so"
    specs = packaged.replace("/lib/ld-musl-x86_64.so.1", str(loader)).replace("/usr/", f"{TOOLS}/usr/")
    specs = specs.replace(f"-L{TOOLS}/usr", f"-L{loader.parent} -L{TOOLS}/usr")
    (FOLDER / "musl-gcc.specs").write_text(specs)
    compiler = FOLDER / "cc"
    # configure asks for the triplet and compares it with what the compiler's macros say.
    compiler.write_text(
        f'#!/bin/sh\n[ "$*" = --print-multiarch ] && exec echo {MULTIARCH}\nexec gcc "$@" -specs {FOLDER}/musl-gcc.specs\n'
    )
    compiler.chmod(0o755)
    return compiler


def _libffi() -> dict[str, str]:
    """The libffi of ctypes: glibc's static library, which needs nothing of glibc."""
    headers = FOLDER / "include"
    headers.mkdir(exist_ok=True)
    for header in (TOOLS / "usr/include/x86_64-linux-gnu").glob("ffi*.h"):
        shutil.copy(header, headers)
    library = TOOLS / "usr/lib/x86_64-linux-gnu/libffi_pic.a"
    return {"LIBFFI_CFLAGS": f"-I{headers}", "LIBFFI_LIBS": str(library)}


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
