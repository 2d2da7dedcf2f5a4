"""The heart of another thread goes on beating while something takes long."""

from collections.abc import Callable

import pytest
from children import in_child
from dbs_address_space import MAP_ANONYMOUS, MAP_POPULATE, MAP_PRIVATE, AddressSpace
from memory_helpers import GIB, LAYOUT, MIB, mapped, ram
from threads import beats_during, beats_in_time

POPULATED = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE
LARGE = ram(0, GIB, mem_type="mmap", perm_flags=POPULATED)

Work = Callable[[], object]


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
}


@pytest.mark.parametrize("begin", WORKS.values(), ids=WORKS)
def test_other_threads_run_during(begin: Callable[[], Work]) -> None:
    def probe() -> None:
        assert beats_in_time(lambda: beats_during(begin()) > 5)

    in_child(probe)


def test_a_lock_that_is_held_is_seen() -> None:
    """The measure can fail: a search of the standard library holds the lock for long."""
    haystack = bytes(512 * MIB)
    assert beats_during(lambda: haystack.find(b"x")) <= 2
