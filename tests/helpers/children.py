"""Child processes: what they raise, a signal and a hang fail the test."""

import gc
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable

import pytest
from memory_helpers import libc

PR_SET_PDEATHSIG = 1


def fork() -> int:
    with warnings.catch_warnings():
        # From 3.12 on Python warns when threads exist: what happens then is what these tests are about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        # What pytest has would be looked through at each collection.
        gc.freeze()
        # A child that waits for ever must not outlive a parent that is killed: it holds the lock of the huge pages, too.
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return child


def run_and_exit(body: Callable[[], object], report: int) -> None:
    """Runs `body` in a child; an exception is written to `report`."""
    status = 1
    try:
        body()
        status = 0
    except BaseException:  # noqa: BLE001  a child must never return into pytest
        os.write(report, traceback.format_exc()[-60_000:].encode())
    finally:
        os._exit(status)


def start_child(body: Callable[[], object]) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    child = fork()
    if child == 0:
        run_and_exit(body, write_end)
    os.close(write_end)
    return child, read_end


def finish_child(child: int, report: int, timeout: float) -> str:
    """The failure of a child: empty, a traceback, a signal or a hang."""
    deadline = time.monotonic() + timeout
    while (waited := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.002)
    if waited == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(report, "rb") as pipe:
        said = pipe.read().decode()
    if waited == (0, 0):
        return f"the child hangs {said}"
    code = os.waitstatus_to_exitcode(waited[1])
    return f"the child died of {signal.Signals(-code).name}" if code < 0 else said or ("exit code" if code else "")


def in_child(body: Callable[[], object], timeout: float = 60) -> None:
    """Runs `body` in a forked child: what it raises, a signal and a hang fail the test."""
    if problem := finish_child(*start_child(body), timeout):
        pytest.fail(problem)


def run_python(program: str, timeout: float = 60) -> str:
    """Runs a program in an interpreter of its own and gives what it prints; an error, a signal and a hang fail the test."""
    try:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", program],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as hang:
        pytest.fail(f"the child hangs {hang.stderr!r}")
    if done.returncode or done.stderr:
        pytest.fail(f"the child ended with {done.returncode}: {done.stderr}")
    return done.stdout
