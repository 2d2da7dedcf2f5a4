"""Memory whose faults someone must answer: those who do are waited for, those who do not are given up."""

import ctypes
import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from dbs_address_space import AddressSpace, AddressSpaceRegion, GuestMemory, MemoryFault, RegionBusy
from memory_helpers import PAGE, fork, mapped
from userfaultfd import Handler, register

SIZE = 16 * PAGE


@contextmanager
def handled() -> Iterator[tuple[AddressSpace, GuestMemory, Handler]]:
    """Adopted memory without pages, and the handler of its faults."""
    buffer = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    handler = register(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), SIZE)
    space, memory = mapped(AddressSpaceRegion.from_buffer(0, buffer))
    try:
        yield space, memory, handler
    finally:
        handler.close()


def answer_in_background(handler: Handler, byte: int) -> threading.Thread:
    thread = threading.Thread(target=handler.answer, args=(byte,))
    thread.start()
    return thread


def test_a_handler_that_answers_is_waited_for() -> None:
    with handled() as (_, memory, handler):
        for page in range(3):
            thread = answer_in_background(handler, 0x40 + page)
            assert memory.read(page * PAGE, 4) == bytes([0x40 + page]) * 4
            thread.join()
        thread = answer_in_background(handler, 1)
        memory.write(5 * PAGE, b"written")
        thread.join()
        assert memory.read(5 * PAGE, 8) == b"written\x01"


def test_a_handler_that_does_not_answer_hangs_nobody() -> None:
    with handled() as (space, memory, handler):
        began = time.monotonic()
        with pytest.raises(MemoryFault, match="userfaultfd") as fault:
            memory.read(PAGE + 8, 4)
        assert (fault.value.address, fault.value.completed) == (PAGE + 8, 0)
        with pytest.raises(MemoryFault):
            memory.write(2 * PAGE, b"x")
        with pytest.raises(MemoryFault):
            memory.fill(2 * PAGE, 8)
        assert time.monotonic() - began < 60
        with pytest.raises(RegionBusy):
            space.remove_region(0)
        # The reader that was given up is still there; once it is answered, the memory can be used again.
        handler.answer(7)
        space.remove_region(0, timeout=30)
    assert len(space) == 0


def test_what_was_given_up_is_no_reason_for_ever() -> None:
    with handled() as (space, memory, handler):
        with pytest.raises(MemoryFault):
            memory.read(0, 1)
        handler.answer(7)
        deadline = time.monotonic() + 30
        while True:
            try:
                assert memory.read(0, 1) == b"\x07"
                break
            except MemoryFault:
                assert time.monotonic() < deadline
        space.remove_region(0, timeout=30)


def test_a_dead_handler_in_another_process_hangs_nobody() -> None:
    """The parent closes its end, so the death of the child is the end of the handler: its waiters see zeroes."""
    with handled() as (_, memory, handler):
        started, ready = os.pipe()
        child = fork()
        if child == 0:
            handler.answer(5)
            os.write(ready, b"x")
            signal.pause()
        assert memory.read(0, 1) == b"\x05"
        assert os.read(started, 1) == b"x"
        spare = os.open("/dev/null", os.O_RDONLY)
        os.dup2(spare, handler.fd)
        os.close(spare)
        threading.Timer(0.1, os.kill, (child, signal.SIGKILL)).start()
        assert memory.read(PAGE, 4) == bytes(4)
        os.waitpid(child, 0)
        os.close(started)
        os.close(ready)
