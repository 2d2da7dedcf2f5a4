"""DirtyPages against a set of page numbers."""

import pickle
import textwrap
from itertools import pairwise

import pytest
from children import run_python
from dbs_address_space import AddressRange, DirtyPages, InvalidAddressRange, Misaligned
from hypothesis import given
from hypothesis import strategies as st
from memory_helpers import PAGE

page_numbers = st.sets(st.one_of(st.integers(0, 200), st.integers(2**52 - 70, 2**52 - 2)), max_size=60)


def make(numbers: set[int], source: str = "kvm") -> DirtyPages:
    return DirtyPages([(number * PAGE, PAGE) for number in numbers], sources=[source])


def numbers_of(pages: DirtyPages) -> set[int]:
    return {page for base, size in pages for page in range(base // PAGE, (base + size) // PAGE)}


@given(page_numbers, page_numbers)
def test_it_is_a_set_of_pages(left: set[int], right: set[int]) -> None:
    mine, theirs = make(left), make(right)
    assert numbers_of(mine) == left
    assert (mine.count, mine.size, bool(mine)) == (len(left), len(left) * PAGE, bool(left))
    for combined, expected in (
        (mine | theirs, left | right),
        (mine & theirs, left & right),
        (mine - theirs, left - right),
    ):
        assert numbers_of(combined) == expected
        assert combined == make(expected)
        assert hash(combined) == hash(make(expected))
    assert all(number * PAGE + 5 in mine for number in left)
    assert not any(number * PAGE in mine for number in right - left)
    assert pickle.loads(pickle.dumps(mine)) == mine
    assert (mine == theirs) == (left == right)


@given(page_numbers, st.integers(0, 150), st.integers(0, 150))
def test_its_bitmap_has_a_bool_for_each_page(numbers: set[int], first: int, count: int) -> None:
    bitmap = make(numbers).bitmap(first * PAGE, count * PAGE)
    assert bitmap.dtype == bool
    assert bitmap.tolist() == [page in numbers for page in range(first, first + count)]


@given(page_numbers, st.integers(0, 8))
def test_ranges_do_not_touch_and_coalescing_fills_the_gaps(numbers: set[int], gap: int) -> None:
    pages = make(numbers)
    ranges = list(pages)
    assert len(pages) == len(ranges)
    assert all(low.end < high.base for low, high in pairwise(ranges))
    together = pages.coalesce(gap * PAGE)
    expected: list[AddressRange] = []
    for current in ranges:
        if expected and current.base - expected[-1].end <= gap * PAGE:
            expected[-1] = AddressRange(expected[-1].base, current.end - expected[-1].base)
        else:
            expected.append(current)
    assert list(together) == expected


def test_what_it_refuses_and_shows() -> None:
    pages = DirtyPages([(0, 2 * PAGE), (PAGE, 3 * PAGE)], sources=["write", "kvm", "kvm"])
    assert (pages.count, pages.sources, pages.page_size) == (4, ("kvm", "write"), PAGE)
    assert repr(pages) == "DirtyPages(4 pages of 0x1000 bytes in 1 ranges from kvm+write)"
    assert (pages | make(set(), "uffd")).sources == ("kvm", "uffd", "write")
    with pytest.raises(InvalidAddressRange, match="can't be combined"):
        pages | DirtyPages(page_size="2MiB")
    with pytest.raises(Misaligned):
        DirtyPages([(1, PAGE)])
    with pytest.raises(InvalidAddressRange, match="power of two"):
        DirtyPages(page_size=3000)
    with pytest.raises(TypeError):
        pages | 3  # type: ignore[operator]


def test_a_set_that_is_given_as_ranges_stays_ranges() -> None:
    script = """
        import resource
        from dbs_address_space import DirtyPages
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        whole = DirtyPages([(0, 1 << 62)])
        cut = whole - DirtyPages([(1 << 40, 4096)])
        assert (whole.count, cut.count, len(cut)) == (1 << 50, (1 << 50) - 1, 2), cut
        assert cut | DirtyPages([(1 << 40, 4096)]) == whole
        assert cut.bitmap((1 << 40) - 4096, 3 * 4096).tolist() == [True, False, True]
        for size in (1 << 45, 1 << 56):
            try:
                whole.bitmap(0, size)
            except MemoryError as error:
                print("refused", error)
    """
    assert run_python(textwrap.dedent(script)).count("refused") == 2
