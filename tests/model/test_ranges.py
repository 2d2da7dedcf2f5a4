"""`AddressRange`: a base and a size that know their end."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from dbs_address_space import AddressRange, InvalidAddressRange
from hypothesis import given
from hypothesis import strategies as st

TOP = 2**64 - 1
RANGES = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda pair: AddressRange(*pair))


def test_a_range_is_a_tuple_with_names() -> None:
    window = AddressRange(0x1000, "8KiB")
    assert (window.base, window.size, window.end, window.last_addr) == (0x1000, 0x2000, 0x3000, 0x2FFF)
    base, size = window
    assert window == (base, size) == (0x1000, 0x2000)
    assert AddressRange(size=1, base=2) == (2, 1)
    assert len(window) == 2


def test_a_range_may_be_empty_and_end_at_the_last_address() -> None:
    assert (AddressRange(5, 0).last_addr, AddressRange(0, 0).last_addr) == (4, 0)
    assert 5 not in AddressRange(5, 0)
    assert AddressRange(TOP - 1, 1).end == TOP
    assert AddressRange(TOP, 0).end == TOP


@pytest.mark.parametrize(
    ("base", "size"),
    [(-1, 1), (0, -1), (2**64, 0), (0, 2**64), (TOP, 1), (1, TOP), (True, 1), (0, False), (0, "2GB")],
)
def test_numbers_that_no_range_has_are_refused(base: int, size: int) -> None:
    with pytest.raises(InvalidAddressRange):
        AddressRange(base, size)


@pytest.mark.parametrize(("base", "size"), [("0", 1), (1.0, 1), (0, 1.0), (None, 1), (0, None)], ids=repr)
def test_wrong_types_are_refused(base: Any, size: Any) -> None:
    with pytest.raises(TypeError):
        AddressRange(base, size)


def test_in_asks_for_an_address() -> None:
    window: Any = AddressRange(0x1000, 0x1000)
    assert [addr in window for addr in (0xFFF, 0x1000, 0x1FFF, 0x2000)] == [False, True, True, False]
    assert np.uint64(0x1800) in window
    for wrong in (-1, 2**64, True):
        with pytest.raises(InvalidAddressRange):
            _ = wrong in window
    for other in ("text", 1.5, None):
        with pytest.raises(TypeError):
            _ = other in window


@given(RANGES, RANGES)
def test_intersect_is_what_both_contain(one: AddressRange, other: AddressRange) -> None:
    common = [addr for addr in range(30) if addr in one and addr in other]
    intersection = one.intersect(other)
    assert intersection == other.intersect(one)
    assert [addr for addr in range(30) if intersection and addr in intersection] == common
    assert (intersection is None) == (not common)


def test_intersect_takes_any_pair() -> None:
    assert AddressRange(0, 8).intersect((4, 8)) == (4, 4)  # type: ignore[arg-type]
    for wrong in (5, None, (1,), (1, 2, 3)):
        with pytest.raises(TypeError):
            AddressRange(0, 8).intersect(wrong)  # type: ignore[arg-type]


def test_text_is_grouped_hex() -> None:
    assert str(AddressRange(0xC000_0000, 1 << 30)) == "[0xc000_0000, 0x1_0000_0000)"
    assert f"{AddressRange(0, 0)}" == "[0x0, 0x0)"
    assert repr(AddressRange(1, 2)) == "AddressRange(base=0x1, size=0x2)"


def test_ranges_are_values() -> None:
    window: Any = AddressRange(1, 2)
    for same in (AddressRange(1, 2), pickle.loads(pickle.dumps(window)), copy.copy(window), copy.deepcopy(window)):
        assert same == window
        assert type(same) is AddressRange
        assert hash(same) == hash(window)
    assert min(AddressRange(2, 1), AddressRange(1, 2), AddressRange(1, 1)) == (1, 1)
    with pytest.raises(AttributeError):
        window.base = 5


def test_ranges_match_patterns() -> None:
    match AddressRange(1, 2):
        case AddressRange(base, size=2):
            assert base == 1
        case _:
            pytest.fail("no match")


def test_a_replacement_is_checked_too() -> None:
    assert AddressRange(0, 4)._replace(base=2) == (2, 4)
    with pytest.raises(InvalidAddressRange):
        AddressRange(0, 4)._replace(size=-5)
