"""Followers: the same bytes and the same changes in other processes, whatever becomes of any of them."""

import errno
import gc
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from children import finish_child, fork, in_child, run_python, start_child
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceChange,
    AddressSpaceError,
    AddressSpaceRegion,
    BackingError,
    ClientError,
    ForkedProcess,
    InvalidArgument,
    NotMapped,
    RegionBusy,
    Share,
    ShareError,
    UnmappedAddress,
    Unsupported,
)
from followers import Followers, followers, held
from host import require
from interrupts import interrupted
from kernel_view import descriptors, resident
from memory_helpers import LAYOUT, MIB, PAGE, WINDOW, mapped, ram
from threads import until

HIGH, DIMM = 64 * MIB, 128 * MIB
CHANGES_IN_A_ROW = int(os.environ.get("CHANGES", "1000"))
PAIRS = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET]


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    return [
        ram(0, MIB, name="low"),
        ram(HIGH, MIB, name="high"),
        AddressSpaceRegion("device", WINDOW, PAGE, name="uart"),
    ]


def rows(space: AddressSpace) -> list[tuple[Any, ...]]:
    """The regions, without what says where a process has their bytes."""
    return [(r.name, r.region_type, r.base, r.size, r.prot_flags, r.is_hotplug) for r in space.regions]


ROWS = "[(r.name, r.region_type, r.base, r.size, r.prot_flags, r.is_hotplug) for r in space.regions]"


@pytest.mark.parametrize("kind", PAIRS)
def test_a_follower_shows_what_the_leader_has(space: AddressSpace, kind: int) -> None:
    memory = space.map_memory()
    memory.write(0, b"before")
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs, space.share(ours) as share, AddressSpace.attach(theirs) as follower:
        assert rows(follower) == rows(space)
        assert follower.layout == space.layout
        assert (follower.is_follower, follower.leader, space.is_follower) == (True, os.getpid(), False)
        assert follower.memory.read(0, 6) == b"before"
        follower.memory.store(HIGH, 77)
        assert memory.load(HIGH) == 77
        assert not follower.memory.mapping(0).guarded
        (known,) = share.followers
        assert (known.pid, known.uid, known.writable, known.leases) == (os.getpid(), os.getuid(), True, ())
        space.insert_region(ram(DIMM, MIB, name="dimm", is_hotplug=True))
        memory.write(DIMM, b"plugged")
        assert follower.memory.read(DIMM, 7) == b"plugged"
        assert rows(follower) == rows(space)
        assert follower.generation == space.generation == share.followers[0].generation
        space.remove_region("dimm")
        assert "dimm" not in follower
    assert follower.leader is None


def test_every_change_is_followed(space: AddressSpace) -> None:
    memory = space.map_memory()
    with followers(space, 2) as (_, both):

        def check() -> None:
            for follower in both:
                assert follower.ask(ROWS) == rows(space)
                assert follower.ask("space.generation") == space.generation
                for region in memory.regions:
                    assert follower.ask(f"space.memory.read({region.base}, 8)") == memory.read(region.base, 8)

        for region in memory.regions:
            for page in range(region.base, region.end, PAGE):
                memory.write_u64(page, page | 1)
        check()
        space.split_region("low", 64 * PAGE)
        check()
        space.join_regions("low", 64 * PAGE)
        check()
        space.split_region("high", HIGH + 64 * PAGE)
        space.move_region(HIGH + 64 * PAGE, DIMM)
        check()
        assert memory.read_u64(DIMM) == HIGH + 64 * PAGE | 1
        space.replace_region("low", space["low"].replace(name="renamed", prot_flags="r--"))
        check()
        with space.transaction() as change:
            change.remove_region("renamed")
            change.insert_region(ram(0, 2 * MIB, name="larger"))
            change.remove_region("uart")
        check()
        with pytest.raises(AssertionError):
            assert both[0].ask(ROWS) == []


def any_change(space: AddressSpace, numbers: random.Random) -> None:
    """Makes a change that may be refused, as for a place that is taken or parts that were never one."""
    region = numbers.choice(space.memory.regions or [None])
    free = numbers.randrange(64) * 4 * PAGE
    match numbers.randrange(6):
        case 0 | 1:
            space.insert_region(ram(free, numbers.choice([1, 2, 4]) * PAGE, prot_flags=numbers.choice(["rw-", "r--"])))
        case _ if region is None:
            return
        case 2:
            space.remove_region(region)
        case 3:
            space.split_region(region, region.base + numbers.randrange(4) * PAGE)
        case 4:
            space.move_region(region, free)
        case 5:
            behind = space.find_region(region.end)
            if behind:
                space.join_regions(region, behind)
            else:
                space.replace_region(region, region.replace(name=f"n{numbers.random()}"))


