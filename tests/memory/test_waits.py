"""Waiting for a value: in threads, in processes and in asyncio, whatever becomes of the memory meanwhile."""

import asyncio
import ctypes
import gc
import mmap
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from children import finish_child, run_python, start_child
from dbs_address_space import (
    AddressSpace,
    AddressSpaceRegion,
    GuestMemory,
    InvalidAddressRange,
    InvalidArgument,
    MemoryFault,
    Misaligned,
    NotMapped,
    UnmappedAddress,
)
from dbs_address_space._core import _ValueBell
from hypothesis import given
from hypothesis import strategies as st
from memory_helpers import MIB, PAGE, blocks, libc, make_file, mapped, ram
from userfaultfd import register

AT = PAGE + 0x40
SIZES = (1, 2, 4, 8)
LONG = 3600.0
"""Longer than any test may take: what ends before was not the clock."""
SYS_FUTEX = {"x86_64": 202, "aarch64": 98}[os.uname().machine]
FUTEX_WAKE = 1


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    return [ram(0, MIB)]


@pytest.fixture(params=["thread", "asyncio"])
def wait(request: pytest.FixtureRequest) -> Callable[..., int]:
    """Waits in this thread, by the one verb or the other."""
    if request.param == "thread":
        return GuestMemory.wait_value

    def wait_in_loop(memory: GuestMemory, *arguments: Any, **keywords: Any) -> int:
        async def main() -> int:
            return await memory.wait_value_async(*arguments, **keywords)

        return asyncio.run(main())

    return wait_in_loop


