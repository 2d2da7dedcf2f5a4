"""Compiles the crate, without linking, for every platform of the README, and for Pythons without a global lock."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from wheels import PLATFORMS, ROOT, RUST, TARGET, environment, unpack_rust

# No such interpreter can be had as a package: PyO3 takes its word from a file.
FREE_THREADED = {"cp314t": ("3.14", "CPython-free_threaded-3.14"), "abi3t": ("3.15", "CPython-abi3t-3.15")}


def cross_compiler(target: str) -> dict[str, str]:
    """The C compiler for a crate that compiles C or assembly."""
    zig = f"{Path(sys.executable)} -m ziglang cc -target {target.replace('-unknown', '')}"
    return {f"CC_{target.replace('-', '_')}": zig, "CRATE_CC_NO_DEFAULTS": "1"}


def free_threaded(name: str) -> dict[str, str]:
    """A description of an interpreter without a global lock."""
    version, abi = FREE_THREADED[name]
    lines = [
        "implementation=CPython",
        f"version={version}",
        f"target_abi={abi}",
        "shared=true",
        "build_flags=Py_GIL_DISABLED",
    ]
    path = TARGET / "check" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return {"PYO3_CONFIG_FILE": str(path)}


def checks() -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """The name of each check, with arguments and settings for cargo."""
    for target in PLATFORMS:
        settings = cross_compiler(target) | {"PYO3_NO_PYTHON": "1", "RUSTFLAGS": "-C target-feature=-crt-static"}
        arguments = ["--target", target]
        if target.endswith("-musl"):
            arguments += ["-Z", "build-std=std,panic_unwind"]
            settings["RUSTC_BOOTSTRAP"] = "1"
        yield target, arguments, settings
    for name in FREE_THREADED:
        yield name, [], free_threaded(name)


def refuses_pypy(common: Mapping[str, str]) -> bool:
    """Whether a build for PyPy ends with a sentence, not with what the compiler makes of it."""
    path = TARGET / "check" / "pypy.txt"
    path.write_text("implementation=PyPy\nversion=3.11\ntarget_abi=PyPy-gil_enabled-3.11\nshared=true\n")
    done = subprocess.run(
        ["cargo", "check", "--locked", "--lib"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**common, "PYO3_CONFIG_FILE": str(path)},
    )
    return done.returncode != 0 and "needs CPython 3.11 or newer, not PyPy" in done.stderr


def main() -> None:
    """Runs all checks, and exits with the names of those that failed."""
    unpack_rust()
    # Not `cargo clippy`: cargo would look for that in the user's folder first, and find another toolchain's.
    clippy = {"RUSTC_WORKSPACE_WRAPPER": str(RUST / "usr" / "bin" / "clippy-driver")}
    extension = {"PYO3_BUILD_EXTENSION_MODULE": "1", "CARGO_TARGET_DIR": str(TARGET / "check")}
    common = environment() | clippy | extension
    failed = []
    for name, arguments, settings in checks():
        command = ["cargo", "check", "--quiet", "--locked", "--lib", *arguments]
        done = subprocess.run(command, check=False, cwd=ROOT, env=common | settings)
        sys.stdout.write(f"{name}: {'failed' if done.returncode else 'compiles'}\n")
        sys.stdout.flush()
        failed += [name] * (done.returncode != 0)
    if not refuses_pypy(common):
        failed.append("the refusal of PyPy")
    if failed:
        raise SystemExit(f"does not compile: {', '.join(failed)}")


if __name__ == "__main__":
    main()
