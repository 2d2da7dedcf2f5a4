"""A program ends well while daemon threads are in the middle of our verbs."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
RUNS = 50
PROGRAM = f"""
import random, sys, threading, time
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / "helpers")!r}]
from dbs_address_space import *
from dbs_address_space import tables
from verbs import VERBS

class Timer:
    def read(self, offset, size):
        return sum(range(offset & 0xfff))
    def write(self, offset, size, value):
        sum(range(offset & 0xfff))

class Client:
    def prepare(self, change):
        str(change)
    commit = rollback = prepare

DEVICE, HERE = 1 << 45, 1 << 19
regions = [
    AddressSpaceRegion("ram", 0, "1MiB", name="ram0"),
    AddressSpaceRegion("device", DEVICE, 4096, name="timer"),
]
space = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
space.attach_device("timer", Timer())
memory = space.map_memory()
base = space.snapshot()
region = base.regions[0]
plan = AddressSpaceBuilder(numa_regions=["4MiB"]).plan()

def change():
    base = random.randrange(1 << 40, 1 << 41, 4096)
    space.insert_region(AddressSpaceRegion("ram", base, 4096))
    space.remove_region(base)

def transact():
    with space.transaction() as transaction:
        transaction.replace_region(0, region.replace(prot_flags="rw-"))

def getters(object):
    return [getattr(object, name) for name in dir(object) if not callable(getattr(type(object), name))]

GROUPS = {{
    "queries": [
        lambda: space.ranges(), lambda: space.gaps(), lambda: space.prot_flags(0), lambda: space.numa_node_id(0),
        lambda: space.find_region(0), lambda: space.is_dax_region(0), lambda: space.overlapping(0, 4096),
        lambda: space.walk_regions(str), lambda: 0 in space, lambda: space["ram0"], lambda: list(space), lambda: str(space),
        lambda: list(reversed(space)), lambda: space.diff(base), lambda: space.snapshot(), lambda: space.find_free(4096),
        lambda: space.clients, lambda: space.reservations, lambda: repr(space), lambda: hash(base),
    ],
    "values": [
        lambda: getters(region), lambda: region.replace(name="a"), lambda: AddressRange(0, 1), lambda: plan.to_json(),
        lambda: getters(plan), lambda: AddressSpacePlan.from_json(plan.to_json()), lambda: str(plan), lambda: getters(space),
        lambda: AddressSpaceBuilder(numa_regions=["4MiB"]).plan(), lambda: tables.e820(space), lambda: repr(region),
    ],
    "errors": [
        lambda: memory.read(1 << 44, 8), lambda: space["nobody"], lambda: AddressRange(-1, 0), lambda: space.find_region(1 << 70),
        lambda: space.remove_region(3), lambda: AddressSpaceRegion("none", 0, 1), lambda: memory.dax_window(0),
    ],
    "dispatch": [lambda: space.dispatch(DEVICE + 128, 4), lambda: space.dispatch(DEVICE + 256, 4, 7)],
    "changes": [
        change, transact, lambda: space.subscribe(Client()).detach(), lambda: space.subscribe(print).detach(),
        lambda: space.reserve(4096, owner="me").release(), lambda: space.wait_for_change(base.generation, timeout=0.001),
    ],
    "verbs": [
        (lambda verb=verb: verb(memory, HERE, verb.fitting(4096))) for verb in VERBS
        if verb.name not in ("close", "__enter__", "__exit__")
    ],
}}

def loop(calls):
    while True:
        call = random.choice(calls)
        try:
            call()
        except (AddressSpaceError, BufferError):
            pass

for _ in range(3):
    threading.Thread(target=loop, args=(GROUPS[sys.argv[1]],), daemon=True).start()
time.sleep(0.03)
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", ["queries", "values", "errors", "dispatch", "changes", "verbs"])
def test_a_program_ends_in_the_middle_of(group: str) -> None:
    def run(_: int) -> tuple[int, str]:
        command = [sys.executable, "-c", PROGRAM, group]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return ended.returncode, ended.stderr

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(run, range(RUNS))) == {(0, "")}
