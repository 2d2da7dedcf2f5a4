"""The kernel's view of this process: its mappings, its descriptors, its memory."""

import gc
import io
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbs_address_space import AddressSpace, AddressSpaceRegion
from memory_helpers import LAYOUT, PAGE


def maps() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def maps_of(text: str) -> list[str]:
    """The lines of /proc/self/maps in which a text occurs: the name of a memfd, the path of a file."""
    return [line for line in maps() if text in line]


def covers(line: str, host: int) -> bool:
    low, high = (int(number, 16) for number in line.split(maxsplit=1)[0].split("-"))
    return low <= host < high


def protection(host: int) -> str:
    """The four letters of /proc/self/maps for a host address; empty where nothing is mapped."""
    return next((line.split()[1] for line in maps() if covers(line, host)), "")


def smaps(host: int) -> dict[str, str]:
    """The entry in /proc/self/smaps of the mapping that holds a host address."""
    found: dict[str, str] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if "-" in name.split()[0]:
            inside = covers(line, host)
        elif inside:
            found[name] = value.strip()
    return found


def kilobytes(text: str) -> int:
    return int(text.removesuffix("kB")) << 10


def descriptors() -> dict[str, str]:
    """The open descriptors and what they are."""
    links = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links[entry.name] = str(entry.readlink())
        except FileNotFoundError:
            continue
    return links


def open_files() -> set[io.FileIO]:
    """The open files of Python that close their descriptors when they go."""
    gc.unfreeze()
    files = [found for found in gc.get_objects() if type(found) is io.FileIO]
    return {file for file in files if not file.closed and file.closefd}


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def resident_bytes(host: int, size: int) -> int:
    """How many bytes of a host range are in memory; a line of smaps may tell of neighbours that the kernel has joined, too."""
    with Path("/proc/self/pagemap").open("rb") as file:
        file.seek(host // PAGE * 8)
        entries = array("Q", file.read(size // PAGE * 8))
    return PAGE * sum(entry >> 63 for entry in entries)


@contextmanager
def nothing_left(*regions: AddressSpaceRegion) -> Iterator[AddressSpace]:
    """A space whose mapping fails in the block, and must leave nothing behind."""
    gc.collect()
    space = AddressSpace.from_regions(list(regions), LAYOUT)
    before, mappings, map_before = descriptors(), len(maps()), space.snapshot()
    yield space
    assert descriptors() == before
    assert len(maps()) <= mappings + 1
    assert not maps_of("/memfd:left")
    assert (space.snapshot(), space.is_mapped) == (map_before, False)


def status(name: str) -> int:
    """KiB of this process, as its status says: VmPTE for page tables, RssAnon for memory of its own."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
