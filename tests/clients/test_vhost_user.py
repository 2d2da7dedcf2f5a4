"""vhost-user: a real backend's table follows the space, and one that refuses, is silent or dies changes nothing else."""

import errno
import os
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from children import in_child
from dbs_address_space import (
    AddressSpace,
    AddressSpaceRegion,
    BackingError,
    ForkedProcess,
    GuestMemory,
    NotMapped,
    Unsupported,
    VhostUserClient,
    VhostUserRegion,
)
from host import require
from kernel_view import maps_of
from memory_helpers import MIB, PAGE, WINDOW, ram
from qemu_helpers import connected
from vhost_user_backend import (
    ADD_MEM_REG,
    CONFIGURE_MEM_SLOTS,
    GET_VRING_BASE,
    KINDS,
    PROTOCOL_FEATURES,
    REM_MEM_REG,
    REPLY_ACK,
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_OWNER,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    SET_VRING_CALL,
    SET_VRING_ENABLE,
    SET_VRING_KICK,
    SET_VRING_NUM,
    VERSION_1,
    Backend,
)

SECTOR = 512
HIGH, DIMM = 64 * MIB, 128 * MIB
QUEUE, NUMBER = 0x1000, 16
DESC, AVAIL, USED, HEADER, STATUS = QUEUE, QUEUE + 0x400, QUEUE + 0x800, 0x3000, 0x3100
NEXT, WRITE = 1, 2


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    rom = AddressSpaceRegion.create_firmware_region(512 * MIB, PAGE, name="rom")
    return [ram(0, MIB, name="low"), ram(HIGH, MIB, name="high"), rom, AddressSpaceRegion("device", WINDOW, PAGE)]


def test_the_table_of_a_space(space: AddressSpace, tmp_path: Path) -> None:
    with (tmp_path / "memory").open("w+b") as file:
        file.truncate(4 * MIB)
        space.insert_region(
            AddressSpaceRegion.from_file(DIMM, MIB, file, 2 * MIB, name="dimm")
            if hasattr(AddressSpaceRegion, "from_file")
            else ram(DIMM, MIB, file=file, file_offset=2 * MIB, name="dimm")
        )
    table = space.memory.vhost_user_regions()
    assert [region[:2] for region in table] == [(0, MIB), (HIGH, MIB), (DIMM, MIB)]
    mappings = [space.memory.mapping(region.guest_phys_addr) for region in table]
    assert [region[2:] for region in table] == [
        (mapping.host_address, mapping.file_offset, mapping.fd) for mapping in mappings
    ]
    assert table[2].mmap_offset == 2 * MIB
    assert isinstance(table[0], VhostUserRegion)
    space.insert_region(ram(256 * MIB, mem_type="mmap", name="private"))
    with pytest.raises(Unsupported, match="'private'"):
        space.memory.vhost_user_regions()


