"""Runs the crate's tests of threads under ThreadSanitizer.

It wants a standard library that is built with it: that of rustup hides how the slow paths of its locks order memory, and
reports hundreds of races that are none. Debian's compiler has the source, and is unpacked into a folder, with rustup's
runtime of the sanitizer.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from debian import Debian
from wheels import ROOT, TARGET

VERSION = "1.96"
PACKAGES = [
    "rustc-web",
    f"libstd-rust-web-{VERSION}",
    "libstd-rust-web-dev",
    "rust-web-src",
    "libllvm22",
]
FOLDER = TARGET / "thread-sanitizer"
TRIPLE = "x86_64-unknown-linux-gnu"
SUPPRESSED = "race:write_volatile\nrace:read_volatile\n"
"""Guest memory is shared with a guest that nobody can stop: accesses to it are volatile, and race by design."""


def compiler() -> Path:
    """The folder with the compiler, to which the runtime of the sanitizer was added."""
    folder = Debian(TARGET / "debian" / "bookworm", ("bookworm", "bookworm-security")).unpack(PACKAGES, FOLDER / "rust")
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True).stdout.strip()
    libraries = Path("lib/rustlib") / TRIPLE / "lib"
    runtime = libraries / "librustc-stable_rt.tsan.a"
    shutil.copy(Path(sysroot) / runtime, folder / "usr" / runtime)
    return folder / "usr"


def main() -> int:
    """Builds and runs `map_races` and the tests of changes and clients."""
    folder = compiler()
    suppressions = FOLDER / "suppressions"
    suppressions.write_text(SUPPRESSED)
    libraries = [str(folder / "lib/x86_64-linux-gnu"), sysconfig.get_config_var("LIBDIR")]
    environment = os.environ | {
        "RUSTC": str(folder / "bin/rustc"),
        "RUSTC_BOOTSTRAP": "1",
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PYO3_PYTHON": sys.executable,
        "CARGO_PROFILE_DEV_DEBUG": "1",
        "CARGO_TARGET_DIR": str(FOLDER / "target"),
        "RUSTFLAGS": "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer",
        # A refused size is null, as without the sanitizer.
        "TSAN_OPTIONS": f"suppressions={suppressions} allocator_may_return_null=1",
    }
    command = ["cargo", "test", "--locked", "-Zbuild-std", "--target", TRIPLE, "--lib", "tests::"]
    return subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
