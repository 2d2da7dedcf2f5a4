"""The numbers of a space, and what its logger tells."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dbs_address_space import (
    MAP_POPULATE,
    MAP_SHARED,
    AddressSpace,
    AddressSpaceChange,
    AddressSpaceRegion,
    ClientError,
    GuestMemory,
    MemoryFault,
    RegionBusy,
    RegionOverlap,
    SpaceStats,
)
from host import huge_pages
from memory_helpers import LAYOUT, MIB, PAGE, ram
from virtual_machines import Vm

LOGGER = "dbs_address_space"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, LOGGER):
        yield caplog


def told(log: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The records since the last time: level and message."""
    found = [(record.levelname, record.getMessage()) for record in log.records if record.name == LOGGER]
    log.clear()
    return found


def cut_file(directory: Path) -> AddressSpaceRegion:
    """A region of a file, the second page of which can be taken away."""
    (directory / "file").write_bytes(bytes(2 * PAGE))
    return AddressSpaceRegion.from_file(4 * MIB, 2 * PAGE, directory / "file", name="file")


def test_changes_and_refusals_are_counted(space: AddressSpace) -> None:
    assert isinstance(space.stats(), SpaceStats)
    assert space.stats().changes == 0
    space.insert_region(ram(4 * MIB, name="high"))
    with pytest.raises(RegionOverlap):
        space.insert_region(ram(4 * MIB, name="other"))
    assert (space.stats().changes, space.stats().refused) == (1, 0)
    with space.memory.view(4 * MIB, PAGE), pytest.raises(RegionBusy):
        space.remove_region("high")
    assert (space.stats().changes, space.stats().refused) == (1, 1)

    class Vetoer:
        def prepare(self, change: AddressSpaceChange) -> None:
            if change.removed:
                raise ValueError("in use")

        def commit(self, change: AddressSpaceChange) -> None: ...

        def rollback(self, change: AddressSpaceChange) -> None: ...

    with space.subscribe(Vetoer()), pytest.raises(ClientError):
        space.remove_region("high")
    assert space.stats().refused == 2
    space.remove_region("high")
    assert space.stats().changes == 2


def test_what_is_there_is_counted(space: AddressSpace, memory: GuestMemory, tmp_path: Path) -> None:
    before = space.stats()
    assert (before.mapped, before.guarded, before.leases) == (sum(one.size for one in space.regions), 0, 0)
    space.insert_region(cut_file(tmp_path))
    assert space.stats().guarded == 2 * PAGE
    with memory.view(0, PAGE) as view, memory.pin(0, PAGE):
        assert space.stats().leases == 2
        assert len(view) == PAGE
    assert space.stats().leases == 0
    memory.close()
    assert space.stats()[3:6] == (0, 0, 0)
    assert repr(before).startswith("SpaceStats(changes=0, ")


def test_faults_are_counted_by_each_verb(space: AddressSpace, memory: GuestMemory, tmp_path: Path) -> None:
    space.insert_region(cut_file(tmp_path))
    os.truncate(tmp_path / "file", PAGE)
    accesses: list[Callable[[int], object]] = [
        memory.read_u64,
        lambda addr: memory.read(addr, 8),
        lambda addr: memory.hash(addr, 8),
    ]
    for number, access in enumerate(accesses):
        with pytest.raises(MemoryFault):
            access(4 * MIB + PAGE)
        assert space.stats().faults == number + 1


def test_changes_are_told(space: AddressSpace, log: pytest.LogCaptureFixture) -> None:
    space.insert_region(ram(4 * MIB, name="100%d"))
    ((level, text),) = told(log)
    assert level == "INFO"
    assert text.startswith("generation 1: + ")
    assert "'100%d'" in text or "100%d" in text
    with space.transaction() as transaction:
        transaction.remove_region("100%d")
        transaction.insert_region(ram(8 * MIB, name="next"))
    ((_, text),) = told(log)
    assert [line[0] for line in text.removeprefix("generation 2: ").splitlines()] == ["-", "+"]


def test_refusals_and_faults_are_warnings(space: AddressSpace, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    space.insert_region(cut_file(tmp_path))
    told(log)
    with space.memory.view(4 * MIB, PAGE, unguarded=True), pytest.raises(RegionBusy):
        space.remove_region("file")
    ((level, text),) = told(log)
    assert level == "WARNING"
    assert text.startswith("a change was refused: 'file'")
    os.truncate(tmp_path / "file", PAGE)
    with pytest.raises(MemoryFault) as raised:
        space.memory.read_u64(4 * MIB + PAGE)
    assert told(log) == [("WARNING", str(raised.value))]


def test_slots_are_told(space: AddressSpace, log: pytest.LogCaptureFixture) -> None:
    with closing(Vm()) as vm, space.attach_kvm(vm.fd):
        slots = [text for level, text in told(log) if level == "DEBUG"]
        assert len(slots) == sum(region.region_type.value == "ram" for region in space.regions)
        assert all(text.startswith("KVM slot ") and "shows" in text for text in slots)
    assert all(text.endswith("no more") for level, text in told(log) if level == "DEBUG")


def test_huge_pages_that_become_guarded_are_told(log: pytest.LogCaptureFixture) -> None:
    with huge_pages(1) as size:
        region = ram(0, size, mem_type="hugeshmem", perm_flags=MAP_SHARED | MAP_POPULATE)
        with AddressSpace.from_regions([region], LAYOUT) as space:
            mapping = space.map_memory().mapping(0)
            told(log)
            for _ in range(2):
                assert mapping.fd is not None
            space.insert_region(AddressSpaceRegion("device", 1 << 45, PAGE))
    assert [text for _, text in told(log) if "guarded" in text] == [
        f"{size >> 20} MiB of huge pages are guarded from here on: others have the file"
    ]


def test_a_handler_may_change_the_space(space: AddressSpace) -> None:
    class Inserter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if space.generation < 3:
                space.insert_region(ram((space.generation + 4) * MIB))

    logger, handler = logging.getLogger(LOGGER), Inserter()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        space.insert_region(ram(4 * MIB))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    # Newer Pythons give a handler none of the records that it makes itself.
    assert space.generation in (2, 3)


def test_what_a_handler_raises_breaks_no_change(space: AddressSpace, unraisable: list[object]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("broken")

    logger, handler = logging.getLogger(LOGGER), Broken()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        assert space.insert_region(ram(4 * MIB)).generation == 1
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert [str(error) for error in unraisable] == ["broken"]


def test_levels_that_are_off_are_not_told(space: AddressSpace, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, LOGGER), space.memory.view(0, PAGE), pytest.raises(RegionBusy):
        space.insert_region(ram(4 * MIB))
        space.remove_region("low")
    assert [level for level, _ in told(caplog)] == ["WARNING"]


@pytest.mark.parametrize("imported", ["", "import logging\n"], ids=["without logging", "with logging"])
def test_a_program_that_asked_for_nothing_is_told_nothing(imported: str) -> None:
    code = (
        f"{imported}import sys\n"
        "from dbs_address_space import AddressSpaceBuilder, AddressSpaceRegion, RegionBusy\n"
        "space = AddressSpaceBuilder(numa_regions=['4MiB']).build()\n"
        "view = space.memory.view(0, 4096)\n"
        "try: space.remove_region(0)\n"
        "except RegionBusy: pass\n"
        "print('logging' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (f"{bool(imported)}\n", "")
