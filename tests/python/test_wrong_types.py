"""A value of a wrong type is refused in words that name the parameter, what it takes and what was given; nothing is changed."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceLayout,
    AddressSpacePlan,
    DirtyPages,
    InvalidArgument,
    InvalidPlan,
    NumaNode,
    NumaPolicy,
)
from memory_helpers import LAYOUT
from public_callables import Parameter, Signature, World, call, signatures


class Alien:
    """No parameter takes one."""


TAKEN: dict[str, str] = {
    "AbstractContextManager[object]": "context manager",
    "bool": r"\bbool\b",
    "str": r"\bstr\b",
    "SupportsIndex": r"\bint\b",
    "int": r"\bint\b",
    "float": "number",
    "_Address": r"\bint\b",
    "_Size": r"int or text",
    "_Target": "a region, its base or its name|an address, a name or a region",
    "_Protection": r"\bint\b",
    "_RegionType": "enum or a str",
    "_Source": "enum or a str",
    "_Path": "PathLike",
    "_File": r"an int",
    "_Window": "a pair of an address and a size",
    "_Ranges": "pairs",
    "Buffer": "bytes-like|buffer",
    "DTypeLike": "data type",
    "_Loadable": "a path, a binary file or bytes-like",
    "_ProgressFunction": "a function that takes a Progress",
    "_Client": "prepare",
    "_Handler": "has no method",
    "SupportsIndex | str": r"int or text|\bint\b|a region, its base",
    "str | bytes": "a str or bytes",
    "str | Machine": "a Machine or the name of one",
    "SupportsIndex | str | AddressSpaceRegion": "a region, its base or its name",
    "AddressRange": "tuple",
    "Literal[True]": r"\bbool\b",
}
"""The words of a refusal by annotation, or by its first part; a class that is not here stands for itself."""
ANYTHING = {"object", "_Answer", "_Class", "Any"}
AS_IO_HAS_THEM = {"GuestFile.readinto.buffer", "GuestFile.write.data"}
"""Refused in Python's words."""
OPERATORS = {"__getitem__", "__contains__"}
"""Whose parameters a user does not see."""
OURS_ALONE = {
    "checked_answer.what",
    "check_type.name",
    "DimmSlots.unplug.timeout",
    "GuestMemory.prealloc.progress",
}
"""Looked at only behind something that the cases have not."""


def is_named(parameter: Parameter) -> bool:
    return parameter.annotation.split(" | ")[0] not in ANYTHING


CASES = {
    f"{signature}.{parameter.name}": (signature, parameter)
    for signature in signatures()
    for parameter in signature.parameters
    if is_named(parameter) and f"{signature}.{parameter.name}" not in OURS_ALONE
}


def takes(annotation: str) -> str:
    annotation = annotation.removesuffix(" | None")
    first = annotation.split(" | ")[0]
    known = TAKEN.get(annotation, TAKEN.get(first))
    if known is not None:
        return known
    if first.startswith(("Literal['", 'Literal["')):
        return "str"
    if first.startswith(("Iterable", "Sequence")):
        return r"iterable|\bint\b"
    return "function|callable" if first.startswith("Callable") else re.split(r"\W", first)[0]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def refusal(world: World, signature: Signature, parameter: Parameter, value: object) -> BaseException:
    arguments = {**world.required(signature, but=parameter.name), parameter.name: value}
    function = world.callable(signature)
    with pytest.raises((TypeError, InvalidArgument)) as refused:
        call(function, signature, arguments)
    return refused.value


def told(error: BaseException) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_names_the_parameter_and_what_it_takes(world: World, case: str) -> None:
    signature, parameter = CASES[case]
    regions = len(world.space)
    text = told(refusal(world, signature, parameter, Alien()))
    assert "Alien" in text
    if case not in AS_IO_HAS_THEM:
        assert signature.name in OPERATORS or re.search(rf"\b{parameter.name}\b", text), text
        assert re.search(takes(parameter.annotation), text), text
    others = {one.name for one in signature.parameters} - {parameter.name}
    assert not re.search("|".join(rf"processing '{name}'" for name in others) or "$^", text), text
    assert len(world.space) == regions


ITEMS = {
    case: (signature, parameter)
    for case, (signature, parameter) in CASES.items()
    if parameter.annotation.startswith(("Iterable", "Sequence", "_Ranges"))
}


NESTED = ["in a list", "class in a list", "text", "in a list of lists", "in a tuple"]


@pytest.mark.parametrize("wrong", [[Alien()], [Alien], "x", [[Alien()]], [(0, 1, Alien())]], ids=NESTED)
@pytest.mark.parametrize("case", ITEMS)
def test_a_refusal_of_an_item_names_the_parameter(world: World, case: str, wrong: Any) -> None:
    signature, parameter = ITEMS[case]
    if wrong == "x" and " | str" in parameter.annotation:
        return
    assert re.search(rf"\b{parameter.name}\b", told(refusal(world, signature, parameter, wrong)))


def test_the_cases_are_nearly_all_there_are() -> None:
    assert len(CASES) >= 380
    assert len(ITEMS) >= 20


ONE: Any = 0
WINDOW: Any = (0xC000_0000, "1GiB")
THREE: Any = (1, 2, 3)
MESSAGES: dict[str, tuple[Callable[[], object], str]] = {
    "a node": (lambda: NumaNode(ONE), "an iterable of NumaNodeInfo, such as a tuple of one, is needed, not int"),
    "a node of a policy": (lambda: NumaPolicy("bind", ONE), "an iterable of ints"),
    "an address for a range": (lambda: DirtyPages([ONE]), "a pair of an address and a size.*, is needed, not int"),
    "one window": (lambda: AddressSpaceLayout(1 << 46, 0, 1, mmio_windows=WINDOW), "a pair of an address and a size"),
    "three for a pair": (lambda: DirtyPages([THREE]), "a pair .* is needed, not a tuple of 3"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_the_messages(case: str) -> None:
    do, message = MESSAGES[case]
    with pytest.raises((TypeError, InvalidArgument), match=message):
        do()


def test_a_space_is_a_map_where_a_map_is_asked_for() -> None:
    space = AddressSpace(LAYOUT)
    before = space.snapshot()
    assert not before.diff(space).added
    assert not space.diff(space).removed


def test_addresses_may_be_any_iterable_of_ints(world: World) -> None:
    world.memory.write_u64(0x20, 7)
    for addresses in ([0x20, 0x28], (0x20, 0x28), iter([0x20, 0x28]), range(0x20, 0x30, 8)):
        assert list(world.memory.read_many_u64(addresses)) == [7, 0]
    hosts, indexes = world.memory.translate([0x20, 1 << 40], missing="mark")
    assert (list(hosts), list(indexes)) == ([world.memory.host_address(0x20), 0], [0, -1])


def test_a_plan_is_not_null() -> None:
    with pytest.raises(InvalidPlan, match="a plan's JSON is an object, not null"):
        AddressSpacePlan.from_json("null")
