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
from children import fork, in_child
from dbs_address_space import (
    MAP_POPULATE,
    MAP_SHARED,
    AddressSpace,
    AddressSpaceRegion,
    BackingOptions,
    GuestMemory,
    InvalidArgument,
    MemoryFault,
    RegionBusy,
    Unsupported,
)
from memory_helpers import GIB, PAGE, drain, mapped, numbered, ram, track
from userfaultfd import Handler, register
from verbs import OTHER, VERBS

AT = GIB
SIZE = 16 * PAGE


@pytest.fixture(autouse=True, params=["adopted", "adopted late", "mmap", "shmem"])
def source(request: pytest.FixtureRequest) -> str:
    """Whose memory it is: a buffer's, registered before it is mapped or after, or that of a region that may block."""
    SOURCE[:] = [request.param]
    return str(request.param)


SOURCE = ["adopted"]
BLOCKS = BackingOptions(may_block=True)


def prepared(size: int, first: int) -> tuple[AddressSpace, GuestMemory, Handler]:
    match SOURCE[0]:
        case "mmap" | "shmem" as mem_type:
            space, memory = mapped(ram(AT, size, mem_type=mem_type, backing=BLOCKS))
            return space, memory, register(memory.host_address(AT) + first, size - first)
        case how:
            buffer = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            address = ctypes.addressof(ctypes.c_char.from_buffer(buffer)) + first
            if how == "adopted":
                handler = register(address, size - first)
                return *mapped(AddressSpaceRegion.from_buffer(AT, buffer)), handler
            space, memory = mapped(AddressSpaceRegion.from_buffer(AT, buffer).replace(backing=BLOCKS))
            return space, memory, register(address, size - first)


@contextmanager
def handled(size: int = SIZE, first: int = 0) -> Iterator[tuple[AddressSpace, GuestMemory, Handler]]:
    """Memory without pages, and the handler of its faults from `first` on."""
    space, memory, handler = prepared(size, first)
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
            assert memory.read(AT + page * PAGE, 4) == bytes([0x40 + page]) * 4
            thread.join()
        thread = answer_in_background(handler, 1)
        memory.write(AT + 5 * PAGE, b"written")
        thread.join()
        assert memory.read(AT + 5 * PAGE, 8) == b"written\x01"


def test_a_handler_that_does_not_answer_hangs_nobody() -> None:
    with handled() as (space, memory, handler):
        with pytest.raises(MemoryFault, match="userfaultfd") as fault:
            memory.read(AT + PAGE + 8, 4)
        assert (fault.value.address, fault.value.completed) == (AT + PAGE + 8, 0)
        with pytest.raises(MemoryFault):
            memory.write(AT + 2 * PAGE, b"x")
        with pytest.raises(MemoryFault):
            memory.fill(AT + 2 * PAGE, 8)
        with pytest.raises(RegionBusy):
            space.remove_region(AT)
        # The reader that was given up is still there; once it is answered, the memory can be used again.
        handler.answer(7)
        space.remove_region(AT, timeout=30)
    assert len(space) == 0


def test_what_was_given_up_is_no_reason_for_ever() -> None:
    with handled() as (space, memory, handler):
        with pytest.raises(MemoryFault):
            memory.read(AT, 1)
        handler.answer(7)
        deadline = time.monotonic() + 30
        while True:
            try:
                assert memory.read(AT, 1) == b"\x07"
                break
            except MemoryFault:
                assert time.monotonic() < deadline
        space.remove_region(AT, timeout=30)


def test_a_dead_handler_in_another_process_hangs_nobody() -> None:
    """The parent closes its end, so the death of the child is the end of the handler: its waiters see zeroes."""
    with handled() as (_, memory, handler):
        started, ready = os.pipe()
        child = fork()
        if child == 0:
            handler.answer(5)
            os.write(ready, b"x")
            signal.pause()
        assert memory.read(AT, 1) == b"\x05"
        assert os.read(started, 1) == b"x"
        spare = os.open("/dev/null", os.O_RDONLY)
        os.dup2(spare, handler.fd)
        os.close(spare)
        threading.Timer(0.1, os.kill, (child, signal.SIGKILL)).start()
        assert memory.read(AT + PAGE, 4) == bytes(4)
        os.waitpid(child, 0)
        os.close(started)
        os.close(ready)


def test_a_slow_handler_has_its_time_for_each_page() -> None:
    """All pages together take longer than a handler may take for one."""
    pages = 128
    with handled(pages * PAGE) as (_, memory, handler):

        def answer() -> None:
            for _ in range(pages):
                time.sleep(0.01)
                handler.answer(3)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            assert memory.read(AT, pages * PAGE) == b"\3" * (pages * PAGE)
        finally:
            thread.join()


