"""Wrong arguments: one converter for every int, one class for each kind of refusal, all of them an `InvalidArgument`."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceError,
    AddressSpaceRegion,
    BackingOptions,
    BytePattern,
    DimmSlots,
    DirtyPages,
    GuestMemory,
    Hotplug,
    InvalidAddressRange,
    InvalidArgument,
    InvalidMemorySourceType,
    InvalidRegionType,
    Machine,
    MemoryBlocks,
    NumaPolicy,
    Prot,
)
from memory_helpers import LAYOUT, MIB, PAGE, WINDOW, mapped, ram

ROOT = Path(__file__).parents[2]


@pytest.fixture
def memory() -> GuestMemory:
    return mapped(ram(0, 4 * MIB, name="low"), AddressSpaceRegion.create_device_region(WINDOW, PAGE, name="uart"))[1]


class Device:
    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        pass


TEXTS: dict[str, Callable[[GuestMemory], object]] = {
    "order": lambda memory: memory.load(0, order="sequential"),
    "holes": lambda memory: memory.open(holes="skip"),
    "mode": lambda memory: memory.open("wb"),
    "threads": lambda memory: memory.prealloc(threads=0),
    "background": lambda memory: memory.prealloc(background=True, progress=print),  # type: ignore[call-overload]
    "algorithm": lambda memory: memory.hash(0, 1, algorithm="rot13"),
    "digest without length": lambda memory: memory.hash(0, 1, algorithm="shake_128"),
    "missing": lambda memory: memory.translate(memoryview(bytearray(8)).cast("Q"), missing="skip"),
    "timeout": lambda _: space().remove_region(0, timeout=-1.0),
    "timeout that is not a number": lambda _: space().remove_region(0, timeout=float("nan")),
    "timeout that is a bool": lambda _: space().remove_region(0, timeout=True),
    "seal": lambda _: BackingOptions(seals=["write"]),
    "policy": lambda _: NumaPolicy("local"),
    "node list": lambda _: NumaPolicy("bind", "0-"),
    "pattern": lambda _: BytePattern("4z"),
    "machine": lambda _: Machine.named("bochs"),
    "arch": lambda _: Machine.named("pc", arch="mips"),
    "allocator": lambda _: space().find_free(PAGE, policy="worst"),
    "name": lambda _: ram(0, name="\n"),
    "protection": lambda _: Prot.parse("wr"),
    "strides": lambda memory: memory.array(0, (2, 2), "u1", strides=(1,)),
    "whence": lambda memory: memory.open().seek(0, 7),
    "contradiction": lambda _: ram(0, is_mergeable=True, backing=BackingOptions(ksm=False)),
    "not a DAX window": lambda memory: memory.dax_window(0),
    "needle": lambda memory: memory.search(b""),
}
NUMBERS: dict[str, Callable[[GuestMemory, Any], object]] = {
    "addr": lambda memory, number: memory.read(number, 1),
    "size": lambda memory, number: memory.read(0, number),
    "value": lambda memory, number: memory.write_u16(0, number),
    "operand": lambda memory, number: memory.fetch_add(0, number, 4),
    "byte": lambda memory, number: memory.fill(0, 1, number),
    "pad": lambda memory, number: memory.read(8 * MIB, 1, pad=number),
    "align": lambda memory, number: memory.search(b"x", align=number),
    "limit": lambda memory, number: memory.search(b"x", limit=number),
    "threads": lambda memory, number: memory.prealloc(threads=number),
    "shape": lambda memory, number: memory.array(0, number, "u1"),
    "shape of several": lambda memory, number: memory.array(0, (1, number), "u1"),
    "strides": lambda memory, number: memory.array(0, (1,), "u1", strides=(number,)),
    "addresses": lambda memory, number: memory.readv([(number, 1)]),
    "base": lambda _, number: ram(number),
    "node": lambda _, number: ram(0, host_numa_node_id=number),
    "flags": lambda _, number: ram(0, perm_flags=number),
    "protection": lambda _, number: ram(0, prot_flags=number),
    "descriptor": lambda _, number: ram(0, file=number),
    "kvm descriptor": lambda _, number: space().attach_kvm(number),
    "kvm slot": lambda memory, number: space().attach_kvm(0, first_slot=number),
    "widths": lambda _, number: space().attach_device("uart", Device(), widths=(number,)),
    "dispatched value": lambda _, number: with_device().dispatch(WINDOW, 1, number),
    "dispatched size": lambda _, number: with_device().dispatch(WINDOW, number),
    "generation": lambda _, number: space().wait_for_change(number, 0),
    "phys_bits": lambda _, number: Machine.named("pc", phys_bits=number),
    "slots": lambda _, number: Hotplug("1GiB", slots=number),
    "nodes": lambda _, number: NumaPolicy("bind", [number]),
    "dirty ranges": lambda _, number: DirtyPages([(number, PAGE)]),
    "page size": lambda _, number: DirtyPages(page_size=number),
    "dimm slots": lambda _, number: DimmSlots(with_window(), slots=number, size="1GiB"),
    "dimm size": lambda _, number: DimmSlots(with_window(), slots=1, size=number),
    "block offset": lambda memory, number: MemoryBlocks(memory, 0).plug(number, 2 * MIB),
    "block size": lambda memory, number: MemoryBlocks(memory, 0).plug(0, number),
}


def space() -> AddressSpace:
    uart = AddressSpaceRegion.create_device_region(WINDOW, PAGE, name="uart")
    return AddressSpace.from_regions([ram(0), uart], LAYOUT)


def with_device() -> AddressSpace:
    with_uart = space()
    with_uart.attach_device("uart", Device())
    return with_uart


def with_window() -> AddressSpace:
    hotplug = space()
    hotplug.reserve("1GiB", owner="hotplug")
    return hotplug


@pytest.mark.parametrize("case", TEXTS)
def test_a_wrong_argument_is_an_invalid_argument(case: str, memory: GuestMemory) -> None:
    with pytest.raises(InvalidArgument) as refused:
        TEXTS[case](memory)
    assert type(refused.value) is InvalidArgument
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("number", [-1, True, 1 << 64, -(1 << 100)], ids=["-1", "True", "2^64", "-2^100"])
@pytest.mark.parametrize("case", NUMBERS)
def test_a_wrong_number_is_an_invalid_address_range(case: str, number: int, memory: GuestMemory) -> None:
    with pytest.raises(InvalidAddressRange, match=r"out of range|a bool|does not fit|past 2\^64 - 1"):
        NUMBERS[case](memory, number)


@pytest.mark.parametrize("case", NUMBERS)
def test_a_number_is_not_a_float(case: str, memory: GuestMemory) -> None:
    with pytest.raises(TypeError):
        NUMBERS[case](memory, 1.5)


def test_types_have_classes_of_their_own() -> None:
    for error, refuse in (
        (InvalidRegionType, lambda: AddressSpaceRegion("rom", 0, PAGE)),
        (InvalidRegionType, lambda: space().attach_device(0, Device())),
        (InvalidMemorySourceType, lambda: ram(0, mem_type="file")),
    ):
        with pytest.raises(InvalidArgument) as refused:
            refuse()
        assert type(refused.value) is error
        assert isinstance(refused.value, AddressSpaceError)


# The guards.

RAW = re.compile(r"\b(?:u8|u16|u32|u64|u128|usize|i8|i16|i32|i64|i128|isize|f32|f64|c_int|RawFd)\b")
ASKED = {"__getbuffer__"}
"""Methods that Python itself calls with a number."""


def blocks(text: str, opening: re.Pattern[str]) -> Iterator[str]:
    """The text in the braces behind each `opening`."""
    for match in opening.finditer(text):
        depth, start = 1, match.end()
        for end in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                yield text[start:end]
                break


def parameters(text: str) -> Iterator[tuple[str, str]]:
    """The name of each function that Python can call, and the types of its parameters."""
    methods = blocks(text, re.compile(r"#\[pymethods\]\s*impl [^{]*\{"))
    functions = re.findall(r"#\[pyfunction\](?:\s*#\[[^\n]*\n)*\s*pub fn [^{]*\{", text)
    for code in (*methods, *functions):
        for name, start in ((match[1], match.end()) for match in re.finditer(r"\bfn (\w+|\$\w+)(?:<[^(]*>)?\(", code)):
            depth, end = 1, start
            while depth:
                depth += {"(": 1, ")": -1}.get(code[end], 0)
                end += 1
            yield name, code[start : end - 1]


def raw_numbers(text: str) -> list[str]:
    """The functions that let PyO3 convert a number."""
    without_comments_and_bytes = re.sub(r"//[^\n]*|&\[u8\]", "", text)
    return [name for name, types in parameters(without_comments_and_bytes) if RAW.search(types) and name not in ASKED]


def sources() -> dict[str, str]:
    return {str(path): path.read_text() for path in sorted((ROOT / "src" / "python").rglob("*.rs"))}


def test_no_method_lets_pyo3_convert_a_number() -> None:
    assert {path: found for path, text in sources().items() if (found := raw_numbers(text))} == {}
    scanned = [parameter for text in sources().values() for parameter in parameters(text)]
    assert len(scanned) >= 300
    assert sum("Address" in types or "Size" in types for _, types in scanned) >= 60


@pytest.mark.parametrize(
    "signature",
    [
        "fn f(&self, threads: Option<usize>) -> PyResult<()> {}",
        "fn f(\n        widths: Vec<u64>,\n    ) {}",
        "fn f<'py>(&self, pair: (Address, i32)) {}",
        "fn f(timeout: f64) {}",
        "fn f(fds: Vec<RawFd>) {}",
    ],
)
def test_the_guard_complains(signature: str) -> None:
    assert raw_numbers(f"#[pymethods]\nimpl PyMemory {{ {signature} }}") == ["f"]


def test_the_guard_is_silent() -> None:
    assert (
        raw_numbers("#[pymethods]\nimpl A { fn f(&self, addr: Address) -> u64 {} }\nimpl A { fn g(x: u64) {} }") == []
    )


def test_every_value_error_of_ours_is_an_error_of_this_package() -> None:
    bare = re.compile(
        r"Py(?:Value|Overflow|Key|Index)Error::new_err|^\s*raise (?:Value|Overflow|Key|Index)Error", re.MULTILINE
    )
    python = (ROOT / "python" / "dbs_address_space").rglob("*.py")
    texts = {**sources(), **{str(path): path.read_text() for path in python}}
    found = {Path(path).name: bare.findall(text) for path, text in texts.items() if bare.search(text)}
    # Python's own rule: `len()` above `sys.maxsize`.
    assert found == {"region.rs": ["PyOverflowError::new_err"]}
    assert len(texts) >= 50