class Disk:
    """A virtio-blk queue in guest memory, over a backend in another process."""

    def __init__(self, memory: GuestMemory, client: VhostUserClient) -> None:
        self.memory = memory
        self.client = client
        self.kick, self.call = os.eventfd(0), os.eventfd(0, os.EFD_NONBLOCK)
        self.requests = 0
        client.send(SET_FEATURES, struct.pack("<Q", PROTOCOL_FEATURES | VERSION_1))
        client.send(SET_VRING_NUM, struct.pack("<II", 0, NUMBER))
        host = memory.host_address
        client.send(SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, host(DESC), host(USED), host(AVAIL), 0))
        client.send(SET_VRING_BASE, struct.pack("<II", 0, 0))
        client.send(SET_VRING_CALL, struct.pack("<Q", 0), fds=[self.call])
        client.send(SET_VRING_KICK, struct.pack("<Q", 0), fds=[self.kick])
        client.send(SET_VRING_ENABLE, struct.pack("<II", 0, 1))

    def request(self, kind: int, sector: int, pieces: list[tuple[int, int]]) -> None:
        """Reads (0) or writes (1) sectors from one on, to or from pieces of guest memory."""
        memory = self.memory
        memory.write(HEADER, struct.pack("<IIQ", kind, 0, sector))
        memory.write_u8(STATUS, 0xFF)
        data = 0 if kind else WRITE
        chain = [(HEADER, 16, 0), *((addr, size, data) for addr, size in pieces), (STATUS, 1, WRITE)]
        for index, (addr, size, flags) in enumerate(chain):
            more = NEXT if index + 1 < len(chain) else 0
            memory.write(DESC + 16 * index, struct.pack("<QIHH", addr, size, flags | more, index + 1))
        memory.write_u16(AVAIL + 4 + 2 * (self.requests % NUMBER), 0)
        self.requests += 1
        memory.store(AVAIL + 2, self.requests, 2)
        os.eventfd_write(self.kick, 1)
        deadline = time.monotonic() + 20
        while memory.load(USED + 2, 2) != self.requests:
            assert time.monotonic() < deadline, "the backend does not answer"
            select.select([self.call], [], [], 0.05)
            with suppress(BlockingIOError):
                os.eventfd_read(self.call)
        assert memory.read_u8(STATUS) == 0

    def stop(self) -> None:
        self.client.ask(GET_VRING_BASE, struct.pack("<II", 0, 0))
        os.close(self.kick)
        os.close(self.call)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    """An image of 64 sectors and a connection to the daemon that exports it."""
    program = shutil.which("qemu-storage-daemon")
    require(program, "there is no qemu-storage-daemon (Debian: qemu-system-common)")
    image, path = tmp_path / "disk.img", tmp_path / "disk.sock"
    image.write_bytes(b"".join(bytes([number]) * SECTOR for number in range(64)))
    export = f"type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={path},writable=on"
    disk = f"driver=file,node-name=disk,filename={image}"
    daemon = subprocess.Popen([str(program), "--blockdev", disk, "--export", export], stderr=subprocess.PIPE)
    with connected(daemon, path) as connection:
        yield image, connection
    daemon.terminate()
    daemon.communicate()


def test_a_real_backend_follows_hotplug(space: AddressSpace, storage: tuple[Path, socket.socket]) -> None:
    image, connection = storage
    memory = space.memory
    client = space.attach_vhost_user(connection)
    assert client.protocol_features & (REPLY_ACK | CONFIGURE_MEM_SLOTS) == REPLY_ACK | CONFIGURE_MEM_SLOTS
    assert client.max_regions >= 8
    assert client.table == memory.vhost_user_regions()
    disk = Disk(memory, client)
    # Two sectors, one on each side of the hole.
    disk.request(0, 7, [(MIB - SECTOR, SECTOR), (HIGH, SECTOR)])
    assert memory.read(MIB - SECTOR, SECTOR) == b"\x07" * SECTOR
    assert memory.read(HIGH, SECTOR) == b"\x08" * SECTOR
    memory.fill(HIGH + MIB - SECTOR, SECTOR, 0xEE)
    memory.fill(0x8000, SECTOR, 0xDD)
    disk.request(1, 20, [(HIGH + MIB - SECTOR, SECTOR), (0x8000, SECTOR)])
    assert image.read_bytes()[20 * SECTOR : 22 * SECTOR] == b"\xee" * SECTOR + b"\xdd" * SECTOR
    for number in range(3):
        space.insert_region(ram(DIMM, MIB, name="dimm"))
        assert len(client.table) == 3
        disk.request(0, 30 + number, [(DIMM + 5 * PAGE, SECTOR)])
        assert memory.read(DIMM + 5 * PAGE, SECTOR) == bytes([30 + number]) * SECTOR
        space.remove_region("dimm")
        assert client.table == memory.vhost_user_regions()
    with pytest.raises(Unsupported, match="'private'"):
        space.insert_region(ram(DIMM, mem_type="mmap", name="private"))
    disk.stop()
    assert client.error is None
    client.detach()
    assert client.table == ()
    assert space.clients == ()


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    backend = Backend(KINDS[request.param])
    yield backend
    backend.close()


