"""Preallocation: all pages there, with progress; stopped at any time; in the background beyond its space; failures undone."""

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from children import in_child
from dbs_address_space import (
    MAP_POPULATE,
    AddressSpaceBuilder,
    AddressSpaceChange,
    AddressSpaceRegion,
    BackingError,
    BackingOptions,
    HugePagesShort,
    InvalidArgument,
    NumaRegionInfo,
    PreallocHandle,
    PreallocReport,
    Progress,
    RegionBusy,
    UnmappedAddress,
)
from host import ask_for_memory, free_huge_pages, huge_pages
from kernel_view import descriptors, maps, resident_bytes
from memory_helpers import GIB, MIB, PAGE, WINDOW, mapped, ram
from seccomp import fail
from threads import beats_during, beats_in_time

SIZE = 96 * MIB
SOURCES = ["shmem", "mmap"]
EINVAL, ENOMEM, EFAULT = 22, 12, 14


@pytest.mark.parametrize("mem_type", SOURCES)
@pytest.mark.parametrize("threads", [None, 1, 2, 7])
def test_every_page_is_there_and_none_is_changed(mem_type: str, threads: int | None) -> None:
    _, memory = mapped(ram(0, SIZE, mem_type=mem_type), ram(SIZE, PAGE, mem_type=mem_type))
    memory.write(SIZE - 4, b"datadata")
    report = memory.prealloc(threads=threads)
    assert isinstance(report, PreallocReport)
    assert (report.size, report.touched) == (SIZE + PAGE, False)
    assert report.threads == threads or threads is None
    assert report.rate > 0
    assert [state.resident for state in memory.effective()] == [SIZE, PAGE]
    assert memory.read(SIZE - 4, 8) == b"datadata"
    assert memory.read(0, 64) == bytes(64)


def test_one_region() -> None:
    space, memory = mapped(ram(0, MIB, name="a"), ram(MIB, MIB), AddressSpaceRegion.create_device_region(WINDOW, PAGE))
    assert memory.prealloc("a").size == MIB
    assert [state.resident for state in memory.effective()] == [MIB, 0]
    assert memory.prealloc(space[MIB]).size == MIB
    with pytest.raises(UnmappedAddress, match="device"):
        memory.prealloc(WINDOW)
    with pytest.raises(UnmappedAddress):
        memory.prealloc("b")


def test_what_can_be_accessed_by_nobody_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (2 * PAGE))
    regions = [
        AddressSpaceRegion.create_dax_region(WINDOW, 2 * MIB),
        AddressSpaceRegion.create_firmware_region(0, PAGE, "r--"),
        AddressSpaceRegion.from_buffer(PAGE, bytearray(PAGE)),
    ]
    with path.open("r+b") as file:
        regions.append(AddressSpaceRegion.from_file(2 * PAGE, PAGE, file, 17))
    _, memory = mapped(*regions)
    assert memory.prealloc().size == 2 * PAGE
    assert memory.read(2 * PAGE, PAGE) == b"x" * PAGE


@pytest.mark.parametrize("threads", [0, 1025, 1 << 40])
def test_thread_counts_have_bounds(threads: int) -> None:
    with pytest.raises(InvalidArgument, match="threads"):
        mapped(ram(0))[1].prealloc(threads=threads)


def test_progress_is_in_bytes_and_ends_at_the_total() -> None:
    seen: list[Progress] = []
    AddressSpaceBuilder(numa_regions=[SIZE, SIZE], mem_prealloc=True).build(progress=seen.append)
    assert {progress.stage for progress in seen} <= {"populate", "map"}
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert (seen[-1].done, seen[-1].total) == (2 * SIZE, 2 * SIZE)
    _, memory = mapped(ram(0, SIZE))
    seen.clear()
    memory.prealloc(progress=seen.append)
    assert (seen[-1].stage, seen[-1].done, seen[-1].total) == ("populate", SIZE, SIZE)


class StopError(Exception):
    pass


def stop(_: Progress) -> None:
    raise StopError


@pytest.mark.parametrize("threads", [1, 2])
def test_what_progress_raises_stops_it(threads: int) -> None:
    ask_for_memory(4 * GIB)
    _, memory = mapped(ram(0, 4 * GIB, mem_type="mmap"))
    with pytest.raises(StopError):
        memory.prealloc(threads=threads, progress=stop)
    assert memory.effective()[0].resident < 4 * GIB


