"""Tries the first five minutes in a bare Debian 12, in target/bare: what `make` says is missing must be all that is missing."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from debian import Debian, mirror

ROOT = Path(__file__).resolve().parent.parent
BARE = ROOT / "target" / "bare"
SUITE = "bookworm"
INSTALL = re.compile(r"^ +(apt-get install .*)$", re.MULTILINE)
# How this machine reaches the package indexes.
HOST_FILES = ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")


def bootstrap() -> None:
    """Makes the system anew."""
    tools = Debian(ROOT / "target" / "debian" / "amd64", (SUITE,)).unpack(
        ["debootstrap"], ROOT / "target" / "debian" / "debootstrap"
    )
    shutil.rmtree(BARE, ignore_errors=True)
    environment = os.environ | {
        "DEBOOTSTRAP_DIR": str(tools / "usr/share/debootstrap"),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    options = ["--variant=minbase", "--include=ca-certificates,make", SUITE, str(BARE), mirror()]
    subprocess.run(["sh", str(tools / "usr/sbin/debootstrap"), *options], check=True, env=environment)
    security = f"deb {mirror()}-security {SUITE}-security main\n"
    (BARE / "etc/apt/sources.list.d/security.list").write_text(security)
    for file in HOST_FILES:
        if Path(file).exists():
            shutil.copy(file, BARE / file[1:])
    (BARE / "src").mkdir()
    files = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, cwd=ROOT).stdout
    pack = ["tar", "--create", "--null", "--files-from=-"]
    packed = subprocess.run(pack, check=True, input=files, capture_output=True, cwd=ROOT).stdout
    subprocess.run(["tar", "--extract", "--directory", str(BARE / "src")], check=True, input=packed)


@contextmanager
def mounted() -> Iterator[None]:
    """The kernel's file systems, in the new system."""
    folders = ["proc", "sys", "dev"]
    for folder in folders:
        subprocess.run(["mount", "--rbind", "--make-rslave", f"/{folder}", str(BARE / folder)], check=True)
    try:
        yield
    finally:
        for folder in folders:
            subprocess.run(["umount", "--recursive", "--lazy", str(BARE / folder)], check=True)


def run(command: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command in the new system; what it prints is shown and returned."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "http", "HTTP"))}
    environment = kept | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    chroot = ["chroot", str(BARE), "sh", "-c", f"cd /src && {command} 2>&1"]
    sys.stdout.write(f"--- {command}\n")
    sys.stdout.flush()
    begin = time.monotonic()
    with subprocess.Popen(chroot, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line)
    sys.stdout.write(f"--- {time.monotonic() - begin:.0f} s, exit status {process.returncode}\n")
    return subprocess.CompletedProcess(chroot, process.returncode, "".join(lines))


def follow(goal: str) -> None:
    """Makes something, and when it says what is missing, installs that and nothing else, and makes it again."""
    done = run(f"make {goal}")
    if (said := INSTALL.search(done.stdout)) is None:
        raise SystemExit(f"make {goal} on a bare system did not say what is missing")
    for command in (said[1], f"make {goal}"):
        if run(command).returncode:
            raise SystemExit(f"failed on a bare system: {command}")


def main() -> None:
    """Bootstraps, then demo, then test."""
    if os.geteuid() != 0:
        raise SystemExit("debootstrap and chroot need root")
    bootstrap()
    with mounted():
        run("apt-get update")
        for goal in sys.argv[1:] or ["demo", "test"]:
            follow(goal)


if __name__ == "__main__":
    main()
