"""The enums and flags: their members, texts, and what they refuse."""

import mmap
import pickle
from enum import Enum, IntFlag
from typing import Any

import dbs_address_space
import pytest
from dbs_address_space import (
    MAP_HUGETLB,
    MPOL_MF_MOVE,
    MPOL_PREFERRED,
    AddressSpaceBuilder,
    AddressSpaceRegion,
    AddressSpaceRegionType,
    InvalidArgument,
    InvalidMemorySourceType,
    InvalidRegionType,
    MapFlags,
    MemorySourceType,
    Prot,
)

NAMES = {
    "hugetlbfs": MemorySourceType.FILE_ON_HUGETLBFS,
    "shmem": MemorySourceType.MEMFD_SHARED,
    "memfd": MemorySourceType.MEMFD_SHARED,
    "hugeshmem": MemorySourceType.MEMFD_ON_HUGETLBFS,
    "hugememfd": MemorySourceType.MEMFD_ON_HUGETLBFS,
    "mmap": MemorySourceType.MMAP_ANONYMOUS,
    "anon": MemorySourceType.MMAP_ANONYMOUS,
    "hugemmap": MemorySourceType.MMAP_ANONYMOUS_HUGETLBFS,
    "hugeanon": MemorySourceType.MMAP_ANONYMOUS_HUGETLBFS,
}


def test_region_types() -> None:
    members = {member.name: member.value for member in AddressSpaceRegionType}
    assert members == {
        "DEFAULT_MEMORY": "ram",
        "DEVICE_MEMORY": "device",
        "DAX_MEMORY": "dax",
        "FIRMWARE_MEMORY": "firmware",
    }
    for name, value in members.items():
        for text in (name, name.lower(), name.title(), value, value.upper()):
            assert AddressSpaceRegionType(text).name == name


@pytest.mark.parametrize("value", ["", "rom", "ram ", "RAM_", 5, None, b"ram"], ids=repr)
def test_other_region_types_are_refused(value: Any) -> None:
    with pytest.raises(InvalidRegionType, match=r'use "ram", "device", "dax" or "firmware"$'):
        AddressSpaceRegionType(value)


def test_memory_sources() -> None:
    assert {member.name: member.value for member in MemorySourceType} == {
        "FILE_ON_HUGETLBFS": "hugetlbfs",
        "MEMFD_SHARED": "shmem",
        "MEMFD_ON_HUGETLBFS": "hugeshmem",
        "MMAP_ANONYMOUS": "mmap",
        "MMAP_ANONYMOUS_HUGETLBFS": "hugemmap",
    }
    assert {name: MemorySourceType.parse(name) for name in NAMES} == NAMES
    assert {name: MemorySourceType(name) for name in NAMES} == NAMES


def test_what_a_source_is() -> None:
    assert [member.value for member in MemorySourceType if member.is_huge] == ["hugetlbfs", "hugeshmem", "hugemmap"]
    assert [member.value for member in MemorySourceType if member.is_anonymous] == ["mmap", "hugemmap"]


@pytest.mark.parametrize("text", ["", "SHMEM", " shmem", "shmem ", "MEMFD_SHARED", "file", "ram"])
def test_other_sources_are_refused(text: str) -> None:
    for parse in (MemorySourceType.parse, MemorySourceType):
        with pytest.raises(InvalidMemorySourceType, match="hugeanon") as refused:
            parse(text)
        assert f'"{text}"' in str(refused.value)


def test_parse_wants_text() -> None:
    for parse in (MemorySourceType.parse, Prot.parse):
        for wrong in (5, None, b"rw", Prot.READ):
            with pytest.raises(TypeError, match="must be a str"):
                parse(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidMemorySourceType):
        MemorySourceType(5)


@pytest.mark.parametrize(
    ("parse", "make", "text"),
    [
        (AddressSpaceRegionType, lambda text: AddressSpaceRegion(text, 0, 4096), "rom"),
        (MemorySourceType, lambda text: AddressSpaceRegion("ram", 0, 4096, mem_type=text), "SHMEM"),
        (MemorySourceType.parse, lambda text: AddressSpaceBuilder(numa_regions=["1GiB"], mem_type=text), "file"),
        (Prot.parse, lambda text: AddressSpaceRegion("ram", 0, 4096, prot_flags=text), "wr"),
    ],
)
def test_a_text_is_refused_in_the_same_words_everywhere(parse: Any, make: Any, text: str) -> None:
    refusals = []
    for refuse in (parse, make):
        with pytest.raises(InvalidArgument) as refused:
            refuse(text)
        refusals.append((type(refused.value), str(refused.value)))
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize("bits", range(8))
def test_a_protection_reads_and_prints_as_in_proc(bits: int) -> None:
    prot = Prot(bits)
    text = "".join(letter if bits >> place & 1 else "-" for place, letter in enumerate("rwx"))
    assert str(prot) == f"{prot}" == f"{prot:3}" == text
    assert f"{prot:>5}" == "  " + text
    assert f"{prot:#x}" == hex(bits)
    assert f"{prot:03b}" == f"{bits:03b}"
    assert Prot.parse(text) == Prot(text) == prot  # type: ignore[arg-type]  # as the other enums
    if bits:
        assert Prot.parse(text.replace("-", "")) == prot


@pytest.mark.parametrize("text", ["", "xr", "rr", "RW-", "rw- ", "--", "0"])
def test_other_protections_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="letters of 'rwx'"):
        Prot.parse(text)


def test_the_flags_are_the_kernels() -> None:
    assert [int(prot) for prot in (Prot.NONE, Prot.READ, Prot.WRITE, Prot.EXEC)] == [
        0,
        mmap.PROT_READ,
        mmap.PROT_WRITE,
        mmap.PROT_EXEC,
    ]
    for name in ("SHARED", "PRIVATE", "ANONYMOUS", "NORESERVE", "POPULATE"):
        number = getattr(mmap, f"MAP_{name}", MapFlags[name])
        assert MapFlags[name] == number
    assert MAP_HUGETLB == 0x40000
    assert (MPOL_PREFERRED, MPOL_MF_MOVE) == (1, 2)


@pytest.mark.parametrize("prefix", ["PROT", "MAP"])
def test_constants_are_members(prefix: str) -> None:
    enum: type[IntFlag] = {"PROT": Prot, "MAP": MapFlags}[prefix]
    constants = {
        name: getattr(dbs_address_space, name) for name in dir(dbs_address_space) if name.startswith(f"{prefix}_")
    }
    assert constants == {f"{prefix}_{name}": member for name, member in enum.__members__.items()}
    assert all(type(constant) is enum for constant in constants.values())


def test_unknown_flags_are_kept_as_numbers() -> None:
    assert int(MapFlags(0x2000 | 0x22)) == 0x2022
    assert MapFlags.PRIVATE | MapFlags.ANONYMOUS == 0x22


@pytest.mark.parametrize("enum", [AddressSpaceRegionType, MemorySourceType, Prot, MapFlags])
def test_members_pickle(enum: type[Enum]) -> None:
    for member in enum:
        assert pickle.loads(pickle.dumps(member)) is member
