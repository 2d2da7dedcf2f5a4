"""QEMU as an oracle: a machine that is never started, asked about its memory."""

import json
import re
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from host import require

FW_CFG_READ, FW_CFG_SELECT = 2, 8
FW_CFG_CONTROL, FW_CFG_DATA = 0x1000, 0x2000
Range = tuple[int, int]
"""Base and exclusive end."""


def connected(process: subprocess.Popen[bytes], path: Path, seconds: float = 30) -> socket.socket:
    """A connection to a server that is starting: its socket has a name before it listens."""
    deadline, connection = time.monotonic() + seconds, socket.socket(socket.AF_UNIX)
    while True:
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return connection


class Qemu:
    """A stopped machine: its monitor (QMP) and its I/O ports (qtest)."""

    def __init__(self, stack: ExitStack, monitor: socket.socket, qtest: socket.socket) -> None:
        self.monitor = stack.enter_context(monitor.makefile("rw"))
        self.qtest = stack.enter_context(qtest.makefile("rw"))
        self.monitor.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> Any:
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.monitor, flush=True)
        while True:
            answer = json.loads(self.monitor.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]

    def port(self, text: str) -> int:
        print(text, file=self.qtest, flush=True)
        answer = self.qtest.readline().split()
        assert answer[0] == "OK"
        return int(answer[1], 0) if len(answer) > 1 else 0

    def flat_view(self) -> list[tuple[int, int, str, str]]:
        """The lines of `info mtree -f` for memory: base, exclusive end, kind, name."""
        text = self.ask("human-monitor-command", **{"command-line": "info mtree -f"})
        views = [view for view in text.split("FlatView") if 'AS "memory"' in view]
        lines = re.findall(r"^ +([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ([^)]+)\): (\S+)", views[0], re.MULTILINE)
        return [(int(low, 16), int(high, 16) + 1, kind, name) for low, high, kind, name in lines]

    def ram(self) -> list[Range]:
        """The backend `ram`, with what firmware hides of it below 1 MiB."""
        flat = self.flat_view()
        ranges = [(low, end) for low, end, _, name in flat if name == "ram" or end <= 1 << 20]
        return joined(ranges)

    def e820(self) -> list[tuple[int, int, int]]:
        """Base, size and type of the entries that the firmware is given (fw_cfg `etc/e820`)."""
        data = self.fw_cfg_file("etc/e820")
        return [struct.unpack_from("<QQI", data, offset) for offset in range(0, len(data), 20)]

    def fw_cfg_file(self, name: str) -> bytes:
        directory = self.fw_cfg(0x19, 4)
        count = int.from_bytes(directory, "big")
        entries = self.fw_cfg(0x19, 4 + 64 * count)[4:]
        for offset in range(0, len(entries), 64):
            size, key = struct.unpack_from(">IH", entries, offset)
            if entries[offset + 8 : offset + 64].split(b"\0")[0] == name.encode():
                return self.fw_cfg(key, size)
        raise LookupError(name)

    def fw_cfg(self, key: int, size: int) -> bytes:
        """By DMA into RAM that nobody uses: a byte at a time, tables would take seconds."""
        control = struct.pack(">IIQ", key << 16 | FW_CFG_SELECT | FW_CFG_READ, size, FW_CFG_DATA)
        self.port(f"write {FW_CFG_CONTROL:#x} {len(control)} 0x{control.hex()}")
        # The port is big-endian, and its lower half begins the transfer.
        self.port("outl 0x514 0")
        self.port(f"outl 0x518 {int.from_bytes(FW_CFG_CONTROL.to_bytes(4, 'big'), 'little'):#x}")
        return self.port(f"read {FW_CFG_DATA:#x} {size}").to_bytes(size, "big") if size else b""


def joined(ranges: list[Range]) -> list[Range]:
    result: list[Range] = []
    for low, end in sorted(ranges):
        if result and result[-1][1] >= low:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((low, end))
    return result


@contextmanager
def qemu(machine: str, *arguments: str, program: str = "qemu-system-x86_64") -> Iterator[Qemu]:
    """A machine without devices of its own, stopped before its first instruction."""
    require(shutil.which(program), f"{program} is not installed")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        listeners = [stack.enter_context(listener(directory / name)) for name in ("monitor", "qtest")]
        command = [program, "-S", "-display", "none", "-nodefaults", "-accel", "tcg", "-machine", machine, *arguments]
        command += ["-qmp", f"unix:{directory}/monitor", "-qtest", f"unix:{directory}/qtest"]
        with (
            (directory / "errors").open("w+") as errors,
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors) as process,
        ):
            stack.callback(process.kill)
            try:
                ends = [stack.enter_context(listener.accept()[0]) for listener in listeners]
                for end in ends:
                    end.settimeout(30)
                yield Qemu(stack, *ends)
            except OSError as error:
                raise AssertionError((directory / "errors").read_text()) from error
            finally:
                process.kill()


def refusal(machine: str, *arguments: str, program: str = "qemu-system-x86_64") -> str:
    """The refusal of a machine by QEMU; "" for one that it makes."""
    require(shutil.which(program), f"{program} is not installed")
    command = [program, "-S", "-display", "none", "-nodefaults", "-accel", "tcg", "-machine", machine, *arguments]
    asked = '{"execute": "qmp_capabilities"} {"execute": "quit"}'
    command += ["-qmp", "stdio"]
    done = subprocess.run(command, check=False, input=asked, capture_output=True, text=True, timeout=60)
    assert bool(done.returncode) == bool(done.stderr), done
    return done.stderr


def listener(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(1)
    made.settimeout(30)
    return made