@pytest.mark.parametrize("seed", range(3))
def test_followers_never_drift(space: AddressSpace, seed: int) -> None:
    numbers = random.Random(seed)
    for region in space:
        space.remove_region(region)
    memory = space.map_memory()
    done = 0
    with followers(space, 2) as (_, both):
        for _ in range(60):
            with suppress(AddressSpaceError):
                any_change(space, numbers)
                done += 1
            written = [region for region in memory.regions if region.prot_flags == 3]
            for region in written[:3]:
                writer = numbers.choice([*both, None])
                value = numbers.randrange(1 << 64)
                if writer:
                    writer.run(f"space.memory.write_u64({region.base}, {value})")
                else:
                    memory.write_u64(region.base, value)
            pages = [page for region in memory.regions for page in range(region.base, region.end, PAGE)]
            shown = [memory.read_u64(page) for page in pages]
            for follower in both:
                assert follower.ask(f"({ROWS}, space.generation)") == (rows(space), space.generation)
                assert follower.ask(f"[space.memory.read_u64(page) for page in {pages}]") == shown
    assert done > 20


@pytest.mark.timeout(1200)
def test_many_changes_leave_nothing_behind(space: AddressSpace) -> None:
    space.map_memory()
    with followers(space, 3) as (share, all_three):
        numbers = random.Random(4)
        present: list[int] = []

        def change_some(count: int) -> None:
            for _ in range(count):
                base = DIMM + numbers.randrange(8) * MIB
                if base in present:
                    present.remove(base)
                    space.remove_region(base)
                else:
                    present.append(base)
                    space.insert_region(ram(base, MIB))
            for base in present:
                space.remove_region(base)
            present.clear()

        def all_of(what: str, here: int | tuple[int, int, int]) -> list[Any]:
            return [here, *(follower.ask(what) for follower in all_three)]

        change_some(200)
        before, sizes = all_of("held()", held()), all_of("resident()", resident())
        change_some(CHANGES_IN_A_ROW)
        assert all_of("held()", held()) == before
        for size, grown in zip(sizes, all_of("resident()", resident()), strict=True):
            assert grown <= size + MIB
        assert [follower.generation for follower in share.followers] == [space.generation] * 3


def test_seventy_memories_come_in_several_messages(space: AddressSpace) -> None:
    memory = space.map_memory()
    for number in range(70):
        space.insert_region(ram(DIMM + number * PAGE, PAGE))
        memory.write_u64(DIMM + number * PAGE, number)
    with followers(space) as (_, [follower]):
        found = follower.ask(f"[space.memory.read_u64({DIMM} + number * {PAGE}) for number in range(70)]")
        assert found == list(range(70))


def threads() -> list[str]:
    """The names of the threads of this process, as the kernel has them."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):
            names.append((task / "comm").read_text().strip())
    return names


def test_followers_that_were_let_go_keep_what_no_space_shows() -> None:
    space, memory = mapped(ram(0, 2 * MIB))
    memory.fill(0, 2 * MIB, 7)
    other, others = mapped(ram(DIMM, MIB))
    with memory.part(0, MIB) as part:
        other.insert_region(part.region(0))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        share, follower = space.share(ours), AddressSpace.attach(theirs)
        del space, memory, share
        gc.collect()
        until_alone(follower)
        # Whose thread may be the last to have the space.
        while "dbs-share" in threads():
            time.sleep(0.001)
        assert follower.memory.read(0, 2 * MIB) == others.read(0, MIB) * 2 == b"\7" * 2 * MIB
        follower.close()


def test_parts_that_a_follower_found_apart_are_joined(space: AddressSpace) -> None:
    memory = space.map_memory()
    space.split_region("low", MIB // 2)
    with followers(space) as (_, [follower]):
        follower.run(f"view = space.memory.view({MIB // 2}, 8)")
        space.join_regions("low", MIB // 2)
        memory.write(MIB // 2 - 4, b"together")
        assert follower.ask(f"(bytes(view[:4]), bytes(space.memory.view({MIB // 2 - 4}, 8)))") == (b"ther", b"together")
        # What was taken of a part is of the whole.
        with pytest.raises(RegionBusy, match=f"process {follower.pid}"):
            space.remove_region("low")
        assert follower.ask(ROWS) == rows(space)


# Vetoes.


def test_a_view_in_a_follower_vetoes_until_it_is_gone(space: AddressSpace) -> None:
    space.map_memory()
    with followers(space, 2) as (share, [one, other]):
        one.run("view = space.memory.view(0x100, 16)")
        before = rows(space)
        with pytest.raises(RegionBusy, match=f"process {one.pid}") as raised:
            space.remove_region("low")
        (lease,) = raised.value.leases
        assert (lease.what, lease.address, lease.size, lease.pid) == ("view", 0x100, 16, one.pid)
        assert raised.value.region == space["low"]
        assert share.followers[0].leases == (lease,)
        # Nothing has changed anywhere, and all of it may be used.
        for follower in (one, other):
            assert follower.ask(ROWS) == before == rows(space)
            follower.run("space.memory.write(0x100, b'used')")
        assert space.memory.read(0x100, 4) == b"used"
        with pytest.raises(RegionBusy):
            space.replace_region("low", space["low"].replace(prot_flags="r--"))
        # What leaves is waited for.
        removal = threading.Thread(target=space.remove_region, args=("low",), kwargs={"timeout": 60})
        removal.start()
        one.run("view.release()")
        removal.join(60)
        assert "low" not in space
        assert not one.ask("'low' in space")
        assert not share.followers[0].leases


def test_a_client_in_a_follower_vetoes(space: AddressSpace) -> None:
    space.map_memory()
    with followers(space, 2) as (_, [one, other]):
        one.run(
            "class Never:\n"
            "    def prepare(self, change):\n"
            "        if change.before.regions: raise ValueError('not here')\n"
            "    def commit(self, change): pass\n"
            "    def rollback(self, change): pass\n"
            "never = space.subscribe(Never())\n"
        )
        with pytest.raises(ClientError, match=f"follower {one.pid} refused the change: .*not here"):
            space.insert_region(ram(DIMM, MIB))
        assert DIMM not in space
        assert not other.ask(f"{DIMM} in space")
        one.run("never.detach()")
        space.insert_region(ram(DIMM, MIB))
        assert other.ask(f"{DIMM} in space")


def test_a_follower_changes_nothing(space: AddressSpace) -> None:
    space.map_memory()
    with followers(space) as (_, [follower]):
        for change in (
            "space.insert_region(space[0])",
            "space.remove_region('low')",
            "space.replace_region('low', space[0])",
            "space.split_region('low', 4096)",
            "space.transaction()",
            "space.reserve(4096, owner='me')",
            "space.request_unplug('low')",
        ):
            with pytest.raises(Unsupported, match=f"follows that of process {os.getpid()}") as raised:
                follower.run(f"with {change}: pass" if "transaction" in change else change)
            assert raised.value.feature == "changes of a follower"
        assert follower.ask("space.map_memory() is space.memory")
        assert follower.ask(ROWS) == rows(space)


# Deaths.

SUICIDE = """
import os, signal
class Suicide:
    def die(self, phase):
        if phase == {phase!r}: os.kill(os.getpid(), signal.SIGKILL)
    def prepare(self, change):
        if change.before.regions:
            self.die('prepare')
            if {phase!r} == 'rollback': raise ValueError
    def commit(self, change):
        if change.before.regions: self.die('commit')
    def rollback(self, change): self.die('rollback')
