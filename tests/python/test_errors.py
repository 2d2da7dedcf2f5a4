"""The errors: their tree, the data that each carries, pickles, and messages that a person can read."""

import copy
import errno
import os
import pickle
import tempfile
from collections.abc import Callable
from typing import Any

import dbs_address_space
import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceError,
    AddressSpaceRegion,
    AlignmentImpossible,
    BackingError,
    BackingOptions,
    ClientError,
    DuplicateName,
    ForkedProcess,
    Fragmented,
    GenerationChanged,
    HugePagesShort,
    InvalidAddressRange,
    InvalidArgument,
    InvalidMemorySourceType,
    InvalidPlan,
    InvalidRegionType,
    LayoutViolation,
    Lease,
    MemoryFault,
    Misaligned,
    NoSpace,
    NotContiguous,
    NotMapped,
    NumaError,
    PartialTransfer,
    ReentrantChange,
    RegionBusy,
    RegionOverlap,
    ShareError,
    TransactionClosed,
    UnknownName,
    UnmappedAddress,
    Unsupported,
    errors,
)
from memory_helpers import GIB, LAYOUT, PAGE, WINDOW, mapped, ram

ERRORS: list[type[AddressSpaceError]] = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, AddressSpaceError) and error is not AddressSpaceError
]
"""Every error that is defined: adding one adds it to the tests that take these."""

PROMISED: dict[type[AddressSpaceError], tuple[type[BaseException], ...]] = {
    InvalidArgument: (ValueError,),
    InvalidAddressRange: (InvalidArgument,),
    LayoutViolation: (InvalidAddressRange,),
    RegionOverlap: (InvalidAddressRange,),
    DuplicateName: (InvalidAddressRange,),
    Misaligned: (InvalidAddressRange,),
    InvalidRegionType: (InvalidArgument,),
    InvalidMemorySourceType: (InvalidArgument,),
    UnmappedAddress: (LookupError,),
    UnknownName: (UnmappedAddress, KeyError),
    AccessDenied: (PermissionError,),
    MemoryFault: (OSError,),
    BackingError: (OSError,),
    HugePagesShort: (BackingError,),
    NumaError: (BackingError,),
    NoSpace: (ValueError,),
    Fragmented: (NoSpace,),
    AlignmentImpossible: (NoSpace,),
    InvalidPlan: (ValueError,),
    RegionBusy: (BufferError,),
    NotContiguous: (BufferError,),
    NotMapped: (RuntimeError,),
    GenerationChanged: (RuntimeError,),
    PartialTransfer: (OSError,),
    TransactionClosed: (RuntimeError,),
    ReentrantChange: (RuntimeError,),
    ForkedProcess: (RuntimeError,),
    ClientError: (RuntimeError,),
    ShareError: (ConnectionError,),
    Unsupported: (OSError,),
}
ERRNOS = {
    AccessDenied: errno.EACCES,
    MemoryFault: errno.EFAULT,
    HugePagesShort: errno.ENOMEM,
    Unsupported: errno.ENOTSUP,
    ShareError: errno.ECONNABORTED,
}
COMMON = ("address", "size", "region", "conflict")
LOW, HIGH = ram(0, 2 * PAGE, name="low"), ram(PAGE, 2 * PAGE, name="high")


def raised(do: Callable[[], object]) -> AddressSpaceError:
    with pytest.raises(AddressSpaceError) as refused:
        do()
    return refused.value


def fields(error: type[AddressSpaceError]) -> list[str]:
    """The data that an error of the class carries."""
    return sorted({name for base in error.__mro__ for name in getattr(base, "__annotations__", {}) if name[0] != "_"})


def data(error: AddressSpaceError) -> dict[str, Any]:
    return {name: getattr(error, name) for name in fields(type(error))}


def test_the_errors_are_those_of_the_modules_names() -> None:
    names: list[str] = errors.__all__  # type: ignore[attr-defined]  # computed
    assert sorted(names) == sorted(error.__name__ for error in [*ERRORS, AddressSpaceError, Lease])
    assert set(names) <= set(dir(dbs_address_space))
    assert len(ERRORS) >= len(PROMISED)


@pytest.mark.parametrize("error", PROMISED, ids=lambda error: error.__name__)
def test_the_promised_bases_are_kept(error: type[AddressSpaceError]) -> None:
    for base in PROMISED[error]:
        assert issubclass(error, base)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_is_what_python_has_for_the_case(error: type[AddressSpaceError]) -> None:
    builtin = {base for base in error.__mro__ if base.__module__ == "builtins"} - {Exception, BaseException, object}
    assert builtin
    assert error.__doc__
    assert error.__module__ == "dbs_address_space.errors"
    if issubclass(error, OSError):
        assert (error("it failed").errno, error("it failed").strerror) == (ERRNOS.get(error, errno.EIO), "it failed")


