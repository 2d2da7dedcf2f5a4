"""The heart of another thread goes on beating while something takes long."""

import sys
import threading
import time
from collections.abc import Callable

import pytest
from dbs_address_space import MAP_ANONYMOUS, MAP_POPULATE, MAP_PRIVATE, AddressSpace
from memory_helpers import GIB, LAYOUT, MIB, in_child, mapped, ram

POPULATED = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE
LARGE = ram(0, 2 * GIB, mem_type="mmap", perm_flags=POPULATED)

Work = Callable[[], object]


def beats_during(work: Work) -> int:
    """How often another thread gets a turn during work, when no one is made to give the interpreter's lock up."""
    beats, stop = [0], threading.Event()

    def beat() -> None:
        while not stop.is_set():
            beats[0] += 1
            time.sleep(0.0002)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    thread = threading.Thread(target=beat)
    thread.start()
    time.sleep(0.01)
    before = beats[0]
    work()
    during = beats[0] - before
    stop.set()
    thread.join()
    sys.setswitchinterval(interval)
    return during


def closing() -> Work:
    return mapped(LARGE)[1].close


def removal() -> Work:
    space = mapped(LARGE)[0]
    return lambda: space.remove_region(0)


def last_reference() -> Work:
    return list(mapped(LARGE)).clear


def last_view() -> Work:
    return [mapped(LARGE)[1].view(0, 4)].clear


def failed_mapping() -> Work:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    def work() -> None:
        with pytest.raises(ZeroDivisionError):
            AddressSpace.from_regions([LARGE, ram(4 * GIB)], LAYOUT).map_memory(progress=fail)

    return work


def mapping() -> Work:
    return AddressSpace.from_regions([LARGE], LAYOUT).map_memory


def hotplug() -> Work:
    space = mapped()[0]
    return lambda: space.insert_region(LARGE)


def copying(verb: Callable[..., object], *arguments: object) -> Work:
    memory = mapped(ram(0, 256 * MIB, mem_type="mmap", perm_flags=POPULATED))[1]
    return lambda: verb(memory, *arguments)


def last_pin() -> Work:
    return [mapped(LARGE)[1].pin(0, 4)].clear


WORKS: dict[str, Callable[[], Work]] = {
    "closing": closing,
    "removal": removal,
    "last reference": last_reference,
    "last view": last_view,
    "last pin": last_pin,
    "failed mapping": failed_mapping,
    "mapping": mapping,
    "hotplug": hotplug,
    "read": lambda: copying(lambda memory: memory.read(0, 256 * MIB)),
    "read_into": lambda: copying(lambda memory, target: memory.read_into(0, target), bytearray(256 * MIB)),
    "write": lambda: copying(lambda memory, data: memory.write(0, data), bytes(256 * MIB)),
    "fill": lambda: copying(lambda memory: memory.fill(0, 256 * MIB, 1)),
}


@pytest.mark.parametrize("begin", WORKS.values(), ids=WORKS)
def test_other_threads_run_during(begin: Callable[[], Work]) -> None:
    in_child(lambda: assert_beats_during(begin()))


def assert_beats_during(work: Work) -> None:
    assert beats_during(work) > 5


def test_a_lock_that_is_held_is_seen() -> None:
    """The measure can fail: a search of the standard library holds the lock for long."""
    haystack = bytes(512 * MIB)
    assert beats_during(lambda: haystack.find(b"x")) <= 2