@pytest.fixture
def acknowledging() -> Iterator[Backend]:
    backend = Backend(KINDS["slots"])
    yield backend
    backend.close()


def agree(space: AddressSpace, client: VhostUserClient, backend: Backend) -> None:
    assert [region[:4] for region in client.table] == sorted(backend.table.values())
    assert client.table == space.memory.vhost_user_regions()


class SecondAddition(set[int]):
    """Refuses the second region that is added, and nothing else."""

    count = 0

    def __contains__(self, request: object) -> bool:
        self.count += request == ADD_MEM_REG
        return request == ADD_MEM_REG and self.count == 2


def test_a_region_that_took_anothers_place_goes_again_when_the_next_is_refused(space: AddressSpace) -> None:
    backend = Backend(KINDS["slots"], slots=32)
    client, low = space.attach_vhost_user(backend.front, timeout=20), space["low"]
    space.memory.write(low.base, b"kept")
    backend.refuse = SecondAddition()
    with pytest.raises(BackingError, match="refused"), space.transaction() as change:
        change.remove_region("low")
        change.insert_region(low)
        change.insert_region(ram(DIMM, MIB, name="refused"))
    agree(space, client, backend)
    assert space.memory.read(low.base, 4) == b"kept"
    backend.close()


def test_every_kind_of_backend_is_kept_in_step(space: AddressSpace, backend: Backend) -> None:
    client = space.attach_vhost_user(backend.front, timeout=20)
    assert backend.requests[0] == SET_OWNER
    agree(space, client, backend)
    space.insert_region(ram(DIMM, MIB, name="dimm"))
    agree(space, client, backend)
    with space.transaction() as change:
        change.remove_region("dimm")
        change.insert_region(ram(DIMM - MIB, 4 * MIB, name="larger"))
    agree(space, client, backend)
    space.remove_region("low")
    agree(space, client, backend)
    assert (SET_MEM_TABLE in backend.requests) == (ADD_MEM_REG not in backend.requests)
    space.memory.close()
    assert backend.table == {}
    client.detach()


def test_a_refused_region_is_not_plugged(space: AddressSpace, acknowledging: Backend) -> None:
    client = space.attach_vhost_user(acknowledging.front, timeout=20)
    before = space.snapshot()
    acknowledging.refuse.add(ADD_MEM_REG)
    with pytest.raises(BackingError, match="refused request 37"), space.transaction() as change:
        change.insert_region(ram(DIMM, MIB, name="refused"))
    acknowledging.refuse.clear()
    assert space.snapshot() is before
    assert not maps_of("memfd:refused")
    agree(space, client, acknowledging)
    with pytest.raises(BackingError, match="takes 3 regions") as refused, space.transaction() as change:
        change.insert_region(ram(DIMM, MIB))
        change.insert_region(ram(2 * DIMM, MIB))
    assert refused.value.errno == 28
    agree(space, client, acknowledging)

    class Veto:
        def prepare(self, change: Any) -> None:
            raise ValueError

        def commit(self, change: Any) -> None: ...
        def rollback(self, change: Any) -> None: ...

    with pytest.raises(RuntimeError):
        space.subscribe(Veto())
    client.detach()