@contextmanager
def result_of(call: Callable[[], Any]) -> Iterator[list[Any]]:
    """The result of a call in another thread, or what it raised, once the block is left."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001  it is looked at
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield results
    finally:
        thread.join(60)
        assert not thread.is_alive()


def await_that(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wake_sleeper(wake: Callable[[], int]) -> None:
    """Wakes until somebody was asleep: nothing has changed, so he falls asleep again."""
    await_that(wake)


@pytest.mark.parametrize("size", SIZES)
def test_another_value_is_returned_at_once_and_the_same_when_the_time_is_up(
    memory: GuestMemory, wait: Callable[..., int], size: int
) -> None:
    memory.store(AT, 5, size)
    assert wait(memory, AT, 4, size) == 5
    assert wait(memory, AT, 5, size, timeout=0) == 5
    assert wait(memory, AT, 4, size, timeout=0) == 5
    assert wait(memory, AT, 5, size, timeout=0.01) == 5


@pytest.mark.parametrize("size", SIZES)
def test_who_sleeps_is_woken(memory: GuestMemory, wait: Callable[..., int], size: int) -> None:
    with result_of(lambda: wait(memory, AT, 0, size, poll=LONG)) as results:
        wake_sleeper(lambda: memory.wake_value(AT, size))
        assert results == []
        memory.store(AT, 7, size)
        memory.wake_value(AT, size)
    assert results == [7]
    assert memory.wake_value(AT, size) == 0


def test_who_waits_for_eight_bytes_sleeps_on_both_halves(memory: GuestMemory, wait: Callable[..., int]) -> None:
    def wake(addr: int) -> int:
        woken: int = libc.syscall(SYS_FUTEX, ctypes.c_void_p(memory.host_address(addr)), FUTEX_WAKE, 1)
        return woken

    with result_of(lambda: wait(memory, AT, 0, 8)) as results:
        wake_sleeper(lambda: wake(AT))
        wake_sleeper(lambda: wake(AT + 4))
        memory.write_u32(AT + 4, 1)
    assert results == [1 << 32]


@pytest.mark.parametrize("size", [1, 2])
def test_what_lies_beside_a_small_value_is_not_waited_for(
    memory: GuestMemory, wait: Callable[..., int], size: int
) -> None:
    for place in range(0, 4, size):
        memory.write(AT, bytes(4))
        with result_of(partial(wait, memory, AT + place, 0, size)) as results:
            for other in {0, 1, 2, 3} - set(range(place, place + size)):
                memory.write_u8(AT + other, 1)
                wake_sleeper(partial(memory.wake_value, AT + place, size))
            assert results == []
            memory.write_u8(AT + place + size - 1, 3)
        assert results == [3 << 8 * (size - 1)]


def test_a_write_that_wakes_nobody_is_seen_all_the_same(memory: GuestMemory, wait: Callable[..., int]) -> None:
    with result_of(lambda: wait(memory, AT, 0, poll=LONG)) as results, memory.view(AT, 4) as view:
        wake_sleeper(lambda: memory.wake_value(AT))
        view[0] = 9
    assert results == [9]


def test_who_waits_vetoes_no_removal_and_learns_of_it(
    space: AddressSpace, memory: GuestMemory, wait: Callable[..., int]
) -> None:
    for _ in range(20):
        with result_of(lambda: wait(memory, AT, 0)) as results:
            wake_sleeper(lambda: memory.wake_value(AT))
            space.remove_region(0)
        assert type(results[0]) is UnmappedAddress
        space.insert_region(ram(0, MIB))


def test_a_region_that_takes_the_place_is_looked_at(
    space: AddressSpace, memory: GuestMemory, wait: Callable[..., int]
) -> None:
    memory.store(AT, 5, 4)
    with result_of(lambda: wait(memory, AT, 5, timeout=60)) as results:
        wake_sleeper(lambda: memory.wake_value(AT))
        with space.transaction() as transaction:
            transaction.remove_region(0)
            transaction.insert_region(ram(0, MIB))
    assert results == [0]


def test_closed_memory_ends_the_wait(memory: GuestMemory, wait: Callable[..., int]) -> None:
    with result_of(lambda: wait(memory, AT, 0)) as results:
        wake_sleeper(lambda: memory.wake_value(AT))
        memory.close()
    assert type(results[0]) is NotMapped


def test_discarded_pages_are_zero(memory: GuestMemory, wait: Callable[..., int]) -> None:
    memory.store(AT, 5, 4)
    with result_of(lambda: wait(memory, AT, 5)) as results:
        wake_sleeper(lambda: memory.wake_value(AT))
        memory.discard(PAGE, PAGE)
    assert results == [0]


@pytest.mark.parametrize("shared", [True, False])
def test_a_file_that_is_cut_is_a_fault(tmp_path: Path, wait: Callable[..., int], shared: bool) -> None:  # noqa: FBT001
    with make_file(tmp_path / "ram", 2 * PAGE).open("r+b") as file:
        _, memory = mapped(AddressSpaceRegion.from_file(0, 2 * PAGE, file, shared=shared))
        with result_of(lambda: wait(memory, AT, 0)) as results:
            wake_sleeper(lambda: memory.wake_value(AT))
            os.truncate(file.fileno(), PAGE)
        assert type(results[0]) is MemoryFault
        with pytest.raises(MemoryFault):
            memory.wake_value(AT)


def test_memory_that_is_not_aligned_here_is_polled(tmp_path: Path, wait: Callable[..., int]) -> None:
    with make_file(tmp_path / "ram", 2 * PAGE + 9).open("r+b") as file:
        _, memory = mapped(AddressSpaceRegion.from_file(0, 2 * PAGE, file, 9))
    for size in SIZES:
        with result_of(partial(wait, memory, AT + 8 * size, 0, size)) as results:
            assert memory.wake_value(AT + 8 * size, size) == 0
            memory.write_u8(AT + 8 * size, 1)
        assert results == [1]


def test_buffers_are_waited_for(wait: Callable[..., int]) -> None:
    with mmap.mmap(-1, 2 * PAGE) as buffer:
        space, memory = mapped(AddressSpaceRegion.from_buffer(0, buffer))
        with result_of(lambda: wait(memory, AT, 0)) as results:
            wake_sleeper(lambda: memory.wake_value(AT))
            buffer[AT] = 1
        assert results == [1]
        space.close()
        space.remove_region(0)


def test_where_nobody_can_sleep_there_is_a_look_now_and_then(wait: Callable[..., int]) -> None:
    """The kernel has no futexes in anonymous memory that only reads: it would never change."""
    _, memory = mapped(ram(0, mem_type="mmap", prot_flags="r--"))
    with result_of(lambda: wait(memory, 0, 0)) as results:
        assert memory.wake_value(0) == 0
        memory.write(0, b"\1", force=True)
    assert results == [1]


def test_nobody_waits_for_a_fault_handler(wait: Callable[..., int]) -> None:
    with mmap.mmap(-1, PAGE) as buffer:
        handler = register(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), PAGE)
        space, memory = mapped(AddressSpaceRegion.from_buffer(0, buffer))
        with result_of(lambda: wait(memory, 0, 0x05050505)) as results:
            handler.answer(5)
            assert memory.wake_value(0) == 0
            memory.write_u32(0, 6)
        assert results == [6]
        handler.close()
        space.close()
        space.remove_region(0)


def test_only_what_is_waited_for_is_allocated(memory: GuestMemory, wait: Callable[..., int]) -> None:
    wait(memory, AT, 0, timeout=0.01)
    assert blocks(memory, 0) <= PAGE // 512


def test_processes_wait_for_each_other(memory: GuestMemory) -> None:
    """Nothing but a wake-up ends their sleep in time."""
    rounds = 2000

    def echo() -> None:
        for number in range(rounds):
            assert memory.wait_value(0, number, poll=LONG) == number + 1
            memory.store(64, number + 1, 8)
            memory.wake_value(64, 8)

    child, report = start_child(echo)
    for number in range(rounds):
        memory.store(0, number + 1, 4)
        memory.wake_value(0)
        assert memory.wait_value(64, number, 8, poll=LONG) == number + 1
    assert finish_child(child, report, 60) == ""


def test_ctrl_c_ends_the_wait(memory: GuestMemory) -> None:
    def interrupt() -> None:
        wake_sleeper(lambda: memory.wake_value(AT))
        os.kill(os.getpid(), signal.SIGINT)

    with result_of(interrupt), pytest.raises(KeyboardInterrupt):
        memory.wait_value(AT, 0)


def test_wrong_arguments_are_refused(memory: GuestMemory) -> None:
    for verb in (memory.wait_value, memory.wait_value_async):
        for poll in (0, -1.0, float("nan"), -(10**400)):
            with pytest.raises(InvalidArgument, match="poll is"):
                verb(AT, 0, poll=poll)
        with pytest.raises(InvalidArgument, match="not a bool"):
            verb(AT, 0, poll=True)
        with pytest.raises(InvalidArgument, match="timeout is"):
            verb(AT, 0, timeout=-1)
        with pytest.raises(InvalidAddressRange, match=r"0x100 is out of range"):
            verb(AT, 256, 1)

    def wake(addr: int, _: int, size: int) -> int:
        return memory.wake_value(addr, size)

    refusing: list[Callable[[int, int, int], int]] = [memory.wait_value, wake]
    for refused in refusing:
        with pytest.raises(Misaligned):
            refused(AT + 1, 0, 2)
        with pytest.raises(InvalidAddressRange, match="1, 2, 4 or 8"):
            refused(AT, 0, 3)
        with pytest.raises(UnmappedAddress):
            refused(MIB, 0, 4)


@given(
    content=st.binary(min_size=64, max_size=64),
    places=st.lists(st.tuples(st.sampled_from(SIZES), st.integers(0, 7), st.booleans()), max_size=12),
)
def test_exactly_the_changed_values_are_found(content: bytes, places: list[tuple[int, int, bool]]) -> None:
    """Against plain bytes."""
    _, memory = mapped(ram(0))
    memory.write(0, content)
    waiters, right = [], []
    for number, (size, index, is_there) in enumerate(places):
        value = int.from_bytes(content[index * size :][:size], "little")
        expected = value if is_there else value ^ 1
        waiters.append((memory, index * size, expected, size))
        right += [] if is_there else [(number, value)]
    assert _ValueBell().wait(waiters, 0, 0.001) == right


# asyncio.


def values_threads() -> int:
    return sum(thread.name == "dbs-address-space-values" for thread in threading.enumerate())


def test_two_hundred_coroutines_share_a_thread(memory: GuestMemory) -> None:
    """More than the kernel lets one thread sleep on, of all sizes."""

    async def main() -> list[int]:
        tasks = [
            asyncio.create_task(memory.wait_value_async(8 * number, 0, SIZES[number % 4])) for number in range(200)
        ]
        await asyncio.sleep(0.01)
        assert values_threads() == 1
        for number in reversed(range(200)):
            memory.write_u8(8 * number, number + 1)
            memory.wake_value(8 * number, SIZES[number % 4])
            if number % 50 == 0:
                await asyncio.sleep(0)
        return [await task for task in tasks]

    await_that(lambda: values_threads() == 0)
    assert asyncio.run(main()) == list(range(1, 201))


def test_a_cancelled_wait_is_forgotten_with_its_memory(memory: GuestMemory) -> None:
    async def main() -> Any:
        space, other = mapped(ram(0))
        task = asyncio.create_task(other.wait_value_async(0, 0))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Others go on.
        assert await memory.wait_value_async(AT, 1) == 0
        return weakref.ref(space), weakref.ref(other)

    space, other = asyncio.run(main())
    await_that(lambda: not gc.collect() and space() is other() is None and values_threads() == 0)


def test_one_wait_comes_after_the_other(memory: GuestMemory) -> None:
    """Whether the thread is there still, is about to end, or has ended."""

    async def main() -> None:
        for number in range(200):
            task = asyncio.create_task(memory.wait_value_async(AT, number))
            await asyncio.sleep(0.0001 * (number % 40))
            memory.store(AT, number + 1, 4)
            memory.wake_value(AT)
            assert await task == number + 1
            await asyncio.sleep(0.0001 * (number % 35))
            assert values_threads() <= 2

    asyncio.run(main())


def test_an_error_that_comes_too_late_is_not_told(memory: GuestMemory, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        for _ in range(20):
            with pytest.raises(UnmappedAddress):
                await memory.wait_value_async(MIB, 0, timeout=0)
            await asyncio.sleep(0.001)

    asyncio.run(main())
    gc.collect()
    assert caplog.text == ""


def test_waits_in_many_loops_leave_nothing_behind(memory: GuestMemory) -> None:
    async def wait(addr: int) -> None:
        with suppress(UnmappedAddress):
            await memory.wait_value_async(addr, 0, timeout=0)

    def blocks_after(rounds: int) -> int:
        for number in range(rounds):
            asyncio.run(wait((MIB, AT)[number % 2]))
        await_that(lambda: values_threads() == 0)
        gc.collect()
        return sys.getallocatedblocks()

    blocks_after(600)
    before = blocks_after(0)
    assert blocks_after(600) < before + 300


def test_a_loop_that_is_closed_meanwhile_hears_nothing(memory: GuestMemory) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(memory.wait_value_async(AT, 0))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    memory.store(AT, 1, 4)
    memory.wake_value(AT)
    await_that(lambda: values_threads() == 0)
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001  as is meant


def test_a_program_ends_while_its_loop_waits() -> None:
    run_python(
        """
import asyncio
from dbs_address_space import AddressSpaceBuilder
memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
loop = asyncio.new_event_loop()
task = loop.create_task(memory.wait_value_async(0, 0))
loop.run_until_complete(asyncio.sleep(0.1))
task._log_destroy_pending = False
"""
    )
