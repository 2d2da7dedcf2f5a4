"""`GuestMemory.open()` against a file of Python's own with the same bytes: it answers and refuses what `io` does."""

import io
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_helpers import PAGE, mapped, ram

LINES = b"first\nsecond\n" + bytes(PAGE - 13)
CALLS: dict[str, Callable[[Any], object]] = {
    "read": lambda file: file.read(),
    "read None": lambda file: file.read(None),
    "read -1": lambda file: file.read(-1),
    "read 0": lambda file: file.read(0),
    "read 5": lambda file: file.read(5),
    "read beyond": lambda file: file.read(2 * PAGE),
    "read text": lambda file: file.read("x"),
    "read float": lambda file: file.read(1.0),
    "readall": lambda file: file.readall(),
    "readline": lambda file: file.readline(),
    "readline None": lambda file: file.readline(None),
    "readline -1": lambda file: file.readline(-1),
    "readline 3": lambda file: file.readline(3),
    "readline text": lambda file: file.readline("x"),
    "readlines": lambda file: file.readlines(),
    "readlines None": lambda file: file.readlines(None),
    "readlines 0": lambda file: file.readlines(0),
    "readlines 3": lambda file: file.readlines(3),
    "readlines float": lambda file: file.readlines(1.0),
    "iteration": list,
    "next": next,
    "readinto": lambda file: file.readinto(bytearray(7)),
    "readinto an array": lambda file: file.readinto(array("Q", [0, 0])),
    "readinto nothing": lambda file: file.readinto(bytearray()),
    "readinto no items": lambda file: file.readinto(np.zeros((0, 3))),
    "readinto bytes": lambda file: file.readinto(b"1234567"),
    "readinto no bytes": lambda file: file.readinto(b""),
    "readinto None": lambda file: file.readinto(None),
    "readinto text": lambda file: file.readinto("x"),
    "readinto released": lambda file: file.readinto(released()),
    "readinto in steps": lambda file: file.readinto(memoryview(bytearray(8))[::2]),
    "readable": lambda file: file.readable(),
    "writable": lambda file: file.writable(),
    "seekable": lambda file: file.seekable(),
    "isatty": lambda file: file.isatty(),
    "closed": lambda file: file.closed,
    "tell": lambda file: file.tell(),
    "seek": lambda file: file.seek(9),
    "seek below": lambda file: file.seek(-1),
    "seek below from here": lambda file: file.seek(-1, 1),
    "seek from the end": lambda file: (file.seek(-3, 2), file.read()),
    "seek far below the end": lambda file: file.seek(-2 * PAGE, 2),
    "seek behind the end": lambda file: (file.seek(1 << 40), file.read(1)),
    "seek None": lambda file: file.seek(None),
    "seek text": lambda file: file.seek("x"),
    "seek float": lambda file: file.seek(1.0),
    "seek by a text": lambda file: file.seek(0, "x"),
    "write": lambda file: file.write(b"x"),
    "writelines": lambda file: file.writelines([b"x"]),
    "write text": lambda file: file.write("x"),
    "write None": lambda file: file.write(None),
    "write a number": lambda file: file.write(3),
    "write nothing": lambda file: file.write(b""),
    "write no items": lambda file: file.write(np.zeros((0, 3))),
    "write an array": lambda file: (file.write(array("H", [1, 2])), file.tell()),
    "flush": lambda file: file.flush(),
    "close": lambda file: (file.close(), file.close(), file.closed),
    "enter": lambda file: file.__enter__() is file,
    "detach": lambda file: file.detach(),
}  # fmt: skip
OTHERWISE = {
    "seek below": (ValueError, OSError),
    "seek below from here": (ValueError, OSError),
    "seek far below the end": (ValueError, OSError),
    "readinto released": (ValueError, TypeError),
}
"""Ours first. The kernel's EINVAL is a `ValueError` as of `io.BytesIO`; what the buffer raises passes."""
REFUSALS = [TypeError, ValueError, io.UnsupportedOperation]


def released() -> memoryview:
    view = memoryview(bytearray(8))
    view.release()
    return view


def outcome(file: Any, call: Callable[[Any], object]) -> object:
    try:
        return call(file)
    except Exception as error:  # noqa: BLE001  which one is the question
        kinds = (io.UnsupportedOperation, TypeError, AttributeError, StopIteration, ValueError, OSError)
        return next((kind for kind in kinds if isinstance(error, kind)), type(error))


@pytest.mark.parametrize("state", ["open", "closed"])
@pytest.mark.parametrize("mode", ["rb", "r+b"])
@pytest.mark.parametrize("case", CALLS)
def test_it_answers_as_a_file_of_pythons_does(case: str, mode: str, state: str, tmp_path: Path) -> None:
    path = tmp_path / "same"
    path.write_bytes(LINES)
    _, memory = mapped(ram(0))
    memory.write(0, LINES)
    with memory.open(mode) as ours, path.open(mode, buffering=0) as theirs:
        if state == "closed":
            ours.close()
            theirs.close()
        found, theirs_said = outcome(ours, CALLS[case]), outcome(theirs, CALLS[case])
    expected = theirs_said
    if state == "open" and case in OTHERWISE:
        expected, reference = OTHERWISE[case]
        assert theirs_said == reference
    if found in REFUSALS and expected in REFUSALS and (state == "closed" or mode == "rb"):
        return  # of two reasons, either may be told
    assert found == expected
