"""Huge pages that are huge: memfds, anonymous memory, files on hugetlbfs; pools that are short."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import in_child
from dbs_address_space import (
    MAP_ANONYMOUS,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    AddressSpaceRegion,
    BackingError,
    HugePagesShort,
    MemoryFault,
    Misaligned,
    Unsupported,
)
from host import free_huge_pages, huge_page_size, huge_pages, mounted
from kernel_view import descriptors, kilobytes, maps_of, nothing_left, protection, smaps
from memory_helpers import GIB, MIB, PAGE, mapped, ram
from seccomp import fail
from verbs import OTHER, VERBS

HUGE = huge_page_size() or 2 * MIB
MFD_HUGETLB = 4
MADV_POPULATE_WRITE, EFAULT = 23, 14
POOL = 8
SOURCES = ["hugeshmem", "hugememfd", "hugemmap", "hugeanon", "hugetlbfs"]


@pytest.fixture
def reserved() -> Iterator[None]:
    with huge_pages(POOL):
        yield


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    with mounted("hugetlbfs", tmp_path / "huge", f"pagesize={HUGE}") as where:
        yield where


def huge_ram(base: int, pages: int, mem_type: str, **options: Any) -> AddressSpaceRegion:
    """RAM of a huge source; `mem_file_path` is for the one that has a path."""
    if mem_type != "hugetlbfs":
        options.pop("mem_file_path", None)
    return ram(base, pages * HUGE, mem_type=mem_type, **options)


# Sources.


@pytest.mark.usefixtures("reserved")
@pytest.mark.parametrize("mem_type", SOURCES)
def test_huge_sources_are_huge(mem_type: str, mount: Path) -> None:
    _, memory = mapped(huge_ram(0, 3, mem_type, mem_file_path=mount / "ram"))
    mapping = memory.mapping(0)
    assert kilobytes(smaps(mapping.host_address)["KernelPageSize"]) == HUGE
    # A reservation is not a page: a control group or a NUMA policy may refuse it.
    assert (mapping.page_size, mapping.guarded, mapping.size) == (HUGE, True, 3 * HUGE)
    assert free_huge_pages(HUGE) == POOL - 3
    memory.write(HUGE - 2, b"over")
    memory.write_u64(2 * HUGE, 7)
    assert (memory.read(HUGE - 2, 4), memory.read_u64(2 * HUGE), memory.load(2 * HUGE)) == (b"over", 7, 7)
    memory.prealloc()
    assert not memory.mapping(0).guarded
    assert not list(mount.iterdir())
    memory.close()
    assert free_huge_pages(HUGE) == POOL


@pytest.mark.usefixtures("reserved")
@pytest.mark.parametrize("mem_type", ["hugeshmem", "hugemmap"])
def test_views_are_of_pages_that_are_there(mem_type: str) -> None:
    def child() -> None:
        _, memory = mapped(huge_ram(0, 3, mem_type))
        memory.view(0, 8, writable=True)[:] = b"is there"
        # As a control group with a limit would.
        fail("madvise", EFAULT, 2, equals=MADV_POPULATE_WRITE)
        assert memory.view(HUGE - 8, 8).tobytes() == bytes(8)
        for size in (16, 2 * HUGE):
            with pytest.raises(Unsupported):
                memory.view(HUGE - 8, size)
        with pytest.raises(Unsupported):
            memory.fetch_add(HUGE, 1)
        assert memory.read(0, 8) == b"is there"
        assert memory.mapping(0).guarded

    in_child(child)


@pytest.mark.usefixtures("reserved")
def test_huge_memfds_are_sealed_and_close_on_exec() -> None:
    _, memory = mapped(huge_ram(0, 2, "hugeshmem", name="large"))
    assert maps_of("/memfd:large ")
    fd = memory.mapping(0).fd
    assert fd is not None
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


@pytest.mark.usefixtures("reserved")
def test_private_huge_pages_stay_private() -> None:
    _, memory = mapped(huge_ram(0, 1, "hugeshmem", perm_flags=MAP_PRIVATE))
    memory.write(0, b"mine")
    fd = memory.mapping(0).fd
    assert fd is not None
    assert os.pread(fd, 4, 0) == bytes(4)
    assert memory.read(0, 4) == b"mine"


@pytest.mark.usefixtures("reserved")
@pytest.mark.parametrize("mem_type", ["hugeshmem", "hugemmap"])
def test_force_writes_through_the_protection_of_huge_pages(mem_type: str) -> None:
    _, memory = mapped(huge_ram(0, 2, mem_type, prot_flags="r--"))
    memory.write(HUGE - 2, b"bios", force=True)
    assert memory.read(HUGE - 2, 4) == b"bios"
    assert protection(memory.host_address(0))[:3] == protection(memory.host_address(HUGE))[:3] == "r--"


@pytest.mark.parametrize("mem_type", SOURCES)
def test_whole_huge_pages_only(mem_type: str, tmp_path: Path) -> None:
    small = huge_ram(GIB, 1, mem_type, mem_file_path=tmp_path / "ram").replace(size=MIB)
    with nothing_left(small) as space, pytest.raises(Misaligned, match="page size") as refused:
        space.map_memory()
    assert refused.value.region == small


@pytest.mark.parametrize("page_size", ["4KiB", "64MiB", 1 << 40])
def test_a_page_size_that_the_host_has_not(page_size: Any) -> None:
    region = ram(0, 1 << 40, mem_type="hugeshmem", page_size=page_size)
    with nothing_left(region) as space, pytest.raises(BackingError, match="the host has no huge pages of") as refused:
        space.map_memory()
    assert refused.value.errno == 22
    assert not isinstance(refused.value, HugePagesShort)


def test_gigantic_pages(tmp_path: Path) -> None:
    with huge_pages(1, GIB):
        for mem_type in ("hugeshmem", "hugemmap"):
            with mapped(ram(0, GIB, mem_type=mem_type, page_size="1GiB"))[1] as memory:
                assert memory.mapping(0).page_size == GIB
                assert kilobytes(smaps(memory.host_address(0))["KernelPageSize"]) == GIB
        with mounted("hugetlbfs", tmp_path / "huge", "pagesize=1G") as where:
            region = ram(0, GIB, mem_type="hugetlbfs", mem_file_path=where / "ram", prot_flags="r--")
            with mapped(region)[1] as memory:
                memory.write(0, b"huge", force=True)
                assert (memory.mapping(0).page_size, memory.read(0, 4)) == (GIB, b"huge")


# A pool that is short.


@pytest.mark.parametrize("mem_type", SOURCES)
def test_a_short_pool_is_told_before_anything_is_mapped(mem_type: str, mount: Path) -> None:
    regions = [
        ram(0, name="left"),
        *(
            huge_ram(number * GIB, number, mem_type, name=f"left{number}", mem_file_path=mount / str(number))
            for number in (1, 2, 3)
        ),
    ]
    with huge_pages(2), nothing_left(*regions) as space:
        with pytest.raises(HugePagesShort, match=r"4 are missing.*nr_hugepages") as refused:
            space.map_memory(progress=lambda _: pytest.fail("something was mapped"))
        error = refused.value
        assert (error.missing, error.page_size, error.errno, error.region) == (4, HUGE, 12, space["left2"])
        assert free_huge_pages(HUGE) == 2
        assert not list(mount.iterdir())


def test_as_many_pages_as_were_missing_are_enough() -> None:
    regions = [huge_ram(number * GIB, number, "hugemmap") for number in (1, 2)]
    with huge_pages(1) as size, nothing_left(*regions) as space, pytest.raises(HugePagesShort) as refused:
        space.map_memory()
    with huge_pages(1 + refused.value.missing) as size:
        _, memory = mapped(*regions)
        assert free_huge_pages(size) == 0
        memory.close()


def test_a_short_pool_refuses_a_hotplug() -> None:
    with huge_pages(1):
        space, memory = mapped(ram(0))
        before, open_before = space.snapshot(), descriptors()
        with pytest.raises(HugePagesShort) as refused:
            space.insert_region(huge_ram(GIB, 2, "hugeshmem"))
        assert refused.value.missing == 1
        assert (space.snapshot(), descriptors()) == (before, open_before)
        space.insert_region(huge_ram(GIB, 1, "hugeshmem"))
        memory.close()


def test_pools_are_counted_apart() -> None:
    with huge_pages(0, GIB), huge_pages(1):
        regions = [huge_ram(0, 1, "hugemmap"), ram(GIB, 2 * GIB, mem_type="hugemmap", page_size="1GiB")]
        with nothing_left(*regions) as space, pytest.raises(HugePagesShort, match="hugepages-1048576kB") as refused:
            space.map_memory()
        assert (refused.value.missing, refused.value.page_size) == (2, GIB)


@pytest.mark.parametrize("mem_type", ["hugeshmem", "hugemmap", "hugetlbfs"])
def test_memory_without_a_reserve_is_guarded(mem_type: str, mount: Path) -> None:
    def probe() -> None:
        flags = MAP_PRIVATE | MAP_ANONYMOUS if mem_type == "hugemmap" else MAP_SHARED
        region = huge_ram(GIB, 2, mem_type, mem_file_path=mount / "ram", perm_flags=flags | MAP_NORESERVE)
        _, memory = mapped(ram(OTHER, 2 * HUGE), region)
        assert memory.mapping(GIB).guarded
        for verb in VERBS:
            if verb.touches and verb.writes and not verb.direct:
                with pytest.raises(MemoryFault, match="no huge page was free") as fault:
                    verb(memory, GIB, verb.fitting(2 * HUGE))
                assert (fault.value.address, fault.value.completed, fault.value.errno) == (GIB, 0, 14)

    with huge_pages(0):
        in_child(probe)


# Files on hugetlbfs.


@pytest.mark.usefixtures("reserved")
def test_an_existing_file_is_used_and_kept(mount: Path) -> None:
    path = mount / "ram"
    for content in (b"first", b"other"):
        if not path.exists():
            path.touch()
            os.truncate(path, 4 * HUGE)
        with mapped(huge_ram(0, 2, "hugetlbfs", mem_file_path=path))[1] as memory:
            assert memory.mapping(0).guarded
            memory.write(HUGE, content)
            assert memory.read(HUGE, 5) == content
        assert path.stat().st_size == 4 * HUGE
        with mapped(huge_ram(0, 1, "hugetlbfs", mem_file_path=path, file_offset=HUGE))[1] as memory:
            assert memory.read(0, 5) == content


def short_file(mount: Path) -> Path:
    (mount / "short").touch()
    os.truncate(mount / "short", HUGE)
    return mount / "short"


def link_to_elsewhere(mount: Path) -> Path:
    (mount.parent / "elsewhere").write_bytes(b"precious")
    (mount.parent / "link").symlink_to(mount.parent / "elsewhere")
    return mount.parent / "link"


PATHS: dict[str, tuple[Callable[[Path], Path | str], int, str]] = {
    "another file system": (lambda mount: mount.parent / "ram", 22, "not on a hugetlbfs mount"),
    "no directory": (lambda mount: mount / "none" / "ram", 2, "none/ram"),
    "no path": (lambda _: "", 2, "needs mem_file_path"),
    "a directory": (lambda mount: mount, 21, "directory"),
    "a short file": (short_file, 22, "extend it first"),
    "a link to elsewhere": (link_to_elsewhere, 22, "not on a hugetlbfs mount"),
    "a device": (lambda _: "/dev/zero", 22, "not on a hugetlbfs mount"),
}


@pytest.mark.usefixtures("reserved")
@pytest.mark.parametrize(("path_in", "errno", "said"), PATHS.values(), ids=PATHS)
def test_paths_that_will_not_do(path_in: Callable[[Path], Path | str], errno: int, said: str, mount: Path) -> None:
    path = path_in(mount)
    before = sorted(mount.parent.rglob("*"))
    region = huge_ram(0, 2, "hugetlbfs", mem_file_path=path)
    with nothing_left(region) as space, pytest.raises(BackingError, match=said) as refused:
        space.map_memory()
    assert (refused.value.errno, refused.value.region) == (errno, region)
    assert sorted(mount.parent.rglob("*")) == before
    if (mount.parent / "elsewhere").exists():
        assert (mount.parent / "elsewhere").read_bytes() == b"precious"


@pytest.mark.usefixtures("reserved")
def test_a_page_size_that_the_mount_has_not(mount: Path) -> None:
    region = ram(0, GIB, mem_type="hugetlbfs", mem_file_path=mount / "ram", page_size="1GiB")
    with huge_pages(1, GIB), nothing_left(region) as space, pytest.raises(BackingError, match="has pages of"):
        space.map_memory()
    assert not list(mount.iterdir())


# A user's file of huge pages.


@pytest.fixture
def huge_fd() -> Iterator[int]:
    fd = os.memfd_create("huge", MFD_HUGETLB)
    os.truncate(fd, 3 * HUGE)
    yield fd
    os.close(fd)


@pytest.mark.usefixtures("reserved")
def test_a_users_huge_memfd(huge_fd: int) -> None:
    with mapped(ram(0, 2 * HUGE, file=huge_fd, file_offset=HUGE))[1] as memory:
        memory.write(HUGE, b"huge")
        assert (memory.mapping(0).page_size, memory.mapping(0).guarded) == (HUGE, True)
    assert os.pread(huge_fd, 4, 2 * HUGE) == b"huge"


@pytest.mark.usefixtures("reserved")
@pytest.mark.parametrize(("size", "offset"), [(PAGE, 0), (HUGE, PAGE), (HUGE, 1)])
def test_a_users_huge_memfd_in_whole_pages_only(huge_fd: int, size: int, offset: int) -> None:
    region = ram(0, size, file=huge_fd, file_offset=offset)
    with nothing_left(region) as space, pytest.raises(Misaligned, match="page size"):
        space.map_memory()
