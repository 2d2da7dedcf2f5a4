"""Views against removals, vetoed removals, renewals and protections, from many threads at once."""

import threading
import time
from contextlib import suppress

import pytest
from children import in_child
from dbs_address_space import AddressSpaceChange, ClientError, RegionBusy, UnmappedAddress
from memory_helpers import PAGE, mapped, ram
from threads import run_threads

ROUNDS = 300


pytestmark = pytest.mark.usefixtures("any_switches")


def spin(rounds: int = 20) -> None:
    for _ in range(rounds):
        pass


def test_a_vetoed_removal_fails_nobody_else() -> None:
    def probe() -> None:
        space, memory = mapped(ram(0), ram(PAGE))
        held = memory.view(PAGE, 4)
        done = threading.Event()

        def remove_both() -> None:
            with space.transaction() as change:
                change.remove_region(0)
                change.remove_region(PAGE)

        def veto() -> None:
            for _ in range(ROUNDS):
                with pytest.raises(RegionBusy):
                    remove_both()
            done.set()

        def view() -> None:
            while not done.is_set():
                with memory.view(0, 8) as taken:
                    taken[0] = 1
                memory.read(0, 8)
                spin()

        run_threads(veto, view, view)
        held.release()
        space.remove_region(PAGE)

    in_child(probe)


def test_a_view_is_of_a_region_that_is_there() -> None:
    def probe() -> None:
        space, memory = mapped(ram(0))
        viewed, done = threading.Event(), threading.Event()

        def remove() -> None:
            # Nobody removes the region before that.
            assert viewed.wait(30)
            for number in range(ROUNDS):
                memory.fill(0, PAGE, number & 0xFF)
                space.remove_region(0, timeout=None)
                space.insert_region(ram(0))
            done.set()

        def view() -> None:
            while not done.is_set():
                with suppress(UnmappedAddress), memory.view(0, PAGE) as taken:
                    assert len(set(taken.tobytes())) == 1
                    viewed.set()
                spin()

        run_threads(remove, view)

    in_child(probe)


def test_views_that_follow_each_other_do_not_keep_a_region() -> None:
    """At hardly any moment is the region free: a removal that only waits for one comes too late."""

    def probe() -> None:
        space, memory = mapped(ram(0))

        def view() -> None:
            with suppress(UnmappedAddress):
                while True:
                    with memory.view(0, PAGE):
                        time.sleep(0.002)

        def remove() -> None:
            space.remove_region(0, timeout=None)

        run_threads(view, view, view, remove)

    in_child(probe)


def test_a_view_never_misses_a_region_that_is_always_there() -> None:
    """A renewal closes the leases of all old regions, publishes, and ends them: a view taken meanwhile gets the new one."""

    def probe() -> None:
        regions = [ram(number * PAGE, mem_type="mmap") for number in range(100)]
        space, memory = mapped(*regions)
        done = threading.Event()
        renewed = [0]

        def renew() -> None:
            while renewed[0] < ROUNDS // 3:
                with suppress(RegionBusy), space.transaction() as change:
                    for region in regions:
                        change.remove_region(region)
                        change.insert_region(region)
                    renewed[0] += 1
            done.set()

        def view() -> None:
            while not done.is_set():
                memory.view(0, 8).release()
                memory.read(0, 8)
                memory.read_u64(0)
                spin()

        run_threads(renew, view)

    in_child(probe)


def test_a_view_is_never_wider_than_the_protection() -> None:
    """A write through one that is would kill the child."""

    def probe() -> None:
        space, memory = mapped(ram(0))
        writable, done = space[0], threading.Event()
        readonly, protected = writable.replace(prot_flags="r--"), [0]
        exporter = memory.view(0, 8).obj

        def write_if_allowed(view: memoryview) -> None:
            with view:
                if not view.readonly:
                    view[0] = 1

        def protect() -> None:
            while protected[0] < ROUNDS:
                with suppress(RegionBusy):
                    space.replace_region(0, readonly)
                    protected[0] += 1
                    time.sleep(1e-4)
                    space.replace_region(0, writable)
            done.set()

        def write() -> None:
            while not done.is_set():
                write_if_allowed(memory.view(0, 8))
                with suppress(BufferError):
                    write_if_allowed(memoryview(exporter))
                spin()

        run_threads(protect, write)

    in_child(probe)


def test_an_exporter_follows_its_region() -> None:
    def probe() -> None:
        space, memory = mapped(ram(0, name="old"))
        exporter = memory.view(0, 4).obj
        space.replace_region("old", space["old"].replace(name="new"))
        with memoryview(exporter) as view:
            view[:] = b"view"
        assert memory.read(0, 4) == b"view"
        space.replace_region("new", space["new"].replace(prot_flags="r--"))
        with pytest.raises(BufferError, match="protected"):
            memoryview(exporter)
        with memory.view(0, 4) as view:
            assert view.readonly

    in_child(probe)


def test_a_view_takes_no_protection_that_a_veto_takes_back() -> None:
    """Pages are widened before clients are asked; a write through a view of then would kill the child."""

    class Refusing:
        def prepare(self, change: AddressSpaceChange) -> None:
            if change.replaced:
                raise ValueError

        def commit(self, change: AddressSpaceChange) -> None: ...
        def rollback(self, change: AddressSpaceChange) -> None: ...

    def probe() -> None:
        space, memory = mapped(ram(0))
        writable, done = space[0], threading.Event()
        exporter = memory.view(0, 8).obj
        space.replace_region(0, writable.replace(prot_flags="r--"))
        space.subscribe(Refusing())

        def widen() -> None:
            for _ in range(ROUNDS):
                with suppress(ClientError):
                    space.replace_region(0, writable)
            done.set()

        def write() -> None:
            while not done.is_set():
                with suppress(BufferError), memoryview(exporter) as view:
                    time.sleep(1e-4)
                    view[0] = 1

        run_threads(widen, write)

    in_child(probe)