def test_a_build_that_is_stopped_leaves_nothing() -> None:
    mappings = []
    for _ in range(2):  # the first time brings the stacks of threads, which the C library keeps
        with pytest.raises(StopError):
            AddressSpaceBuilder(numa_regions=["2GiB"], mem_prealloc=True).build(progress=stop)
        gc.collect()
        mappings.append(len(maps()))
    assert mappings[1] <= mappings[0] + 1
    assert not [line for line in maps() if "memfd:ram0" in line]


INTERRUPTED = """
import os, signal, threading, time
from dbs_address_space import AddressSpaceBuilder
memory = AddressSpaceBuilder(numa_regions=["4GiB"], mem_type="mmap").build().memory
def press():
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press).start()
try:
    memory.prealloc(threads=1)
except KeyboardInterrupt:
    print("interrupted", memory.effective()[0].resident < 4 << 30)
"""


def test_ctrl_c_stops_it() -> None:
    ask_for_memory(4 * GIB)
    run = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "interrupted True\n"


# In the background.


def background(size: int = SIZE, **options: Any) -> PreallocHandle:
    return mapped(ram(0, size, mem_type="mmap"))[1].prealloc(background=True, **options)


def test_the_background_survives_its_space() -> None:
    handle = background(512 * MIB)
    gc.collect()
    assert handle.wait(60)
    assert handle.done()
    report = handle.report
    assert report is not None
    assert report.size == 512 * MIB
    assert handle.progress == (512 * MIB, 512 * MIB)
    assert "complete" in repr(handle)
    assert not [line for line in maps() if "memfd:ram" in line]


def test_a_handle_may_be_dropped() -> None:
    background()
    gc.collect()


def test_the_background_can_be_cancelled() -> None:
    ask_for_memory(4 * GIB)
    handle = background(4 * GIB)
    assert not handle.wait(0.01)
    handle.cancel()
    assert handle.wait(30)
    assert handle.report is None
    assert "cancelled" in repr(handle)


def test_a_region_in_work_is_busy() -> None:
    ask_for_memory(4 * GIB)
    space, memory = mapped(ram(0, 4 * GIB, mem_type="mmap"))
    handle = memory.prealloc(background=True)
    with pytest.raises(RegionBusy, match="prealloc"):
        space.remove_region(0)
    memory.write(0, b"in use meanwhile")
    handle.cancel()
    space.remove_region(0, timeout=30)
    assert handle.wait(30)


def test_the_background_takes_no_progress_function() -> None:
    with pytest.raises(InvalidArgument, match="handle"):
        mapped(ram(0))[1].prealloc(background=True, progress=stop)  # type: ignore[call-overload]


def test_other_threads_run_meanwhile() -> None:
    assert beats_in_time(lambda: beats_during(mapped(ram(0, 256 * MIB, mem_type="mmap"))[1].prealloc) > 5)


# Failures.


@pytest.mark.parametrize("mem_type", SOURCES)
def test_without_the_advice_pages_are_touched_and_that_is_said(mem_type: str) -> None:
    def child() -> None:
        fail("madvise", EINVAL, 2, equals=23)
        _, memory = mapped(ram(0, SIZE, mem_type=mem_type))
        memory.write(0, b"stays")
        report = memory.prealloc(threads=2)
        assert report.touched
        assert resident_bytes(memory.host_address(0), SIZE) == SIZE
        assert memory.read(0, 5) == b"stays"

    in_child(child)


def test_a_kernel_that_has_the_advice_and_refuses_it_is_an_error() -> None:
    def child() -> None:
        _, memory = mapped(ram(0, MIB))
        fail("madvise", EINVAL, 1, equals=MIB)
        with pytest.raises(BackingError, match="MADV_POPULATE_WRITE"):
            memory.prealloc()

    in_child(child)


