"""Every number that a caller gives goes through one converter: what is not a number in range is refused in the same way."""

import copy
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpaceBuilder,
    AddressSpacePlan,
    BackingOptions,
    Hotplug,
    InvalidArgument,
    InvalidPlan,
    NumaPolicy,
)
from memory_helpers import PAGE
from public_callables import Parameter, Signature, World, call, signatures

OUT_OF_RANGE: list[Any] = [True, -1, 1 << 64, 1 << 200, -(1 << 200)]
NOT_NUMBERS: list[Any] = [1.0, None, 1j, object()]
WRAPPED: dict[str, list[Callable[[object], object]]] = {
    "Iterable[SupportsIndex]": [lambda number: [number]],
    "Iterable[SupportsIndex] | str": [lambda number: [number]],
    "Sequence[SupportsIndex]": [lambda number: [number]],
    "Iterable[Iterable[SupportsIndex]]": [lambda number: [[number]]],
    "Iterable[SupportsIndex] | Buffer": [lambda number: [number]],
    "Iterable[NumaRegionInfo | _Size]": [lambda number: [number]],
    "Iterable[tuple[_Address, _Size]]": [lambda number: [(number, PAGE)], lambda number: [(0, number)]],
    "Iterable[tuple[_Address, Buffer]]": [lambda number: [(number, b"x")]],
    "Iterable[_Window]": [lambda number: [(number, PAGE)], lambda number: [(0, number)]],
    "Iterable[tuple[SupportsIndex, SupportsIndex | str]]": [
        lambda number: [(number, PAGE)],
        lambda number: [(0, number)],
    ],
    "_Ranges": [lambda number: [(number, 8)], lambda number: [(0, number)]],
    "_Window": [lambda number: (number, PAGE), lambda number: (0, number)],
}
"""How a parameter holds its numbers; every other annotation of a number is a number itself."""
PLAIN = ("SupportsIndex", "_Address", "_Size", "_Target", "_Protection", "int")
NONE_IS_FINE = {"AddressSpace.dispatch.value"}
"""Overloads of which another may be left out."""
ANY_INT = {"GuestFile.seek.offset", "GuestFile.read.size", "GuestFile.readline.size", "GuestFile.readlines.hint"} | {
    f"GuestMemory.write_i{bits}.value" for bits in (8, 16, 32, 64)
}
"""As `io` has them: from the end, to the end, and up to more than there is; and numbers with a sign."""


class BrokenError(Exception):
    """Raised by a number that can't say what it is."""


class Broken:
    def __index__(self) -> int:
        raise BrokenError


def wrappers(parameter: Parameter) -> list[Callable[[object], object]]:
    annotation = parameter.annotation.removesuffix(" | None")
    if annotation in WRAPPED:
        return WRAPPED[annotation]
    is_plain = any(part in PLAIN for part in annotation.split(" | "))
    return [lambda number: number] if is_plain else []


CASES = {
    f"{signature}.{parameter.name}{'' if not number else f'#{number}'}": (signature, parameter, wrap)
    for signature in signatures()
    for parameter in signature.parameters
    for number, wrap in enumerate(wrappers(parameter))
}


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def outcome(world: World, signature: Signature, parameter: Parameter, value: object) -> BaseException | None:
    arguments = {**world.required(signature, but=parameter.name), parameter.name: value}
    function = world.callable(signature)
    try:
        result = call(function, signature, arguments)
        if inspect.iscoroutine(result):
            result.close()
    except BaseException as error:  # noqa: BLE001  a panic is one, too
        return error
    return None


@pytest.mark.parametrize("case", CASES)
def test_a_number_is_refused_in_our_words(world: World, case: str) -> None:
    signature, parameter, wrap = CASES[case]
    found = {value: outcome(world, signature, parameter, wrap(value)) for value in OUT_OF_RANGE}
    if case in ANY_INT:
        assert not any(isinstance(error, ArithmeticError | MemoryError) for error in found.values())
        found = {True: found[True]}
    assert {value: error for value, error in found.items() if not isinstance(error, InvalidArgument)} == {}
    is_optional = "None" in parameter.annotation or case in NONE_IS_FINE
    for value in NOT_NUMBERS:
        error = outcome(world, signature, parameter, wrap(value))
        is_fine = error is None or isinstance(error, TypeError) or not isinstance(error, ArithmeticError)
        assert is_fine if value is None and is_optional else isinstance(error, TypeError | InvalidArgument), value
    assert isinstance(outcome(world, signature, parameter, wrap(Broken())), BrokenError)


SIZES = [
    case
    for case, (_, parameter, _) in CASES.items()
    if parameter.name.endswith(("size", "gap", "align", "alignment", "max_memory", "min_split", "dax_window"))
    and not case.startswith("GuestFile")
]


@pytest.mark.parametrize("case", SIZES)
def test_a_size_may_be_text(world: World, case: str) -> None:
    signature, parameter, wrap = CASES[case]
    for text in ("4 kib", "1M", "4096"):
        error = outcome(world, signature, parameter, wrap(text))
        assert not isinstance(error, TypeError)
        assert "is not a size" not in str(error)
    assert isinstance(outcome(world, signature, parameter, wrap("4 kb")), InvalidArgument)


ITERABLES = {
    f"{signature}.{parameter.name}": (signature, parameter)
    for signature in signatures()
    for parameter in signature.parameters
    if parameter.annotation.startswith(("Iterable", "_Ranges"))
}


@pytest.mark.parametrize("case", ITERABLES)
def test_what_may_be_any_iterable_may_be_used_up_once(world: World, case: str) -> None:
    signature, parameter = ITERABLES[case]
    assert not isinstance(outcome(world, signature, parameter, iter(())), TypeError)


def test_the_cases_are_all_there_are() -> None:
    assert len(CASES) >= 230
    annotations = {
        parameter.annotation for one in signatures() for parameter in one.parameters if not wrappers(parameter)
    }
    numbered = {text for text in annotations if any(word in text for word in PLAIN[:5])}
    assert numbered == set()


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a JSON text, those of lists and objects too."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def with_value(content: Any, path: tuple[Any, ...], value: object) -> Any:
    if not path:
        return value
    changed = copy.copy(content)
    changed[path[0]] = with_value(content[path[0]], path[1:], value)
    return changed


def test_a_plan_of_odd_json_is_an_invalid_plan_or_the_same() -> None:
    options = BackingOptions(policy=NumaPolicy("bind", [0]), alignment="2MiB")
    builder = AddressSpaceBuilder("q35", numa_regions=["1GiB"], hotplug=Hotplug("4GiB"), firmware=True, backing=options)
    plan = builder.plan()
    content = json.loads(plan.to_json())
    odd: list[Any] = [True, None, -1, 1 << 64, 1 << 200, 1.0, 1e300, "x", "\udc80", [], {}, [[]], {"x": 1}]
    for path in leaves(content):
        for value in odd:
            try:
                assert AddressSpacePlan.from_json(json.dumps(with_value(content, path, value))) is not None
            except InvalidPlan:
                continue