def test_long_writes_and_fills_are_answered_too() -> None:
    pages = 40
    with handled(2 * pages * PAGE) as (_, memory, handler):
        thread = threading.Thread(target=lambda: [handler.answer(9) for _ in range(2 * pages)])
        thread.start()
        memory.write(AT + 3, numbered(pages * PAGE - 3))
        memory.fill(AT + pages * PAGE, pages * PAGE - 5, 0x77)
        thread.join()
        assert memory.read(AT, pages * PAGE) == b"\x09" * 3 + numbered(pages * PAGE - 3)
        assert memory.read(AT + pages * PAGE, pages * PAGE) == b"\x77" * (pages * PAGE - 5) + b"\x09" * 5


def test_no_verb_hangs_where_only_a_part_is_handled() -> None:
    """The handler is registered behind the beginning of the buffer; the first verb to be given up is waited for longest."""

    def give_up() -> None:
        with handled(first=8 * PAGE) as (space, memory, _):
            space.insert_region(ram(OTHER, PAGE))
            memory.write(AT, b"no handler")
            assert memory.read(AT, 10) == b"no handler"
            for verb in VERBS:
                if verb.touches and not verb.direct:
                    with pytest.raises(MemoryFault, match="userfaultfd") as fault:
                        verb(memory, AT + 9 * PAGE, verb.fitting(PAGE))
                    assert fault.value.address == AT + 9 * PAGE, verb

    in_child(give_up, timeout=60)


def test_a_write_that_was_given_up_is_marked_until_it_is_over() -> None:
    with handled() as (space, memory, handler):
        track(memory)
        with pytest.raises(MemoryFault):
            memory.write(AT + PAGE, b"late")
        assert drain(memory) == drain(memory) == [(AT + PAGE, PAGE)]
        handler.answer(0)
        while True:
            try:
                space.replace_region(AT, space[AT].replace(prot_flags="r--"))
                break
            except RegionBusy:
                continue
        assert memory.read(AT + PAGE, 4) == b"late"
        assert drain(memory) == [(AT + PAGE, PAGE)]
        assert drain(memory) == []


def hand_over(handler: Handler) -> int:
    """Gives the handler to a process of its own, and returns that; here is none left."""
    child = fork()
    if child == 0:
        while True:
            handler.answer(5)
    spare = os.open("/dev/null", os.O_RDONLY)
    os.dup2(spare, handler.fd)
    os.close(spare)
    return child


def test_handlers_that_are_killed_while_they_answer() -> None:
    """Pages that nobody answers for read as zeroes: no exception even, but neither a hang nor a death."""

    def read_on() -> None:
        pages: set[bytes] = set()
        number = 0
        while number < 30 or len(pages) < 2:
            number += 1
            with handled(64 * PAGE) as (_, memory, handler):
                child = hand_over(handler)
                threading.Timer(number * 0.0002, os.kill, (child, signal.SIGKILL)).start()
                for page in range(64):
                    pages.add(memory.read(AT + page * PAGE, PAGE))
                    memory.write_u64(AT + page * PAGE, page)
                os.waitpid(child, 0)
                assert [memory.read_u64(AT + page * PAGE) for page in range(64)] == list(range(64))
        assert pages == {bytes(PAGE), b"\5" * PAGE}

    in_child(read_on, timeout=100)


def test_ctrl_c_ends_the_wait_for_a_handler() -> None:
    def wait() -> None:
        with handled() as (_, memory, _):
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises((KeyboardInterrupt, MemoryFault)):
                memory.read(AT, 8)
                time.sleep(20)

    in_child(wait, timeout=15)


def test_what_may_block_is_touched_by_nobody_directly(source: str) -> None:
    with handled() as (space, memory, _):
        assert memory.mapping(AT).guarded
        for verb in (lambda: memory.view(AT, 8), lambda: memory.load(AT)):
            with pytest.raises(Unsupported):
                verb()
        assert memory.prealloc().size == 0
        if source != "adopted":
            assert space[AT].backing == BLOCKS
            with pytest.raises(InvalidArgument, match="replace"):
                space.replace_region(AT, space[AT].replace(backing=BackingOptions()))


def test_pages_that_are_not_in_the_file_are_the_handlers() -> None:
    """A hole of the file does not read as zeroes where somebody else brings the pages."""
    pages = 64
    with handled(pages * PAGE) as (_, memory, handler):
        # A daemon, for it waits for ever where nobody asks.
        threading.Thread(target=lambda: [handler.answer(6) for _ in range(pages)], daemon=True).start()
        assert memory.compare(AT, b"\6" * PAGE * pages) is None


def test_memory_whose_pages_come_on_demand_is_not_brought_in_before() -> None:
    for asks in ({"perm_flags": MAP_SHARED | MAP_POPULATE}, {"backing": BackingOptions(may_block=True, mlock=True)}):
        keywords = {"backing": BLOCKS} | asks
        with pytest.raises(InvalidArgument, match="may_block"):
            ram(AT, SIZE, **keywords)