@pytest.mark.parametrize("error", [AddressSpaceError, *ERRORS], ids=lambda error: error.__name__)
def test_every_error_carries_its_data_through_pickles(error: type[AddressSpaceError]) -> None:
    own: dict[str, Any] = {name: f"some {name}" for name in fields(error)} | {"region": LOW, "conflict": HIGH}
    assert set(own) >= set(COMMON)
    made = error("it failed", **own)
    made.add_note("at night")
    again = [
        pickle.loads(pickle.dumps(made, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1) if protocol > 1
    ]
    for same in (*again, copy.copy(made), copy.deepcopy(made)):
        assert type(same) is error
        assert data(same) == own
        assert (str(same), same.args, same.__notes__) == (str(made), made.args, ["at night"])
    empty = error("it failed")
    assert [data(empty)[name] for name in COMMON] == [None] * 4
    assert str(empty) == "it failed"
    with pytest.raises(TypeError, match="flavour"):
        error("it failed", flavour="sweet")


def test_a_true_errno_survives() -> None:
    error = BackingError("no more descriptors", errno=errno.EMFILE, region=LOW)
    again = pickle.loads(pickle.dumps(error))
    assert (again.errno, again.strerror, again.region) == (errno.EMFILE, "no more descriptors", LOW)
    assert str(again) == str(error) == f"[Errno {errno.EMFILE}] no more descriptors"


def test_an_errno_stands_in_a_text_only_when_a_system_call_failed() -> None:
    with tempfile.TemporaryFile() as file:
        refusals = [
            raised(lambda: mapped(ram(0, mem_type="mmap", perm_flags=0x10))),
            raised(lambda: mapped(ram(0, file=file))),
            raised(lambda: mapped(ram(0, mem_type="hugeshmem", page_size="8KiB"))),
            raised(lambda: mapped(ram(0, backing=BackingOptions(policy="bind")))),
        ]
        closed = os.dup(file.fileno())
        os.close(closed)
        failure = raised(lambda: ram(0, file=closed))
    for refusal in refusals:
        assert isinstance(refusal, BackingError)
        assert refusal.errno == errno.EINVAL
        assert "rrno" not in str(refusal)
        assert "os error" not in str(refusal)
        assert str(pickle.loads(pickle.dumps(refusal))) == str(refusal)
    assert isinstance(failure, BackingError)
    assert str(failure).startswith(f"[Errno {errno.EBADF}] file descriptor {closed} can't be duplicated")


def test_a_name_that_is_not_there_is_a_key_error_too() -> None:
    space = space_of(LOW)
    for look_up in (lambda: space["x"], lambda: space.remove_region("x"), lambda: space.snapshot()["x"]):
        with pytest.raises(KeyError) as refused:
            look_up()
        assert isinstance(refused.value, UnmappedAddress)
        assert str(refused.value) == 'no region is named "x"'
    with pytest.raises(UnmappedAddress) as refused_address:
        _ = space[GIB]
    assert not isinstance(refused_address.value, KeyError)


def test_a_file_does_not_keep_an_error_from_pickling() -> None:
    with tempfile.TemporaryFile() as file:
        error = raised(lambda: mapped(ram(0, file=file, name="short")))
    assert error.region is not None
    again = pickle.loads(pickle.dumps(error))
    assert (again.region, str(again), again.errno) == (None, str(error), errno.EINVAL)


def test_a_lease_says_what_holds_a_region() -> None:
    lease = Lease("view", 0x1000, 8)
    assert (lease.what, lease.address, lease.size) == ("view", 0x1000, 8)
    assert pickle.loads(pickle.dumps(lease)) == lease


def space_of(*regions: AddressSpaceRegion) -> AddressSpace:
    return AddressSpace.from_regions(regions, LAYOUT)


def view_of_two_regions() -> object:
    _, memory = mapped(ram(0), ram(PAGE))
    return memory.view(0, 2 * PAGE)


def write_to_rom() -> None:
    _, memory = mapped(AddressSpaceRegion.create_firmware_region(0, PAGE, "r--", name="rom"))
    memory.write(8, b"x")


def stale_transaction() -> None:
    with space_of().transaction(if_generation=3):
        pass


def change_in_a_change() -> object:
    space = space_of(ram(0))
    return space.map_memory(progress=lambda _: space.insert_region(ram(PAGE)))


CASES: dict[str, tuple[type[AddressSpaceError], Callable[[], object], str, dict[str, Any]]] = {
    "overlap": (
        RegionOverlap,
        lambda: space_of(LOW).insert_region(HIGH),
        r"cannot insert 'high' \[0x1000, 0x3000\): overlaps 'low' \[0x0, 0x2000\)",
        {"address": PAGE, "size": 2 * PAGE, "region": HIGH, "conflict": LOW},
    ),
    "name": (
        DuplicateName,
        lambda: space_of(LOW).insert_region(ram(GIB, name="low")),
        r"'low' \[0x4000_0000, .*the name is taken by 'low' \[0x0, 0x2000\)",
        {"address": GIB, "size": PAGE, "region": ram(GIB, name="low"), "conflict": LOW},
    ),
    "layout": (
        LayoutViolation,
        lambda: space_of(ram(WINDOW)),
        "ends 0x1000 bytes past mem_end 0x2000_0000_0000",
        {"address": WINDOW, "size": PAGE, "region": ram(WINDOW)},
    ),
    "range": (
        InvalidAddressRange,
        lambda: ram(2**64 - 1, 16),
        r"0x10 bytes at 0xffff_ffff_ffff_ffff ends past 2\^64 - 1",
        {"address": 2**64 - 1, "size": 16},
    ),
    "alignment": (
        Misaligned,
        lambda: mapped(LOW)[1].discard(8, 8),
        "cannot discard .* its pages have 4 KiB",
        {"address": 8, "size": 8, "region": LOW},
    ),
    "type": (InvalidRegionType, lambda: AddressSpaceRegion("rom", 0, 1), 'unknown region type "rom": use "ram"', {}),
    "source": (InvalidMemorySourceType, lambda: ram(0, mem_type="file"), 'unknown memory source type "file": use', {}),
    "name unknown": (UnknownName, lambda: space_of(LOW)["high"], 'no region is named "high"', {}),
    "text": (
        InvalidArgument,
        lambda: ram(PAGE, name=""),
        "can't be a region's name",
        {"address": PAGE, "size": PAGE},
    ),
    "hole": (
        UnmappedAddress,
        lambda: space_of(LOW, ram(GIB))[0x5000],
        r"no region starts at 0x5000; the region before is 'low' \[0x0, 0x2000\); the next is ram \[0x4000_0000,",
        {"address": 0x5000},
    ),
    "inside": (
        UnmappedAddress,
        lambda: space_of(LOW).remove_region(PAGE),
        r"no region starts at 0x1000: it lies inside 'low' \[0x0, 0x2000\), which starts at 0x0",
        {"address": PAGE, "region": LOW},
    ),
    "protection": (
        AccessDenied,
        write_to_rom,
        r"'rom' \[0x0, 0x1000\)",
        {"address": 8, "size": 1, "region": AddressSpaceRegion.create_firmware_region(0, PAGE, "r--", name="rom")},
    ),
    "backing": (
        BackingError,
        lambda: mapped(ram(0, mem_type="mmap", perm_flags=0x10)),
        "cannot map ram",
        {"address": 0, "size": PAGE, "region": ram(0, mem_type="mmap", perm_flags=0x10)},
    ),
    "joint": (
        NotContiguous,
        view_of_two_regions,
        "joint at 0x1000",
        {"address": PAGE, "size": 2 * PAGE, "region": ram(0), "conflict": ram(PAGE)},
    ),
    "not mapped": (NotMapped, lambda: space_of().memory, r"call map_memory\(\)", {}),
    "generation": (GenerationChanged, stale_transaction, "at generation 0, not at 3: look again", {}),
    "closed transaction": (
        TransactionClosed,
        lambda: space_of().transaction().remove_region(0),
        "the transaction has not begun: use it in a with statement",
        {},
    ),
    "reentry": (ReentrantChange, change_in_a_change, "a change from inside a change", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_error_says_what_was_asked_and_what_is_in_the_way(case: str) -> None:
    error, do, message, expected = CASES[case]
    refused = raised(do)
    assert type(refused) is error
    assert {name: getattr(refused, name) for name in COMMON} == dict.fromkeys(COMMON) | expected
    with pytest.raises(error, match=message):
        raise refused
    again = pickle.loads(pickle.dumps(refused))
    assert (str(again), data(again)) == (str(refused), data(refused))
