"""`examples/two_processes.py`: a virtqueue whose driver and device are two Python processes."""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from memory_helpers import mapped, ram

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import two_processes as example  # noqa: E402


def test_every_request_is_answered_by_the_other_process() -> None:
    """The driver checks each answer; indexes wrap."""
    command = [sys.executable, str(EXAMPLES / "two_processes.py"), "70000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"70000 requests were answered by process \d+: [\d,]+ a second\n", done.stdout)


def test_who_has_nothing_to_do_sleeps() -> None:
    _, memory = mapped(ram(0, example.SIZE))
    taken: list[Any] = []
    ring = example.Ring(memory, example.USED, "<II")
    thread = threading.Thread(target=lambda: taken.extend(ring.take()))
    thread.start()
    deadline = time.monotonic() + 60
    while not memory.wake_value(example.USED + 2, 2):
        assert time.monotonic() < deadline
    assert taken == []
    example.Ring(memory, example.USED, "<II").put((3, 5), (7, 9))
    thread.join(60)
    assert taken == [(3, 5), (7, 9)]


def test_a_wrong_answer_and_a_silent_device_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, memory = mapped(ram(0, example.SIZE))
    memory.write_u16(example.USED, example.NO_NOTIFY)
    monkeypatch.setattr(example, "PATIENCE", 0.01)
    with pytest.raises(TimeoutError, match="silent"):
        example.drive(memory, 1)
    example.Ring(memory, example.USED, "<II").put((example.ENTRIES - 2, 4))
    with pytest.raises(ValueError, match=r"b'request 0' was answered with b'\\x00"):
        example.drive(memory, 1)