def test_a_refused_removal_is_on_the_client(
    space: AddressSpace, acknowledging: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    client = space.attach_vhost_user(acknowledging.front, timeout=20)
    acknowledging.refuse.add(REM_MEM_REG)
    assert "high" not in space.remove_region("high")
    assert isinstance(client.error, BackingError)
    assert space.clients == ()


def test_a_message_that_can_not_be_sent_leaves_the_connection_whole(
    space: AddressSpace, acknowledging: Backend
) -> None:
    client = space.attach_vhost_user(acknowledging.front, timeout=20)
    closed = os.open(os.devnull, os.O_RDONLY)
    os.close(closed)
    with pytest.raises(BackingError, match=f"descriptor {closed} can't be duplicated") as refused:
        client.send(SET_OWNER, fds=[closed])
    assert refused.value.errno == errno.EBADF
    with pytest.raises(ValueError, match="room for 8 descriptors, not 9"):
        client.send(SET_OWNER, fds=[0] * 9)
    assert space.insert_region(ram(DIMM, MIB))
    agree(space, client, acknowledging)
    client.detach()


def test_a_tracker_beside_a_backend_wants_to_know_that_its_writes_are_unseen(
    space: AddressSpace, acknowledging: Backend
) -> None:
    client = space.attach_vhost_user(acknowledging.front)
    for mode in ("auto", "pagemap", "api"):
        with pytest.raises(Unsupported, match="trust=") as refused:
            space.memory.dirty.start(mode)
        assert "vhost-user" in str(refused.value)
    with space.memory.dirty.start(trust=("vhost-user",)) as tracker:
        assert "vhost-user back-ends" in tracker.blind_to
    client.detach()
    space.memory.dirty.start().stop()


def test_a_checkpoint_beside_a_backend_compares_or_trusts_it(space: AddressSpace, acknowledging: Backend) -> None:
    memory = space.memory
    early = memory.checkpoint()
    client = space.attach_vhost_user(acknowledging.front)
    for refused in (memory.checkpoint, early.restore):
        with pytest.raises(Unsupported, match=r'mode="compare".*trust='):
            refused()
    early.close()
    base, _, host, offset, fd = memory.vhost_user_regions()[0]
    with memory.checkpoint(mode="compare") as point:
        # As the back-end does, through a mapping of its own.
        os.pwrite(fd, b"\xff", offset)
        assert memory.read_u8(base) == 0xFF
        assert point.restore() == 1
        assert memory.read_u8(base) == 0
        # The table and the memory in it are where they were.
        assert memory.vhost_user_regions()[0][2] == host
        agree(space, client, acknowledging)
    with memory.checkpoint(trust=("vhost-user",)) as point:
        memory.write_u8(base, 1)
        assert point.restore() == 1
    client.detach()


def test_a_silent_and_a_dead_backend_are_named_in_time(space: AddressSpace, acknowledging: Backend) -> None:
    client = space.attach_vhost_user(acknowledging.front, timeout=0.2)
    before = space.snapshot()
    acknowledging.silent.add(ADD_MEM_REG)
    with pytest.raises(BackingError, match=r"did not answer request 37 within 0.2 s") as refused:
        space.insert_region(ram(DIMM, MIB))
    assert refused.value.errno == 110
    with pytest.raises(BackingError, match="lost, detach it"):
        space.insert_region(ram(DIMM, MIB))
    assert space.snapshot() is before
    client.detach()
    assert space.insert_region(ram(DIMM, MIB))
    with pytest.raises(BackingError):
        space.attach_vhost_user(os.open(os.devnull, os.O_RDWR))
    here, there = socket.socketpair()
    there.close()
    with here, pytest.raises(BackingError):
        space.attach_vhost_user(here)
    assert space.clients == ()


def test_what_can_not_be_attached(space: AddressSpace, acknowledging: Backend) -> None:
    unmapped = AddressSpace.from_regions([ram(0)], space.layout)
    with pytest.raises(NotMapped):
        unmapped.attach_vhost_user(acknowledging.front)
    client = space.attach_vhost_user(acknowledging.front)

    def child() -> None:
        for verb in (
            client.detach,
            lambda: client.send(SET_OWNER),
            lambda: space.attach_vhost_user(acknowledging.front),
        ):
            with pytest.raises(ForkedProcess):
                verb()

    in_child(child)
    agree(space, client, acknowledging)
    client.detach()