space.subscribe(Suicide())
"""
CHANGES = {
    "insert": lambda space: space.insert_region(ram(DIMM, MIB)),
    "remove": lambda space: space.remove_region("high"),
    "move": lambda space: space.move_region("high", DIMM),
    "cut": lambda space: space.split_region("high", HIGH + PAGE),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("phase", ["prepare", "commit"])
def test_a_follower_that_is_killed_is_in_nobodys_way(space: AddressSpace, phase: str, change: str) -> None:
    memory = space.map_memory()
    memory.write(HIGH, b"kept")
    with followers(space, 2) as (share, [victim, other]):
        victim.run(SUICIDE.format(phase=phase))
        CHANGES[change](space)
        assert [follower.pid for follower in share.followers] == [other.pid]
        assert other.ask(ROWS) == rows(space)
        assert other.ask("space.generation") == space.generation == 1


@pytest.mark.parametrize("change", CHANGES)
def test_a_stopped_follower_changes_nothing_and_goes_on_later(space: AddressSpace, change: str) -> None:
    space.map_memory()
    with followers(space, 2, timeout=0.2) as (share, [stopped, other]):
        before = rows(space)
        stopped.stop()
        try:
            with pytest.raises(ClientError, match=f"no answer from follower {stopped.pid} within 0.2 s"):
                CHANGES[change](space)
            assert rows(space) == before == other.ask(ROWS)
        finally:
            stopped.signal(signal.SIGCONT)
        assert stopped.ask(ROWS) == before
        CHANGES[change](space)
        for follower in (stopped, other):
            assert follower.ask(ROWS) == rows(space) != before
        assert len(share.followers) == 2


def test_a_stopped_follower_can_be_dropped(space: AddressSpace) -> None:
    space.map_memory()
    with followers(space, 1, timeout=0.1) as (share, [stopped]):
        with pytest.raises(InvalidArgument, match="no follower has the process 1"):
            share.drop(1)
        stopped.stop()
        with pytest.raises(ClientError):
            space.insert_region(ram(DIMM, MIB))
        share.drop(stopped.pid)
        assert share.followers == ()
        space.insert_region(ram(DIMM, MIB))
        stopped.signal(signal.SIGCONT)
        stopped.run("import time\nwhile space.leader: time.sleep(0.001)")
        assert not stopped.ask(f"{DIMM} in space")


class Killer:
    """A client that kills its process in a phase."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def prepare(self, change: AddressSpaceChange) -> None:
        self.die("prepare", change)

    def commit(self, change: AddressSpaceChange) -> None:
        self.die("commit", change)

    def rollback(self, change: AddressSpaceChange) -> None:
        """Undoes nothing."""

    def die(self, phase: str, change: AddressSpaceChange) -> None:
        if phase == self.phase and change.before.regions:
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def leader_process(lead: Callable[[AddressSpace, socket.socket], object]) -> Iterator[tuple[int, AddressSpace]]:
    """A leader that is another process, and which does what it is told as soon as it is followed here."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = fork()
    if child == 0:
        ours.close()
        with suppress(BaseException):
            space = AddressSpace.from_regions([ram(0, MIB, name="low"), ram(HIGH, MIB, name="high")], LAYOUT)
            space.map_memory().write(HIGH, b"kept")
            lead(space, theirs)
        os._exit(1)
    theirs.close()
    try:
        yield child, AddressSpace.attach(ours)
    finally:
        ours.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def when_followed(share: Share) -> None:
    until(lambda: share.followers)


def until_alone(follower: AddressSpace) -> None:
    """Returns once there is no leader any more; the changes before that are followed."""
    with pytest.raises(ShareError, match="is followed no more"):
        while True:
            assert follower.wait_for_change(follower.generation, timeout=60)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("order", ["before", "behind"])
@pytest.mark.parametrize("phase", ["prepare", "commit"])
def test_orphans_have_what_was_decided(phase: str, order: str, change: str) -> None:
    def lead(space: AddressSpace, sock: socket.socket) -> None:
        share = None
        for step in ("before", "share", "behind"):
            if step == "share":
                share = space.share(sock)
            elif step == order:
                space.subscribe(Killer(phase))
        assert share
        when_followed(share)
        CHANGES[change](space)

    with leader_process(lead) as (pid, follower):
        until_alone(follower)
        assert (follower.leader, follower.is_follower) == (None, True)
        # Decided is what the leader told its followers, which a client behind the share sees.
        is_done = (phase, order) == ("commit", "behind")
        expected = AddressSpace.from_regions([ram(0, MIB, name="low"), ram(HIGH, MIB, name="high")], LAYOUT)
        if is_done:
            CHANGES[change](expected)
        assert rows(follower) == rows(expected)
        assert follower.generation == int(is_done)
        if (change, is_done) != ("remove", True):
            base = DIMM if (change, is_done) == ("move", True) else HIGH
            assert follower.memory.read(base, 4) == b"kept"
            follower.memory.write(base, b"more")
            assert bytes(follower.memory.view(base, 4)) == b"more"
        with pytest.raises(Unsupported, match=f"process {pid}"):
            follower.remove_region("low")
        follower.close()


def test_a_child_of_the_leader_keeps_nobody_waiting() -> None:
    """The child has the socket open, so that its end would say nothing."""

    def lead(space: AddressSpace, sock: socket.socket) -> None:
        share = space.share(sock)
        when_followed(share)
        if fork() == 0:
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)

    with leader_process(lead) as (_, follower):
        until_alone(follower)
        assert follower.memory.read(HIGH, 4) == b"kept"


def test_a_child_of_a_follower_keeps_nobody_waiting(space: AddressSpace) -> None:
    space.map_memory()
    with followers(space) as (share, [follower]):
        follower.run("import os, time\nif os.fork() == 0: time.sleep(60)")
        follower.signal(signal.SIGKILL)
        space.insert_region(ram(DIMM, MIB))
        assert share.followers == ()


def test_forked_children_neither_lead_nor_follow(space: AddressSpace) -> None:
    memory = space.map_memory()
    ours, theirs = socket.socketpair()
    with ours, theirs, space.share(ours) as share, AddressSpace.attach(theirs) as follower:

        def in_the_child() -> None:
            follower.memory.write(0, b"child")
            assert len(share.followers) == 1
            for verb in (
                lambda: share.drop(1),
                share.detach,
                follower.close,
                lambda: space.insert_region(ram(DIMM, MIB)),
                lambda: follower.wait_for_change(0),
                lambda: space.share(ours),
            ):
                with pytest.raises(ForkedProcess):
                    verb()
            del verb

        in_child(in_the_child)
        assert memory.read(0, 5) == b"child"
        space.insert_region(ram(DIMM, MIB))
        assert DIMM in follower
        assert len(share.followers) == 1


def test_a_follower_that_holds_the_interpreter_answers(space: AddressSpace) -> None:
    space.map_memory()
    with followers(space) as (_, [follower]):
        follower.run("import ctypes\nheld = ctypes.PyDLL(None)")
        follower.tell("held.sleep(2)")
        for number in range(20):
            space.insert_region(ram(DIMM + number * PAGE, PAGE))
        # It was not there all the while.
        assert not follower.pipe.poll(0)
        follower.told("sleep")
        assert follower.ask("len(space)") == len(space)


def test_interpreters_end_at_any_time() -> None:
    run_python(
        "import socket, threading, os\n"
        "from dbs_address_space import AddressSpace, AddressSpaceBuilder, AddressSpaceRegion\n"
        "space = AddressSpaceBuilder(numa_regions=['4MiB']).build()\n"
        "ours, theirs = socket.socketpair()\n"
        "share, follower = space.share(ours), AddressSpace.attach(theirs)\n"
        "def change():\n"
        "    for _ in range(10**6):\n"
        "        space.insert_region(AddressSpaceRegion('ram', 1 << 30, 4096))\n"
        "        space.remove_region(1 << 30)\n"
        "threading.Thread(target=change, daemon=True).start()\n"
        "while follower.generation < 50: pass\n"
    )


# Who may follow, and what.


def test_who_follows_is_asked_for(space: AddressSpace, unraisable: list[Any]) -> None:
    space.map_memory()
    asked = []

    def allow(pid: int, uid: int, gid: int) -> bool:
        asked.append((pid, uid, gid))
        if len(asked) == 2:
            raise ZeroDivisionError
        return len(asked) > 2

    with closing(Followers(space, allow=allow)) as shared:
        for _ in range(2):
            with pytest.raises(ShareError, match="is not allowed to follow"):
                shared.add()
        assert [type(error) for error in unraisable] == [ZeroDivisionError]
        follower = shared.add()
        assert asked[2] == (follower.pid, os.getuid(), os.getgid())
        assert [known.pid for known in shared.share.followers] == [follower.pid]


def test_another_user_may_not_follow(space: AddressSpace) -> None:
    require(os.getuid() == 0, "only root can be another user")
    space.map_memory()
    ours, theirs = socket.socketpair()
    with ours, theirs, space.share(ours):

        def as_nobody() -> None:
            os.setuid(65534)
            with pytest.raises(ShareError, match="of user 65534 is not allowed to follow"):
                AddressSpace.attach(theirs)

        in_child(as_nobody)


def test_private_memory_is_refused_by_name_or_left_out(space: AddressSpace) -> None:
    memory = space.map_memory()
    space.insert_region(ram(DIMM, MIB, mem_type="mmap", name="private"))
    space.insert_region(AddressSpaceRegion.create_firmware_region(512 * MIB, PAGE, name="rom"))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(Unsupported, match=r"cannot share 'private'.*private to this process") as raised:
            space.share(ours)
        assert (raised.value.feature, raised.value.region) == ("share", space["private"])
        assert space.clients == ()
        with space.share(ours, private="skip"), AddressSpace.attach(theirs) as follower:
            assert rows(follower) == rows(space)
            for name in ("private", "rom"):
                with pytest.raises(UnmappedAddress, match=f"'{name}'.*private to the leader, process {os.getpid()}"):
                    follower.memory.read(space[name].base, 1)
            assert [region.name for region in follower.memory.regions] == ["low", "high"]
            space.remove_region("private")
            assert rows(follower) == rows(space)
            memory.write(0, b"x")
            assert follower.memory.read(0, 1) == b"x"
        ours, theirs = socket.socketpair()
        space.remove_region("rom")
        with ours, theirs, space.share(ours), AddressSpace.attach(theirs) as follower:
            with pytest.raises(Unsupported, match="cannot share 'late'"):
                space.insert_region(ram(DIMM, MIB, mem_type="mmap", name="late"))
            assert "late" not in space
            assert "late" not in follower


def test_a_follower_that_may_only_read(space: AddressSpace) -> None:
    memory = space.map_memory()
    memory.write(0, b"fixed")
    with followers(space, 1, writable=False) as (share, [follower]):
        assert not share.followers[0].writable
        assert follower.ask("space.memory.read(0, 5)") == b"fixed"
        for write in ("write(0, b'x')", "store(0, 1)", "fetch_add(0, 1)", "view(0, 8, writable=True)", "fill(0, 8)"):
            with pytest.raises((AccessDenied, BufferError)):
                follower.run(f"space.memory.{write}")
        with pytest.raises((AccessDenied, BackingError)):
            follower.run("space.memory.write(0, b'x', force=True)")
        space.insert_region(ram(DIMM, MIB))
        with pytest.raises(AccessDenied):
            follower.run(f"space.memory.write({DIMM}, b'x')")
        assert memory.read(0, 5) == b"fixed"


def test_too_few_descriptors_are_a_veto(space: AddressSpace) -> None:
    space.map_memory()
    with followers(space, 1) as (_, [follower]):
        follower.run(
            "import os, resource\n"
            "before = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))\n"
            "files = []\n"
            "try:\n"
            "    while True: files.append(os.open('/dev/null', 0))\n"
            "except OSError: pass\n"
            "for _ in range(4): os.close(files.pop())\n"
        )
        with pytest.raises(ClientError, match="RLIMIT_NOFILE"), space.transaction() as change:
            for number in range(20):
                change.insert_region(ram(DIMM + number * PAGE, PAGE))
        assert DIMM not in space
        follower.run("for file in files: os.close(file)")
        space.insert_region(ram(DIMM, PAGE))
        assert follower.ask(f"{DIMM} in space")


def test_followers_go_with_the_memory_and_come_back_with_it(space: AddressSpace) -> None:
    memory = space.map_memory()
    with pytest.raises(NotMapped):
        AddressSpace(space.layout).share(0)
    with followers(space) as (share, [follower]):
        follower.run("memory, view = space.memory, space.memory.view(0, 8)")
        with pytest.raises(RegionBusy, match=f"process {follower.pid}"):
            memory.close()
        follower.run("view.release()")
        memory.close()
        assert share.is_attached
        assert follower.ask("(space.is_mapped, space.generation, len(space), space.leader)") == (
            False,
            0,
            3,
            os.getpid(),
        )
        with pytest.raises(NotMapped):
            follower.run("memory.read(0, 1)")
        with pytest.raises(Unsupported):
            follower.run("space.map_memory()")
        # Nobody hears of changes to a map without memory, until it has some.
        space.remove_region("high")
        again = space.map_memory()
        again.write(0, b"again")
        assert follower.ask(ROWS) == rows(space)
        assert follower.ask("(space.memory.read(0, 5), space.generation)") == (b"again", 1)
        space.insert_region(ram(DIMM, MIB))
        assert follower.ask(ROWS) == rows(space)


def test_arguments(space: AddressSpace) -> None:
    space.map_memory()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for wrong in (0, 6, -1):
            with pytest.raises(InvalidArgument):
                space.share(ours, timeout=wrong)
        with pytest.raises(InvalidArgument, match='unknown private "never": use "refuse" or "skip"'):
            space.share(ours, private="never")  # type: ignore[arg-type]
        with pytest.raises(BackingError) as raised:
            space.share(10**6)
        assert raised.value.errno == errno.EBADF
        with Path(os.devnull).open("rb") as file, pytest.raises(BackingError):
            space.share(file)
        with pytest.raises(ShareError, match="did not answer in time"):
            AddressSpace.attach(theirs, timeout=0.05)
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(ShareError, match="connection to the leader is lost"):
        AddressSpace.attach(theirs)


# The wire.


def header(kind: int, records: bytes = b"", count: int = 0, **changed: int) -> bytes:
    fields = {"version": 1, "length": 40 + len(records), "flags": 0, "sequence": 0, "generation": 0} | changed
    version, length, flags, sequence, generation = fields.values()
    return (
        struct.pack("<4sHHIIQQHHI", b"DBSP", version, kind, length, flags, sequence, generation, 0, 0, count) + records
    )


HELLO = header(1, struct.pack("<HHIHHI", 8, 16, 1, 1, 1, 0), 1)


@pytest.mark.parametrize("kind", PAIRS)
def test_what_says_no_hello_is_let_go(space: AddressSpace, kind: int) -> None:
    memory = space.map_memory()
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind("")
    listener.listen(64)
    with listener, space.share(listener, timeout=0.5) as share:

        def say(message: bytes) -> bytes:
            with socket.socket(socket.AF_UNIX, kind) as sock:
                sock.connect(listener.getsockname())
                sock.sendall(message)
                sock.settimeout(60)
                with suppress(ConnectionResetError):
                    return sock.recv(65536)
            return b""

        for at in range(len(HELLO)):
            for bits in (1, 0x80, 0xFF):
                flipped = bytearray(HELLO)
                flipped[at] ^= bits
                say_soon = bytes(flipped)
                if kind == socket.SOCK_STREAM and struct.unpack_from("<I", say_soon, 8)[0] > len(say_soon):
                    # The rest of the message would be waited for.
                    continue
                say(say_soon)
        for size in range(1, 40, 7):
            if kind == socket.SOCK_SEQPACKET:
                say(HELLO[:size])
        assert struct.unpack_from("<H", say(header(4)), 6) == (3,)
        assert b"version 1 is spoken here" in say(header(1, struct.pack("<HHIHHI", 8, 16, 1, 2, 3, 0), 1))
        assert struct.unpack_from("<H", say(HELLO), 6) == (2,)
        # Those that went without a word are forgotten; the leader goes on.
        space.insert_region(ram(DIMM, MIB))
        memory.write(DIMM, b"on")
        assert share.is_attached


def be_ready(sock: socket.socket) -> int:
    """Answers a proposal with READY, waits for COMMIT, and gives the sequence."""
    proposal, fds, _, _ = socket.recv_fds(sock, 65536, 64)
    for fd in fds:
        os.close(fd)
    sequence = int.from_bytes(proposal[16:24], "little")
    sock.sendall(header(5, sequence=sequence))
    assert struct.unpack_from("<H", sock.recv(65536), 6) == (7,)
    return sequence


def be_admitted(sock: socket.socket, share: Share) -> None:
    """Follows, as far as the leader can tell."""
    sock.settimeout(60)
    sock.sendall(HELLO)
    sock.sendall(header(8, sequence=be_ready(sock)))
    when_followed(share)


def test_a_follower_that_talks_nonsense_is_let_go(space: AddressSpace) -> None:
    space.map_memory()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, space.share(ours, timeout=1) as share:
        be_admitted(theirs, share)
        theirs.sendall(b"nonsense")
        space.insert_region(ram(DIMM, MIB))
        assert share.followers == ()


def test_an_answer_counts_that_came_while_another_was_waited_for(space: AddressSpace) -> None:
    space.map_memory()
    shared = Followers(space, timeout=0.2)
    silent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(shared), silent:
        silent.connect(shared.listener.getsockname())
        be_admitted(silent, shared.share)
        follower = shared.add()
        answers = threading.Thread(target=be_ready, args=(silent,))
        answers.start()
        space.insert_region(ram(DIMM, MIB))
        answers.join(60)
        assert "did not follow a change within 0.2 s" in str(shared.share.error)
        assert [known.pid for known in shared.share.followers] == [follower.pid]
        assert follower.ask(f"{DIMM} in space")


layout = struct.pack("<HHIQQQ16s", 5, 48, 1000, 1 << 46, 0, 1 << 45, bytes(16))


def storage(size: int, index: int = 0, number: int = 1) -> bytes:
    return struct.pack("<HHIQQQQH6x", 1, 48, 1, number, size, 0, PAGE, index)


def place(base: int, size: int, at: int = 0, number: int = 1) -> bytes:
    return struct.pack("<HHIQQQQQBBHI", 2, 56, 3, base | 1, base, size, number, at, 0, 0, 0, 0)


def welcome(sock: socket.socket, records: list[bytes]) -> None:
    """Says WELCOME, with a descriptor of two pages."""
    memfd = os.memfd_create("hostile")
    os.truncate(memfd, 2 * PAGE)
    message = bytearray(header(2, b"".join(records), len(records), sequence=1))
    struct.pack_into("<H", message, 32, 1)
    socket.send_fds(sock, [bytes(message)], [memfd])
    os.close(memfd)


def test_a_leader_that_never_decides_is_not_waited_for(space: AddressSpace) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        welcome(ours, [layout, storage(PAGE), place(0, PAGE)])
        with pytest.raises(ShareError, match="did not answer in time"):
            AddressSpace.attach(theirs, timeout=0.2)
        welcome(ours, [layout, storage(PAGE), place(0, PAGE)])
        with interrupted():
            AddressSpace.attach(theirs, timeout=None)


def test_a_leader_without_descriptors_does_not_spin() -> None:
    def lead() -> None:
        space, _ = mapped(ram(0, MIB))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("")
        listener.listen(4)
        with space.share(listener):
            other = socket.socket(socket.AF_UNIX)
            resource.setrlimit(resource.RLIMIT_NOFILE, (other.fileno() + 1, other.fileno() + 1))
            while True:
                try:
                    os.dup(0)
                except OSError:
                    break
            other.connect(listener.getsockname())
            begun = time.process_time()
            time.sleep(0.5)
            assert time.process_time() - begun < 0.2

    in_child(lead)


def flood(sock: socket.socket, message: bytes) -> None:
    """Sends for as long as somebody is there to send to."""
    while sock.send(message):
        pass


@pytest.mark.parametrize("verb", ["insert", "followers", "detach"])
def test_a_follower_that_never_stops_talking_holds_nobody_up(space: AddressSpace, verb: str) -> None:
    space.map_memory()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, space.share(ours, timeout=0.3) as share:
        be_admitted(theirs, share)
        theirs.settimeout(None)
        talkers = [start_child(partial(flood, theirs, header(11, sequence=1))) for _ in range(2)]
        try:
            begun = time.monotonic()
            if verb == "insert":
                with suppress(ClientError):
                    space.insert_region(ram(DIMM, MIB))
            elif verb == "followers":
                for _ in range(20):
                    assert len(share.followers) <= 1
            else:
                share.detach()
            assert time.monotonic() - begun < 30, "not while somebody talks"
        finally:
            for child in talkers:
                os.kill(child[0], signal.SIGKILL)
                finish_child(*child, 60)


def test_a_leader_that_never_stops_talking_is_refused(space: AddressSpace) -> None:
    body = place(0, PAGE) * 1000
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        child = start_child(partial(flood, ours, header(2, body, 1000, flags=1, sequence=1)))
        try:
            with pytest.raises(ShareError, match="more than 1048576"):
                AddressSpace.attach(theirs, timeout=None)
        finally:
            os.kill(child[0], signal.SIGKILL)
            finish_child(*child, 60)


def test_a_follower_of_a_silent_leader_is_closed_at_once(space: AddressSpace) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        welcome(ours, [layout, storage(PAGE), place(0, PAGE)])
        ours.sendall(header(7, sequence=1))
        follower = AddressSpace.attach(theirs)
        assert [struct.unpack_from("<H", ours.recv(65536), 6)[0] for _ in range(3)] == [1, 5, 8]
        ours.sendall(header(4, sequence=2, generation=1))
        assert struct.unpack_from("<H", ours.recv(65536), 6) == (5,)
        begun = time.monotonic()
        follower.close()
        assert time.monotonic() - begun < 5
        assert not follower.is_mapped


def test_descriptors_that_nobody_wants_are_let_go(space: AddressSpace) -> None:
    space.map_memory()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen(4)
    with listener, space.share(listener, allow=lambda *_: False), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(listener.getsockname())
        before = len(descriptors())
        for byte in HELLO[:8]:
            with suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(sock, [bytes([byte])], [0] * 200)
        until(lambda: len(descriptors()) <= before)


def test_a_follower_is_not_fooled_by_its_leader(space: AddressSpace) -> None:
    """A leader's proposals are as little believed as a follower's answers."""
    hostile = {
        "no layout": [storage(PAGE), place(0, PAGE)],
        "behind the end": [layout, storage(PAGE), place(0, 2 * PAGE)],
        "an offset behind the end": [layout, storage(PAGE), place(0, PAGE, PAGE)],
        "a number past all": [layout, storage(PAGE), place(0, PAGE, 2**64 - PAGE)],
        "longer than its file": [layout, storage(1 << 40), place(0, PAGE)],
        "longer than all": [layout, storage(2**64 - PAGE), place(0, PAGE)],
        "no such descriptor": [layout, storage(PAGE, 7), place(0, PAGE)],
        "no such storage": [layout, storage(PAGE), place(0, PAGE, 0, 9)],
        "two in one place": [
            layout,
            storage(2 * PAGE),
            place(0, PAGE),
            place(0, PAGE)[:8] + b"\x07" + place(0, PAGE)[9:],
        ],
        "outside the layout": [layout, storage(PAGE), place(1 << 46, PAGE)],
        "a page cut": [layout, storage(2 * PAGE), place(0, PAGE, 100)],
    }
    for what, records in hostile.items():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            welcome(ours, records)
            with pytest.raises(AddressSpaceError):
                AddressSpace.attach(theirs)
            answers = [ours.recv(65536) for _ in range(2)]
            assert struct.unpack_from("<H", answers[1], 6) == (6,), what


@pytest.fixture(scope="module")
def follower_in_c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    require(compiler, "a C compiler is needed")
    program = tmp_path_factory.mktemp("follower") / "follower"
    source = Path(__file__).with_name("follower.c")
    subprocess.run([str(compiler), "-Wall", "-Wextra", "-Werror", "-O1", "-o", str(program), str(source)], check=True)
    return program


def test_a_follower_in_c_knows_no_more_than_the_docs(space: AddressSpace, follower_in_c: Path) -> None:
    memory = space.map_memory()
    memory.write(HIGH + 0x10, b"seen in C\0")
    with closing(Followers(space)) as shared, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(shared.listener.getsockname())
        arguments = [str(follower_in_c), str(sock.fileno())]
        with subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[sock.fileno()]
        ) as child:
            assert child.stdin
            assert child.stdout

            def ask(question: str) -> str:
                assert child.stdin
                assert child.stdout
                child.stdin.write(f"{question}\n")
                child.stdin.flush()
                return child.stdout.readline().strip()

            def shown() -> set[str]:
                return set(ask("regions").split())

            def expected() -> set[str]:
                return {f"{region.base:#x}+{region.size:#x}".replace("0x0+", "0+") for region in space.regions}

            when_followed(shared.share)
            assert shown() == expected()
            assert ask(f"read {HIGH + 0x10:#x}") == "seen in C"
            space.insert_region(ram(DIMM, MIB))
            memory.write(DIMM, b"plugged\0")
            assert ask(f"read {DIMM:#x}") == "plugged"
            space.split_region("high", HIGH + PAGE)
            space.move_region(HIGH, 2 * HIGH + 4 * MIB)
            assert shown() == expected()
            assert ask(f"read {2 * HIGH + 4 * MIB + 0x10:#x}") == "seen in C"
            ask(f"hold {DIMM:#x}")
            with pytest.raises(RegionBusy) as raised:
                space.remove_region(DIMM)
            assert [(lease.what, lease.pid) for lease in raised.value.leases] == [("view", child.pid)]
            removal = threading.Thread(target=space.remove_region, args=(DIMM,), kwargs={"timeout": 60})
            removal.start()
            ask("release")
            removal.join(60)
            assert shown() == expected()
            assert f"{DIMM:#x}+" not in str(shown())
            child.stdin.close()
            assert child.wait(60) == 0


@contextmanager
def shared(space: AddressSpace) -> Iterator[AddressSpace]:
    """A follower in this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs, space.share(ours), AddressSpace.attach(theirs) as follower:
        yield follower


def test_a_follower_puts_no_checkpoint_back(space: AddressSpace) -> None:
    space.map_memory()
    with shared(space) as follower, follower.memory.checkpoint(trust=("leader",)) as point:
        follower.memory.write(0, b"since")
        with pytest.raises(Unsupported, match="follows that of process"):
            point.restore()
        assert follower.memory.read(0, 5) == space.memory.read(0, 5) == b"since"


def test_windows_on_the_same_bytes_are_followed(space: AddressSpace) -> None:
    memory = space.map_memory()
    with shared(space) as follower:
        space.insert_region(AddressSpaceRegion.alias(DIMM, space["low"], prot_flags="r--", name="alias"))
        memory.write(PAGE, b"seen twice")
        assert follower.memory.read(DIMM + PAGE, 10) == follower.memory.read(PAGE, 10) == b"seen twice"
        with pytest.raises(AccessDenied):
            follower.memory.write(DIMM, b"no")
        follower.memory.write(PAGE, b"from there")
        assert memory.read(DIMM + PAGE, 10) == b"from there"
        space.move_region("alias", 2 * DIMM)
        assert follower.memory.read(2 * DIMM + PAGE, 10) == b"from there"
        space.remove_region("alias")
        follower.memory.write(0, b"still writable")
