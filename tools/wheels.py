"""Builds the wheels and the sdist into dist/: for four Linuxes from one machine, and the same bytes wherever that is."""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import check_wheels
from debian import Debian
from sbom import without_paths

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
DIST = ROOT / "dist"
RUST = TARGET / "debian" / "rust"
PYTHON = "3.11"
PLATFORMS = {
    "x86_64-unknown-linux-gnu": "manylinux_2_28",
    "aarch64-unknown-linux-gnu": "manylinux_2_28",
    "x86_64-unknown-linux-musl": "musllinux_1_2",
    "aarch64-unknown-linux-musl": "musllinux_1_2",
}
# Debian's rustc has std for both architectures, and the sources of std, from which musl's is built: no package has that.
RUST_PACKAGES = (
    *("rustc-web", "cargo-web", "rust-web-clippy", "rust-web-src", "libstd-rust-web-dev", "libstd-rust-web-1.96"),
    *("libstd-rust-web-dev:arm64", "libstd-rust-web-1.96:arm64"),
    *("libllvm22", "libgit2-1.5", "libhttp-parser2.9", "libmbedcrypto7", "libmbedtls14", "libmbedx509-1"),
)


def unpack_rust() -> None:
    """Puts a compiler for all platforms into `target/debian/rust`."""
    suites = ("bookworm", "bookworm-security")
    Debian(TARGET / "debian" / "bookworm", suites, ("amd64", "arm64")).unpack(RUST_PACKAGES, RUST)


def environment() -> dict[str, str]:
    """The compiler's environment, without the machine's own toolchain."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("RUST", "CARGO_", "PYO3_"))}
    return mine | {
        "PATH": f"{Path(sys.executable).parent}:{RUST}/usr/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": f"{RUST}/usr/lib/x86_64-linux-gnu",
        "CARGO_TARGET_DIR": str(TARGET / "wheels"),
        "CARGO_ZIGBUILD_CACHE_DIR": str(TARGET / "zig"),
        "ZIG_GLOBAL_CACHE_DIR": str(TARGET / "zig"),
    }


def reproducible() -> dict[str, str]:
    """The settings that keep the builder's folders, and the hour, out."""
    cargo_home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    std = RUST / "usr/lib/rustlib/src/rust"
    # cargo names what lies below the checkout without it.
    paths = {cargo_home / "registry/src": "/registry", ROOT: "/src", std: "/rust", std.relative_to(ROOT): "/rust"}
    return {
        "CARGO_PROFILE_RELEASE_STRIP": "symbols",
        "PYO3_CROSS_PYTHON_VERSION": PYTHON,
        "RUSTFLAGS": " ".join(f"--remap-path-prefix={path}={name}" for path, name in paths.items()),
        "SOURCE_DATE_EPOCH": _last_change(),
    }


def _last_change() -> str:
    """When the source last changed; an unpacked sdist has no history, and its own files' time."""
    if (ROOT / ".git").exists():
        command = ["git", "log", "-1", "--format=%ct"]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return str(int((ROOT / "pyproject.toml").stat().st_mtime))


def build_wheel(target: str, settings: Mapping[str, str]) -> Path:
    """Builds one platform's wheel."""
    command = [
        *("maturin", "build", "--release", "--locked", "--zig", "--target", target),
        *("--compatibility", PLATFORMS[target], "--interpreter", f"python{PYTHON}"),
    ]
    if target.endswith("-musl"):
        command += ["-Z", "build-std=std,panic_unwind"]
        settings = {**settings, "RUSTC_BOOTSTRAP": "1"}
    with tempfile.TemporaryDirectory(dir=TARGET) as folder:
        subprocess.run([*command, "--out", folder], check=True, cwd=ROOT, env=dict(settings))
        (wheel,) = Path(folder).glob("*.whl")
        return without_paths(wheel, DIST / wheel.name)


def build_sdist(settings: Mapping[str, str]) -> Path:
    """Builds the source distribution."""
    subprocess.run(["maturin", "sdist", "--out", str(DIST)], check=True, cwd=ROOT, env=dict(settings))
    (sdist,) = DIST.glob("*.tar.gz")
    return sdist


def main() -> None:
    """Builds what is asked for, proves it, and lists the hashes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*PLATFORMS, []], help="the default is all of them")
    targets = parser.parse_args().targets or list(PLATFORMS)
    unpack_rust()
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    settings = environment() | reproducible()
    built = [*(build_wheel(target, settings) for target in targets), build_sdist(settings)]
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in built)
    (DIST / "SHA256SUMS").write_text(sums)
    sys.stdout.write(sums)
    check_wheels.main([str(path) for path in built if path.suffix == ".whl"])


if __name__ == "__main__":
    main()
