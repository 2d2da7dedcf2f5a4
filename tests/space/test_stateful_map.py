"""A model of the map in plain Python against `AddressSpace`: whatever is done to both, they agree, and snapshots stay."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from dbs_address_space import (
    AddressRange,
    AddressSpace,
    AddressSpaceBase,
    AddressSpaceError,
    AddressSpaceLayout,
    AddressSpaceRegion,
    DuplicateName,
    GenerationChanged,
    InvalidAddressRange,
    LayoutViolation,
    RegionOverlap,
    Transaction,
    UnmappedAddress,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

PAGE = 4096
RAM_PAGES, PAGES = 16, 24
WINDOW = 4
"""The page of RAM that is an MMIO window."""
LAYOUT = AddressSpaceLayout(PAGES * PAGE, 0, RAM_PAGES * PAGE, mmio_windows=[(WINDOW * PAGE, PAGE)])
ADDRESSES = range(0, (PAGES + 1) * PAGE, PAGE // 2)


@dataclass(frozen=True)
class Plain:
    """A region, as the model knows it."""

    region_type: str
    first: int
    pages: int
    name: str | None
    prot: str

    @property
    def end(self) -> int:
        return self.first + self.pages

    def made(self) -> AddressSpaceRegion:
        options: dict[str, Any] = {"prot_flags": self.prot} if self.region_type == "ram" else {}
        return AddressSpaceRegion(self.region_type, self.first * PAGE, self.pages * PAGE, name=self.name, **options)


State = tuple[Plain, ...]
"""The regions of a map, by ascending first page."""


def allowed(region: Plain) -> bool:
    if region.region_type == "ram":
        return region.end <= RAM_PAGES and not region.first <= WINDOW < region.end
    return region.first >= RAM_PAGES or (region.first, region.pages) == (WINDOW, 1)


def inserted(state: State, region: Plain) -> State | type[AddressSpaceError]:
    if region.end > PAGES or not allowed(region):
        return LayoutViolation
    if any(region.first < other.end and other.first < region.end for other in state):
        return RegionOverlap
    if region.name is not None and region.name in [other.name for other in state]:
        return DuplicateName
    return tuple(sorted((*state, region), key=lambda each: each.first))


def removed(state: State, first: int) -> State | type[AddressSpaceError]:
    if first not in [each.first for each in state]:
        return UnmappedAddress
    return tuple(each for each in state if each.first != first)


def renamed(state: State, first: int, name: str | None, prot: str) -> State | type[AddressSpaceError]:
    old = next((each for each in state if each.first == first), None)
    if old is None:
        return UnmappedAddress
    if name is not None and name in [each.name for each in state if each is not old]:
        return DuplicateName
    return tuple(replace(each, name=name, prot=prot) if each is old else each for each in state)


FIRSTS = st.integers(0, PAGES)
NAMES = st.sampled_from([None, None, "a", "b", "c"])
PROTS = st.sampled_from(["rw-", "r--", "---"])
REGIONS = st.builds(
    Plain,
    region_type=st.sampled_from(["ram", "ram", "device", "dax"]),
    first=st.integers(0, PAGES - 1),
    pages=st.integers(1, 4),
    name=NAMES,
    prot=PROTS,
)
CHANGES = st.one_of(
    st.tuples(st.just("insert"), REGIONS),
    st.tuples(st.just("remove"), FIRSTS),
    st.tuples(st.just("rename"), FIRSTS, NAMES, PROTS),
)
Verbs = AddressSpace | AddressSpaceBase | Transaction


def modelled(state: State, change: tuple[Any, ...]) -> State | type[AddressSpaceError]:
    verbs: dict[str, Callable[..., State | type[AddressSpaceError]]]
    verbs = {"insert": inserted, "remove": removed, "rename": renamed}
    return verbs[change[0]](state, *change[1:])


def done(target: Verbs, state: State, change: tuple[Any, ...]) -> AddressSpaceBase:
    """Does the same to the real thing."""
    match change:
        case ("insert", region):
            return target.insert_region(region.made())
        case ("remove", first):
            return target.remove_region(first * PAGE)
        case (_, first, name, prot):
            old = next((each for each in state if each.first == first), Plain("ram", first, 1, None, "rw-"))
            return target.replace_region(first * PAGE, replace(old, name=name, prot=prot).made())
        case _:
            raise AssertionError(change)


def check(map_: AddressSpace | AddressSpaceBase, state: State) -> None:
    """Everything that a map can be asked, against the model."""
    assert map_.regions == tuple(each.made() for each in state)
    assert len(map_) == len(state)
    for addr in ADDRESSES:
        holder = next((each for each in state if each.first * PAGE <= addr < each.end * PAGE), None)
        assert map_.find_region(addr) == (holder and holder.made())
        assert (addr in map_) == (holder is not None)
        assert map_.is_dax_region(addr) == (holder is not None and holder.region_type == "dax")
    for name in "abc":
        assert (name in map_) == (name in [each.name for each in state])
    free = [page for page in range(PAGES) if not any(each.first <= page < each.end for each in state)]
    assert [page for gap in map_.gaps() for page in range(gap.base // PAGE, gap.end // PAGE)] == free
    ram = {page for each in state if each.region_type == "ram" for page in range(each.first, each.end)}
    assert {page for each in map_.ranges("ram") for page in range(each.base // PAGE, each.end // PAGE)} == ram
    assert map_.ram_size == len(ram) * PAGE
    others = [each.end * PAGE - 1 for each in state if each.region_type != "dax"]
    assert map_.last_addr == max(others, default=0)


class Refused(Exception):
    """Ends the body of a transaction."""


class MapBesideModel(RuleBasedStateMachine):
    """The space, the model, and the snapshots that were taken on the way."""

    @initialize(mapped=st.booleans())
    def begin(self, *, mapped: bool) -> None:
        self.space = AddressSpace(LAYOUT)
        self.state: State = ()
        self.generation = 0
        self.kept: list[tuple[AddressSpaceBase, State, int]] = []
        if mapped:
            self.space.map_memory()

    def follow(self, published: AddressSpaceBase | None, state: State) -> None:
        self.state = state
        self.generation += 1
        assert published is not None
        assert published.generation == self.generation
        assert published is self.space.snapshot()

    @rule(change=CHANGES)
    def change(self, change: tuple[Any, ...]) -> None:
        outcome = modelled(self.state, change)
        if isinstance(outcome, tuple):
            self.follow(done(self.space, self.state, change), outcome)
        else:
            with pytest.raises(outcome) as refused:
                done(self.space, self.state, change)
            assert type(refused.value) is outcome

    @precondition(lambda self: self.state)
    @rule(data=st.data(), new_pages=st.integers(1, 4))
    def replace_by_another_size(self, data: st.DataObject, new_pages: int) -> None:
        old = data.draw(st.sampled_from(self.state))
        if new_pages != old.pages:
            with pytest.raises(InvalidAddressRange):
                self.space.replace_region(old.first * PAGE, replace(old, pages=new_pages).made())

    def stage(self, changes: list[tuple[Any, ...]], transaction: Transaction, fails: list[bool]) -> list[State]:
        """Stages changes in an open transaction, and on a detached base beside it; gives the states behind each."""
        states, base = [self.state], self.space.snapshot()
        for change, ends_here in zip(changes, fails, strict=False):
            outcome = modelled(states[-1], change)
            if isinstance(outcome, tuple):
                staged = done(transaction, states[-1], change)
                base = done(base, states[-1], change)
                assert staged == base
                check(staged, outcome)
                states.append(outcome)
            else:
                with pytest.raises(outcome):
                    done(transaction, states[-1], change)
            if ends_here:
                raise Refused
        assert self.space.snapshot().generation == self.generation
        return states

    @rule(
        changes=st.lists(CHANGES, max_size=5),
        fails=st.lists(st.sampled_from([False] * 9 + [True]), min_size=5, max_size=5),
    )
    def transact(self, changes: list[tuple[Any, ...]], fails: list[bool]) -> None:
        transaction = self.space.transaction(if_generation=self.generation)
        try:
            with transaction:
                states = self.stage(changes, transaction, fails)
        except Refused:
            assert transaction.published is None
            return
        if len(states) > 1:
            self.follow(transaction.published, states[-1])
        else:
            assert transaction.published is None

    @precondition(lambda self: self.generation)
    @rule(change=CHANGES)
    def transact_on_an_old_generation(self, change: tuple[Any, ...]) -> None:
        with pytest.raises(GenerationChanged), self.space.transaction(if_generation=self.generation - 1) as transaction:
            done(transaction, self.state, change)

    @rule()
    def keep_a_snapshot(self) -> None:
        self.kept.append((self.space.snapshot(), self.state, self.generation))

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def read_an_old_snapshot(self, data: st.DataObject) -> None:
        snapshot, state, generation = data.draw(st.sampled_from(self.kept))
        check(snapshot, state)
        assert snapshot.generation == generation
        difference = self.space.diff(snapshot)
        assert bool(difference) == (state != self.state)
        removed_ones = {each.base for each in difference.removed}
        kept = [each for each in self.space if each.base not in removed_ones]
        renamed_ones = dict(difference.replaced)
        after = [renamed_ones.get(each, each) for each in kept] + list(difference.added)
        assert tuple(sorted(after, key=lambda each: each.base)) == snapshot.regions

    @rule(addr=st.sampled_from(ADDRESSES), size=st.integers(0, 5 * PAGE))
    def ask_for_a_range(self, addr: int, size: int) -> None:
        asked = AddressRange(addr, size)
        overlapping = [each for each in self.space if asked.intersect(AddressRange(each.base, each.size))]
        assert list(self.space.overlapping(addr, size)) == overlapping

    @invariant()
    def agrees(self) -> None:
        check(self.space, self.state)
        assert self.space.generation == self.generation
        assert self.space.wait_for_change(self.generation, timeout=0) is None
        if self.space.is_mapped:
            with_memory = [each.made() for each in self.state if each.region_type != "device"]
            assert list(self.space.memory.regions) == with_memory


TestMap = MapBesideModel.TestCase
TestMap.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
