"""Random plugging and unplugging with clients that fail at random: space, clients and /proc/self/maps agree after each step."""

import gc
import os
import re
from typing import Any

import unicorn
from dbs_address_space import (
    AddressSpace,
    AddressSpaceChange,
    AddressSpaceRegion,
    BackingError,
    ClientError,
    RegionOverlap,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kernel_view import maps_of
from memory_helpers import LAYOUT, PAGE, ram
from vhost_user_backend import KINDS, REPLY_ACK, Backend
from virtual_machines import Vm

SLOTS = 6
bases = st.integers(0, SLOTS - 1).map(lambda index: index * 4 * PAGE)
sizes = st.integers(1, 6).map(lambda pages: pages * PAGE)


class Mirror:
    """A client that keeps its own map, and fails where it is told to."""

    name = "mirror"

    def __init__(self) -> None:
        self.regions: dict[int, int] = {}
        self.fails = False
        self.prepared: AddressSpaceChange | None = None

    def prepare(self, change: AddressSpaceChange) -> None:
        assert self.prepared is None
        if self.fails:
            raise ValueError
        for region in change.added:
            assert change.mapping(region).size == region.size
        self.prepared = change

    def commit(self, change: AddressSpaceChange) -> None:
        assert self.prepared is change
        self.prepared = None
        for region in change.removed:
            del self.regions[region.base]
        for region in change.added:
            self.regions[region.base] = region.size

    def rollback(self, change: AddressSpaceChange) -> None:
        assert self.prepared is change
        self.prepared = None


class Clients(RuleBasedStateMachine):
    @initialize(kind=st.sampled_from(sorted(KINDS)))
    def begin(self, kind: str) -> None:
        self.name = f"stateful-{os.getpid()}-{id(self)}"
        self.model: dict[int, tuple[int, object]] = {}
        self.space = AddressSpace(LAYOUT)
        self.memory = self.space.map_memory()
        self.first, self.last = Mirror(), Mirror()
        self.backend = Backend(KINDS[kind], slots=4)
        self.vm = Vm()
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.space.subscribe(self.first)
        self.slots = self.space.attach_kvm(self.vm.fd, max_slots=5, dirty_log=True)
        self.vhost = self.space.attach_vhost_user(self.backend.front, timeout=20)
        self.engine = self.space.attach_unicorn(self.uc)
        self.space.subscribe(self.last)
        self.number = 0

    def region(self, base: int, size: int, writable: object) -> AddressSpaceRegion:
        self.number += 1
        return ram(base, size, name=f"{self.name}-{self.number}", prot_flags="rw-" if writable else "r--")

    def attempt(self, after: dict[int, tuple[int, object]], verb: Any) -> None:
        """Makes a change that must take place, or must be refused by someone and change nothing."""
        before = self.space.snapshot()
        try:
            verb()
        except (ClientError, BackingError, RegionOverlap):
            assert self.space.snapshot() is before
        else:
            self.model = after

    @rule(base=bases, size=sizes, writable=st.booleans(), refused=st.integers(0, 3).map(lambda number: number == 3))
    def plug(self, base: int, size: int, writable: object, refused: object) -> None:
        after = {**self.model, base: (size, writable)}
        can_refuse = (self.backend.protocol_features or 0) & REPLY_ACK  # else nobody would know
        self.backend.refuse = {5, 37} if refused and can_refuse else set()
        self.attempt(after, lambda: self.space.insert_region(self.region(base, size, writable)))
        self.backend.refuse.clear()

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def unplug(self, data: st.DataObject) -> None:
        base = data.draw(st.sampled_from(sorted(self.model)))
        after = {key: value for key, value in self.model.items() if key != base}
        self.attempt(after, lambda: self.space.remove_region(base))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), base=bases, size=sizes, writable=st.booleans())
    def exchange(self, data: st.DataObject, base: int, size: int, writable: object) -> None:
        old = data.draw(st.sampled_from(sorted(self.model)))
        after = {key: value for key, value in self.model.items() if key != old} | {base: (size, writable)}

        def exchange() -> None:
            with self.space.transaction() as change:
                change.remove_region(old)
                change.insert_region(self.region(base, size, writable))

        self.attempt(after, exchange)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), writable=st.booleans())
    def protect(self, data: st.DataObject, writable: object) -> None:
        base = data.draw(st.sampled_from(sorted(self.model)))
        old = self.space[base]
        after = {**self.model, base: (old.size, writable)}
        new = old.replace(prot_flags="rw-" if writable else "r--")
        self.attempt(after, lambda: self.space.replace_region(old, new))

    @rule(who=st.sampled_from(["first", "last"]), fails=st.booleans())
    def fail(self, who: str, fails: object) -> None:
        getattr(self, who).fails = fails

    @rule()
    def close_and_map_again(self) -> None:
        snapshot = self.space.snapshot()
        self.first.fails = self.last.fails = False
        self.memory.close()
        assert self.first.regions == self.last.regions == {}
        assert self.slots.base_to_slot == {}
        assert not maps_of(f"memfd:{self.name}")
        self.memory = self.space.map_memory()
        assert self.space.snapshot() is snapshot

    @invariant()
    def all_agree(self) -> None:
        if not hasattr(self, "space"):
            return
        sizes = {base: size for base, (size, _) in self.model.items()}
        assert {region.base: region.size for region in self.space} == sizes
        assert self.first.regions == self.last.regions == sizes
        assert set(self.slots.base_to_slot) == set(sizes)
        assert self.vhost.table == self.memory.vhost_user_regions()
        assert [entry[:4] for entry in self.vhost.table] == [entry[:4] for entry in sorted(self.backend.table.values())]
        protections = {base: 7 if writable else 5 for base, (_, writable) in self.model.items()}
        assert {begin: protection for begin, _, protection in self.uc.mem_regions()} == protections
        assert {begin: end + 1 - begin for begin, end, _ in self.uc.mem_regions()} == sizes
        lines = maps_of(f"memfd:{self.name}")
        assert sorted(int(line.split("-")[0], 16) for line in lines) == sorted(
            self.memory.host_address(base) for base in sizes
        )
        assert all(subscription.error is None for subscription in (self.slots, self.vhost))
        assert len(self.space.clients) == 5

    def teardown(self) -> None:
        if not hasattr(self, "space"):
            return
        self.slots.detach()
        self.vhost.detach()
        self.engine.detach()
        assert not list(self.uc.mem_regions())
        assert self.backend.table == {}
        self.vm.close()
        self.backend.close()
        del self.memory, self.space, self.slots, self.vhost, self.engine
        gc.collect()
        assert not re.search(f"memfd:{self.name}", "".join(maps_of("memfd:stateful")))


TestClients = Clients.TestCase
TestClients.settings = settings(max_examples=25, stateful_step_count=20, deadline=None, report_multiple_bugs=False)
