"""The command `dbs-address-space`, run as its users run it: with pipes, and in a terminal."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

GIB, MIB = 1 << 30, 1 << 20
BUILD = re.compile("PATH|PYTHONPATH|(LLVM|COVERAGE)_.*")
"""The variables that tell which build is run, and how it is measured."""
PROGRAM = [sys.executable, "-m", "dbs_address_space"]


def region(name: str, base: int, size: int, region_type: str = "ram", **more: Any) -> dict[str, Any]:
    return {"name": name, "region_type": region_type, "base": hex(base), "end": hex(base + size)} | more


def content(*regions: dict[str, Any]) -> str:
    windows = [{"base": hex(3 * GIB), "end": hex(4 * GIB)}]
    layout = {"mem_start": "0x0", "mem_end": hex(1 << 45), "phys_end": hex(1 << 46), "mmio_windows": windows}
    return json.dumps({"format": "dbs-address-space/map", "version": 1, "layout": layout, "regions": regions})


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    options = {"env": environment | {"PYTHONIOENCODING": "utf-8"}} | options
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False, **options)


MAIN = "import sys; from dbs_address_space.command_line import main; main(sys.argv[1:])"


def in_a_terminal(columns: int, *arguments: str, code: str = MAIN, **environment: str) -> str:
    """The output of a command, or of other code, on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    given = {name: value for name, value in os.environ.items() if BUILD.fullmatch(name)}
    given |= {"TERM": "xterm", "LANG": "C.UTF-8", "PYTHONUTF8": "1"} | environment
    size = (
        f"import fcntl,struct,termios; fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 50, {columns}, 0, 0)); "
    )
    program = subprocess.Popen(
        [sys.executable, "-c", size + "\n" + code, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=given
    )
    os.close(theirs)
    output = b"".join(_received(ours))
    os.close(ours)
    assert program.wait(60) == 0
    return output.decode().replace("\r\n", "\n")


def _received(fd: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(fd, 4096)
        except OSError:  # the other side is closed
            return
