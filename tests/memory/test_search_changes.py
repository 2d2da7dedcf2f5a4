"""Searches while the map changes, in several threads, over memory that faults; how far they are."""

import gc
import threading
import time
import weakref
from pathlib import Path

import pytest
from dbs_address_space import GuestMemory, Lease, MemoryFault, NotMapped, Progress, RegionBusy
from memory_helpers import MIB, PAGE, make_file, mapped, ram

NEEDLE = b"\x7fneedle in a haystack"


def test_a_search_holds_nothing_between_two_matches() -> None:
    space, memory = mapped(ram(0, MIB), ram(MIB, MIB), ram(2 * MIB, MIB))
    for place in (0, 100, MIB, 2 * MIB):
        memory.write(place, NEEDLE)
    search = memory.search(NEEDLE)
    assert next(search) == 0
    memory.fill(100, 1)
    space.remove_region(MIB)
    assert list(search) == [2 * MIB]


def test_a_search_goes_on_in_the_map_as_it_is_then() -> None:
    space, memory = mapped(ram(0, MIB))
    memory.write(0, NEEDLE)
    memory.write(100, NEEDLE)
    search = memory.search(NEEDLE)
    assert next(search) == 0
    space.insert_region(ram(8 * MIB, MIB))
    memory.write(8 * MIB + 5, NEEDLE)
    space.insert_region(ram(MIB, MIB))
    memory.write(2 * MIB - len(NEEDLE), NEEDLE)
    assert list(search) == [100, 2 * MIB - len(NEEDLE), 8 * MIB + 5]


def test_matches_in_a_region_that_is_gone_are_not_given() -> None:
    space, memory = mapped(ram(0, MIB), ram(MIB, MIB))
    for place in (0, 4, 8, MIB + 4):
        memory.write(place, b"hit!")
    search = memory.search(b"hit!")
    assert next(search) == 0
    space.remove_region(0)
    assert list(search) == [MIB + 4]


def test_a_closed_memory_ends_a_search_with_an_error() -> None:
    space, memory = mapped(ram(0, MIB))
    memory.write(0, NEEDLE + NEEDLE)
    search = memory.search(NEEDLE)
    assert next(search) == 0
    memory.close()
    with pytest.raises(NotMapped):
        next(search)
    space.map_memory()
    with pytest.raises(NotMapped):
        next(search)


def test_a_search_keeps_memory_and_space_alive() -> None:
    space, memory = mapped(ram(0, MIB))
    memory.write(5, NEEDLE)
    search = memory.search(NEEDLE)
    del space, memory
    gc.collect()
    assert list(search) == [5]


class Watched:
    """Something that can be seen to be collected."""

    def __init__(self, memory: GuestMemory) -> None:
        self.search = memory.search(NEEDLE, progress=self.look)

    def look(self, _: Progress) -> None:
        raise NotImplementedError


def test_a_search_in_a_cycle_with_its_progress_is_collected() -> None:
    _, memory = mapped(ram(0, MIB))
    watch = weakref.ref(Watched(memory))
    gc.collect()
    assert watch() is None


def test_removals_and_arrivals_during_a_search_of_another_thread() -> None:
    space, memory = mapped(ram(0, 2 * MIB), ram(6 * MIB, 2 * MIB))
    for place in range(0, 2 * MIB, PAGE):
        memory.write(place, NEEDLE)
        memory.write(6 * MIB + place, NEEDLE)
    ended = threading.Event()

    def plug() -> None:
        while not ended.is_set():
            space.insert_region(ram(3 * MIB, MIB))
            memory.write(3 * MIB, NEEDLE)
            space.remove_region(3 * MIB, timeout=None)

    thread = threading.Thread(target=plug)
    thread.start()
    try:
        for _ in range(15):
            found = list(memory.search(NEEDLE))
            assert found == sorted(set(found))
            steady = [*range(0, 2 * MIB, PAGE), *range(6 * MIB, 8 * MIB, PAGE)]
            assert [place for place in found if place != 3 * MIB] == steady
    finally:
        ended.set()
        thread.join()


def test_a_search_shared_by_threads_gives_each_match_once() -> None:
    _, memory = mapped(ram(0, 4 * MIB))
    places = list(range(0, 4 * MIB, PAGE))
    for place in places:
        memory.write(place, NEEDLE)
    search, found, refused = memory.search(NEEDLE), [], []

    def take() -> None:
        while True:
            try:
                found.append(next(search))
            except StopIteration:
                return
            except ValueError as busy:
                refused.append(str(busy))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == places
    assert set(refused) <= {"the search is going on in another thread"}


def test_a_truncated_file_is_a_fault_where_the_search_comes_to_it(tmp_path: Path) -> None:
    path = make_file(tmp_path / "ram", 2 * MIB)
    with path.open("r+b") as file:
        _, memory = mapped(ram(0, MIB), ram(MIB, 2 * MIB, file=file))
    memory.write(5, NEEDLE)
    memory.write(2 * MIB, NEEDLE)
    with path.open("r+b") as file:
        file.truncate(PAGE)
    search = memory.search(NEEDLE)
    assert next(search) == 5
    for _ in range(2):
        with pytest.raises(MemoryFault, match="truncated") as fault:
            next(search)
        assert fault.value.address == MIB + PAGE


def test_progress_is_told_once_at_the_end_and_seldom_before() -> None:
    _, memory = mapped(ram(0, 64 * MIB, mem_type="mmap"))
    memory.fill(0, 64 * MIB, 1)
    told: list[tuple[float, Progress]] = []
    begun = time.monotonic()
    assert list(memory.search(b"\1\1\2", progress=lambda progress: told.append((time.monotonic(), progress)))) == []
    assert told[-1][1].done == told[-1][1].total == 64 * MIB
    assert len(told) <= 20 * (told[-1][0] - begun) + 1


def test_progress_is_told_between_matches_too() -> None:
    """Each match is found in a moment; all of them together take long."""
    _, memory = mapped(ram(0, 64 * MIB, mem_type="mmap"))
    for place in range(0, 64 * MIB, 64 * PAGE):
        memory.write(place, NEEDLE)
    told: list[Progress] = []
    for _ in memory.search(NEEDLE, progress=told.append):
        time.sleep(0.002)
    assert len([progress for progress in told if progress.done < progress.total]) > 2


def test_an_exception_from_progress_comes_out_and_the_search_can_go_on() -> None:
    _, memory = mapped(ram(0, 4 * MIB))
    memory.write(MIB, NEEDLE)

    def refuse(progress: Progress) -> None:
        raise KeyError(progress.stage)

    search = memory.search(NEEDLE, progress=refuse)
    assert next(search) == MIB
    with pytest.raises(KeyError, match="search"):
        next(search)
    assert list(search) == []


def test_a_window_in_flight_holds_its_regions() -> None:
    """The progress function runs in the midst of a search."""
    space, memory = mapped(ram(0, MIB), ram(MIB, MIB))
    leases: list[Lease] = []

    def look(_: Progress) -> None:
        with pytest.raises(RegionBusy) as busy:
            space.remove_region(MIB)
        leases.extend(busy.value.leases)

    assert list(memory.search(NEEDLE, progress=look)) == []
    assert [lease.what for lease in leases] == ["search"]
    space.remove_region(MIB)
