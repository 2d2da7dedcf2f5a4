"""A running QEMU as a source: its map and memory, asked for by QMP."""

from __future__ import annotations

import json
import re
import socket
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from .parsing import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dbs_address_space._core import AddressSpace

__all__ = ["of_process", "of_socket"]

PATIENCE = 5.0
"""Seconds that an answer may take. A QMP socket answers one client, and lets the next one wait."""
MOST = 64 << 20
"""The most bytes of an answer."""
OTHERWISE = "Of a QEMU use qmp:PATH, of a program that calls space.serve(PATH) space:PATH."


class Monitor:
    """A connection by QMP: called with a command and its arguments it gives the result."""

    def __init__(self, path: str, source: str) -> None:
        """Connects, and leaves the negotiation behind."""
        self.source: str = source
        self.socket: socket.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        with ExitStack() as on_error:
            on_error.callback(self.socket.close)
            try:
                self.socket.connect(path)
            except OSError as error:
                hint = "Start QEMU with -qmp unix:PATH,server=on,wait=off."
                raise UsageError(f"{source}: {path}: {error.strerror or error}", hint) from error
            self._file = on_error.enter_context(self.socket.makefile("rwb"))
            if "QMP" not in self._answer():
                raise UsageError(f"{source}: this is not a QMP socket", OTHERWISE)
            self("qmp_capabilities", {})
            on_error.pop_all()

    def __call__(self, command: str, arguments: dict[str, Any]) -> Any:
        """Sends a command, and passes over the events before its answer."""
        self._file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._file.flush()
        while True:
            answer = self._answer()
            if "error" in answer:
                raise UsageError(f"{self.source}: {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def _answer(self) -> dict[str, Any]:
        try:
            answer = json.loads(self._file.readline(MOST) or b"null")
        except TimeoutError as error:
            hint = "QMP answers one client at a time: give QEMU another -qmp socket, or end the other one."
            raise UsageError(f"{self.source}: no answer within {PATIENCE:.0f} s", hint) from error
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise UsageError(f"{self.source}: this is not a QMP socket, or it was closed", OTHERWISE)
        return answer


def of_socket(path: str, *, wants_memory: bool) -> AddressSpace:
    """The QEMU behind a QMP socket: its whole map, or its RAM with the bytes."""
    return _space(Monitor(path, f"qmp:{path}"), wants_memory=wants_memory)


def of_process(text: str, *, wants_memory: bool) -> AddressSpace:
    """The QEMU of a process number, by the QMP socket on its command line."""
    source = f"pid:{text}"
    if not text.isdecimal():
        raise UsageError(f"{source}: {text!r} is not the number of a process", f"A file of this name is ./{source}.")
    process = Path("/proc", text)
    try:
        given = process.joinpath("cmdline").read_text(errors="replace").split("\0")
    except OSError as error:
        raise UsageError(f"{source}: there is no such process, or it may not be looked at", OTHERWISE) from error
    path = _qmp_path(given)
    if path is None:
        raise UsageError(f"{source}: its command line has no QMP socket", OTHERWISE)
    # The path is as the process sees it, which may have another root.
    seen = process / "root" / path.removeprefix("/") if path.startswith("/") else process / "cwd" / path
    return _space(Monitor(str(seen), source), wants_memory=wants_memory)


def _qmp_path(given: list[str]) -> str | None:
    """The path of the first QMP socket among arguments, as `-qmp unix:PATH`, or `-chardev socket` with a monitor."""
    pairs = [(option.lstrip("-"), value) for option, value in pairwise(given)]
    for option, value in pairs:
        if option in {"qmp", "qmp-pretty"} and value.startswith("unix:"):
            return value.removeprefix("unix:").partition(",")[0]
    monitors = [value for option, value in pairs if option == "mon" and "mode=control" in value]
    paths = {_option("id", value): _option("path", value) for option, value in pairs if option == "chardev"}
    names = (_option("chardev", value) or value.partition(",")[0] for value in monitors)
    return next((path for name in names if (path := paths.get(name))), None)


def _option(name: str, value: str) -> str | None:
    found = re.search(rf"(?:\A|,){name}=([^,]+)", value)
    return found[1] if found else None


def _space(monitor: Monitor, *, wants_memory: bool) -> AddressSpace:
    from dbs_address_space.adapters.qemu import open_space, read_space  # noqa: PLC0415  start-up

    return open_space(monitor).space if wants_memory else read_space(monitor)