class Client:
    """Lets a change go on when a call that waits for it has begun."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = threading.Thread(target=call)

    def prepare(self, change: AddressSpaceChange) -> None:
        if change.replaced:
            self.call.start()
            self.call.join(0.05)

    def commit(self, change: AddressSpaceChange) -> None: ...
    def rollback(self, change: AddressSpaceChange) -> None: ...


@pytest.mark.parametrize("mem_type", SOURCES)
@pytest.mark.parametrize("background", [False, True])
def test_it_goes_by_the_protection_that_a_change_leaves(mem_type: str, background: Literal[True]) -> None:
    def child() -> None:
        space, memory = mapped(ram(0, MIB, mem_type=mem_type))
        done: list[PreallocReport | PreallocHandle] = []
        client = Client(lambda: done.append(memory.prealloc(background=background)))
        with space.subscribe(client):
            space.replace_region(0, space[0].replace(prot_flags="r--"))
            client.call.join()
        [report] = done
        assert not isinstance(report, PreallocHandle) or report.wait()

    in_child(child)


def test_memory_that_may_fault_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))

    def child() -> None:
        fail("madvise", EINVAL, 2, equals=23)
        with path.open("r+b") as file:
            _, memory = mapped(AddressSpaceRegion.from_file(0, MIB, file))
        with pytest.raises(BackingError, match="MADV_POPULATE_WRITE"):
            memory.prealloc()

    in_child(child)


def test_a_file_that_was_cut_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))
    with path.open("r+b") as file:
        _, memory = mapped(AddressSpaceRegion.from_file(0, MIB, file))
    os.truncate(path, PAGE)
    with pytest.raises(BackingError, match="populating") as raised:
        memory.prealloc()
    assert raised.value.errno == EFAULT
    handle = memory.prealloc(background=True)
    assert handle.wait(30)
    with pytest.raises(BackingError, match="populating"):
        _ = handle.report


def test_pages_that_another_took_are_counted() -> None:
    with huge_pages(3) as size:
        _, memory = mapped(ram(0, 4 * size, mem_type="hugemmap", backing=BackingOptions(reserve=False)))
        with pytest.raises(HugePagesShort, match="3 of its 4") as raised:
            memory.prealloc()
        assert raised.value.missing == 1
        memory.close()
        assert free_huge_pages(size) == 3


CALLS = [
    ("memfd_create", ENOMEM, {}),
    ("ftruncate", ENOMEM, {}),
    ("fcntl", 1, {"argument": 1, "equals": 1033}),
    ("mmap", ENOMEM, {"argument": 3, "equals": 1}),
    ("mbind", EINVAL, {}),
    ("madvise", ENOMEM, {"argument": 2, "equals": 23}),
    ("madvise", EINVAL, {"argument": 2, "equals": 14}),
    ("madvise", EINVAL, {"argument": 2, "equals": 16}),
    ("mlock", ENOMEM, {}),
]


@pytest.mark.parametrize(
    ("call", "errno", "where"), CALLS, ids=[f"{call}-{where.get('equals')}" for call, _, where in CALLS]
)
def test_whatever_call_fails_a_build_leaves_nothing(call: str, errno: int, where: dict[str, int]) -> None:
    options = BackingOptions(mlock=True, dontdump=True, transparent_hugepage=True)
    plan = AddressSpaceBuilder(
        numa_regions=[NumaRegionInfo("4MiB", 0), NumaRegionInfo("4MiB", 0)], backing=options
    ).plan()

    def child() -> None:
        plan.build().memory.close()
        gc.collect()
        open_before, mappings = len(descriptors()), len(maps())
        fail(call, errno, **where)
        for _ in range(8):
            with pytest.raises(BackingError) as raised:
                plan.build()
            assert raised.value.errno == errno
            assert raised.value.region == plan.regions[0]
            del raised
        gc.collect()
        assert len(descriptors()) == open_before
        assert len(maps()) < mappings + 8, "the C library's own are fewer"
        assert not [line for line in maps() if "memfd:ram" in line]

    in_child(child)


def test_populating_is_done_for_map_populate_too() -> None:
    _, memory = mapped(ram(0, SIZE, mem_type="mmap", perm_flags=0x22 | MAP_POPULATE))
    assert memory.effective()[0].resident == SIZE


def test_signals_do_not_disturb() -> None:
    caught: list[int] = []
    old = signal.signal(signal.SIGALRM, lambda number, _: caught.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        _, memory = mapped(ram(0, 512 * MIB, mem_type="mmap"))
        assert memory.prealloc(threads=2).size == 512 * MIB
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert memory.effective()[0].resident == 512 * MIB
