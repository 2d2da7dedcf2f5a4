"""Progress: what a `progress=` function is called with, how often, and what it may do."""

import copy
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from children import in_child
from dbs_address_space import MAP_POPULATE, MAP_SHARED, AddressSpace, ClientError, Progress, tqdm_progress
from kernel_view import maps_of
from memory_helpers import LAYOUT, MIB, ram


class Bar:
    """As much of a bar of tqdm as the adapter uses."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.n = 0
        self.shown: list[tuple[str, int, int | None]] = []
        self.stage = ""

    def set_description(self, stage: str, refresh: bool) -> None:  # noqa: FBT001  as tqdm has it
        assert not refresh
        self.stage = stage

    def refresh(self) -> None:
        self.shown.append((self.stage, self.n, self.total))


def populated(count: int = 4) -> AddressSpace:
    flags = MAP_SHARED | MAP_POPULATE
    return AddressSpace.from_regions(
        [ram(number * MIB, MIB, name=f"progress-{number}", perm_flags=flags) for number in range(count)], LAYOUT
    )


def test_progress_is_a_tuple_with_names() -> None:
    progress = Progress("map", 1, 4, 0.5)
    stage, done, total, rate = progress
    assert (progress.stage, progress.done, progress.total, progress.rate) == (stage, done, total, rate)
    assert pickle.loads(pickle.dumps(progress)) == progress == copy.copy(progress)


def test_mapping_tells_how_far_it_is() -> None:
    seen: list[Progress] = []
    threads: set[int] = set()

    def note(progress: Progress) -> None:
        seen.append(progress)
        threads.add(threading.get_ident())

    with populated().map_memory(progress=note) as memory:
        assert memory.read(3 * MIB, 1) == b"\0"
    assert type(seen[-1]) is Progress
    assert (seen[-1].done, seen[-1].total) == (4 * MIB, 4 * MIB)
    assert {each.stage for each in seen} <= {"map", "populate"}
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    assert all(0 <= each.done <= each.total and each.rate > 0 for each in seen)
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_what_it_raises_undoes_everything_and_comes_out(error: type[BaseException]) -> None:
    space = populated()
    raised = error("enough")

    def refuse(_: Progress) -> None:
        raise raised

    with pytest.raises(error) as refused:
        space.map_memory(progress=refuse)
    assert refused.value is raised
    assert (space.is_mapped, space.generation) == (False, 0)
    assert not maps_of("/memfd:progress-")
    with space.map_memory():
        assert maps_of("/memfd:progress-")


def wait_in_progress(space: AddressSpace, wait: Callable[..., object]) -> None:
    space.map_memory(progress=wait)


def wait_in_the_report_of_an_error(space: AddressSpace, wait: Callable[..., object]) -> None:
    def fail(_: object) -> None:
        raise ValueError

    space.subscribe(fail)
    sys.unraisablehook = wait
    space.remove_region(0)


@pytest.mark.parametrize("call", [wait_in_progress, wait_in_the_report_of_an_error])
def test_who_is_called_in_the_turn_has_its_time(call: Callable[[AddressSpace, Callable[..., object]], None]) -> None:
    """A callback that waits for a writer, which waits for the turn: the writer gives up."""

    def run() -> None:
        space, refused = populated(), []

        def write() -> None:
            with pytest.raises(ClientError, match="nothing was changed") as raised:
                space.insert_region(ram(8 * MIB))
            refused.append(raised.value)

        def wait(*_: object) -> None:
            if not refused:
                thread = threading.Thread(target=write)
                thread.start()
                thread.join()

        call(space, wait)
        assert refused
        assert 8 * MIB not in [region.base for region in space.regions]

    in_child(run, timeout=40)


def test_a_space_without_memory_has_nothing_to_tell() -> None:
    seen: list[Progress] = []
    AddressSpace(LAYOUT).map_memory(progress=seen.append).close()
    assert seen == []


def test_what_is_no_function_is_a_type_error() -> None:
    wrong: Any = "bar"
    space = populated()
    with pytest.raises(TypeError):
        space.map_memory(progress=wrong)
    assert not space.is_mapped


def test_tqdm_follows() -> None:
    bar = Bar()
    with populated().map_memory(progress=tqdm_progress(bar)):
        assert bar.shown[-1] in {(stage, 4 * MIB, 4 * MIB) for stage in ("map", "populate")}
