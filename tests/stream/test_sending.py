"""Guests that move while they run: what arrives is what was there, and nothing else is published."""

import errno
import socket
import threading
from collections.abc import Callable
from typing import Any

import plain_stream
import pytest
from dbs_address_space import (
    AddressRange,
    AddressSpace,
    AddressSpaceRegion,
    ClientError,
    GenerationChanged,
    GuestMemory,
    ImageError,
    ImageMismatch,
    InvalidArgument,
    PartialTransfer,
    RegionBusy,
    SendProgress,
)
from hypothesis import given
from hypothesis import strategies as st
from interrupts import interrupted
from memory_helpers import GIB, LAYOUT, MIB, PAGE, mapped, numbered, ram
from stream_peers import Peer, captured, connection, receiving, sent_to

SIZE = 8 * MIB


def guest(size: int = SIZE) -> tuple[AddressSpace, GuestMemory]:
    """Memory with data here and there, and other regions."""
    rom = AddressSpaceRegion.create_firmware_region(GIB, 3 * PAGE + 100, 1, name="rom")
    space, memory = mapped(ram(0, size, name="low"), ram(2 * GIB, 5 * PAGE, mem_type="mmap", name="high"), rom)
    memory.write(PAGE + 5, numbered(MIB))
    memory.write(size - 7, b"the end")
    memory.write(2 * GIB + 100, numbered(PAGE, 1))
    memory.write(GIB + 3 * PAGE, numbered(100, 2), force=True)
    return space, memory


def all_of(memory: GuestMemory) -> list[bytes]:
    return [memory.read(region.base, region.size) for region in memory.regions]


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_guest_that_runs_arrives_as_it_was_when_it_was_stopped(kind: str) -> None:
    space, memory = guest()
    is_stopped = threading.Event()
    written = threading.Event()

    def run() -> None:
        number = 0
        while not is_stopped.is_set():
            memory.write_u64((number * 7919 * 8) % SIZE, number)
            memory.fill((number * 131 % 2048) * PAGE, PAGE, number % 3)
            written.set()
            number += 1

    runs = Peer(run)
    written.wait()

    def stop() -> dict[str, bytes]:
        is_stopped.set()
        runs.wait()
        return {"vcpu0": b"registers", "device": b"new"}

    report, there, received = sent_to(memory, kind, stop=stop, max_downtime=5, blobs={"device": b"old", "disk": b""})
    assert report.converged
    assert all_of(there.memory) == all_of(memory)
    assert received.blobs == {"device": b"new", "disk": b"", "vcpu0": b"registers"}
    assert report.content == received.content
    assert received.passes == report.passes
    assert report.downtime > 0
    assert report.estimated_downtime <= 5
    assert report.sources == ("pagemap",)
    assert [str(region) for region in there.regions] == [str(region) for region in space.regions]


def test_the_digest_is_that_of_an_image_of_the_same_memory(tmp_path: Any) -> None:
    space, memory = guest()
    report, there, _ = sent_to(memory)
    assert report.content == space.save(tmp_path / "here.img").content
    assert there.memory.hash(0, SIZE) == memory.hash(0, SIZE)


def test_a_reader_that_knows_the_page_alone_reads_it() -> None:
    _, memory = guest()
    _, plain = captured(memory, blobs={"name": b"content"})
    assert [plain_stream.memory(plain)[region.base] for region in memory.regions] == all_of(memory)
    assert plain.blobs == {"name": b"content"}
    assert sum(len(record.payload) for record in plain.records if record.kind == "chunk") <= MIB + 6 * PAGE


WRITES = st.tuples(
    st.integers(0, 39), st.sampled_from([0, 0, 5]), st.sampled_from([7, 4 * PAGE, 40 * PAGE]), st.integers(0, 1)
)
"""A page, an offset in it, a size and a byte."""


@given(st.lists(st.lists(WRITES, min_size=1, max_size=3), max_size=4))
def test_whatever_is_written_between_the_passes_arrives(passes: list[list[tuple[int, int, int, int]]]) -> None:
    space, memory = mapped(ram(PAGE, 17 * PAGE + 9), ram(20 * PAGE, 20 * PAGE, mem_type="mmap"))

    def write(writes: list[tuple[int, int, int, int]]) -> None:
        for page, offset, size, byte in writes:
            for region in space.regions:
                part = AddressRange(region.base, region.size).intersect(AddressRange(page * PAGE + offset, size))
                memory.fill(part.base, part.size, byte) if part else None

    script = iter(passes)

    def told(progress: SendProgress) -> None:
        if progress.done == progress.total:
            write(next(script, []))

    write(next(script, []))
    report, there, _ = sent_to(memory, progress=told)
    assert report.converged
    assert all_of(there.memory) == all_of(memory)
    space.close()
    there.close()


def test_what_becomes_zero_is_not_sent_and_arrives_as_zero() -> None:
    _, memory = mapped(ram(0, MIB))
    memory.write(0, numbered(10 * PAGE))

    def told(progress: SendProgress) -> None:
        if progress.passes == 1:
            memory.fill(2 * PAGE, 5 * PAGE, 0)

    _, plain = captured(memory, progress=told)
    chunks = [record for record in plain.records if record.kind == "chunk"]
    assert [(record.pages, record.zeroed) for record in chunks] == [(0x3FF, 0), (0, 0x7C)]
    assert plain_stream.memory(plain)[0] == memory.read(0, MIB)


def test_a_guest_that_writes_too_fast_goes_on_and_the_connection_can_be_used_again() -> None:
    _, memory = guest()
    seen: list[SendProgress] = []

    def told(progress: SendProgress) -> None:
        seen.append(progress)
        memory.write_u64(8 * len(seen), len(seen))

    there = AddressSpace(LAYOUT)
    with connection() as (ours, theirs):
        peer = receiving(theirs, there)
        report = memory.send(ours, max_downtime=0, max_passes=3, stop=pytest.fail, progress=told)
        assert (report.converged, report.passes, report.downtime, report.content) == (False, 3, None, None)
        assert report.estimated_downtime > 0
        assert [progress.passes for progress in seen if progress.done == progress.total] == [1, 2, 3]
        assert seen[0].downtime is None
        assert seen[-1].downtime is not None
        error = peer.failed()
        assert type(error) is ImageError
        assert "the sender gave up: after 3 passes" in str(error)
        assert (there.is_mapped, len(there)) == (False, 0)


def test_the_downtime_is_told_of_the_rate_that_was_seen() -> None:
    _, memory = guest()
    stopped: list[int] = []

    def writing(last: int) -> Callable[[SendProgress], None]:
        def told(progress: SendProgress) -> None:
            if progress.passes <= last:
                memory.fill(0, MIB >> progress.passes, progress.passes)

        return told

    report, _, _ = sent_to(memory, stop=lambda: stopped.append(1), max_downtime=10, progress=writing(1))
    assert (stopped, report.passes) == ([1], 2)
    report, _, _ = sent_to(memory, stop=lambda: stopped.append(1), max_downtime=1e-9, progress=writing(3))
    assert (len(stopped), report.passes) == (2, 4)


def test_what_is_written_until_stop_returns_arrives() -> None:
    _, memory = guest()
    report, there, _ = sent_to(memory, stop=lambda: memory.fill(5 * MIB + 1, 3 * PAGE, 0xA5))
    assert report.passes == 2
    assert all_of(there.memory) == all_of(memory)


def test_a_write_behind_stop_is_noticed() -> None:
    _, memory = guest()
    memory.dirty.available()

    def told(progress: SendProgress) -> None:
        memory.write_u64(0, progress.passes)

    there = AddressSpace(LAYOUT)
    with connection() as (ours, theirs):
        peer = receiving(theirs, there)
        with pytest.raises(ImageError, match=r"\[0x0, 0x1000\) was written behind stop\(\)") as caught:
            memory.send(ours, stop=lambda: None, max_downtime=10, progress=told)
        assert "let the guest go on here" in caught.value.__notes__[0]
        assert isinstance(peer.failed(), ImageError)
    assert not there.is_mapped


class Tired(Exception):
    """An exception of a user's function."""


def tired(*_: object) -> None:
    raise Tired


@pytest.mark.parametrize("options", [{"progress": tired}, {"stop": tired}])
def test_cancelled_both_sides_are_as_they_were(options: dict[str, Any]) -> None:
    space, memory = guest()
    there = AddressSpace(LAYOUT)
    with memory.dirty.start() as tracker, connection() as (ours, theirs):
        memory.write_u8(5 * PAGE, 1)
        peer = receiving(theirs, there)
        with pytest.raises(Tired):
            memory.send(ours, **options)
        assert isinstance(peer.failed(), ImageError)
        assert [str(pages) for pages in tracker.collect()] == ["[0x5000, 0x6000)"]
    assert (there.is_mapped, len(there), there.generation) == (False, 0, 0)
    space.remove_region("low")


def test_the_receiver_cancels_and_the_sender_hears_of_it() -> None:
    _, memory = guest()
    there = AddressSpace(LAYOUT)
    with memory.dirty.start() as tracker, connection() as (ours, theirs):
        memory.write_u8(0, 1)
        peer = receiving(theirs, there, progress=tired)
        with pytest.raises(ImageError, match="the receiver refused it: Tired"):
            memory.send(ours, timeout=10)
        assert type(peer.failed()) is Tired
        assert tracker.collect().count == 1
    assert not there.is_mapped


def test_ctrl_c_ends_the_waits_of_both_sides() -> None:
    _, memory = guest()
    with connection() as (ours, theirs), interrupted():
        memory.send(ours, timeout=None)
    with connection() as (_, theirs), interrupted():
        GuestMemory.receive(theirs, AddressSpace(LAYOUT), timeout=None)


def test_a_silent_receiver_is_given_up() -> None:
    space, memory = guest()
    with connection() as (ours, _), pytest.raises(PartialTransfer, match=r"silent for 0\.1 s") as caught:
        memory.send(ours, timeout=0.1)
    assert caught.value.errno == errno.ETIMEDOUT
    assert caught.value.done > 0
    space.remove_region("low")


def test_a_receiver_that_does_not_answer_is_given_up() -> None:
    _, memory = mapped(ram(0, PAGE))
    memory.write_u8(0, 1)
    with connection() as (ours, _), pytest.raises(PartialTransfer, match="silent") as caught:
        memory.send(ours, timeout=0.1, stop=lambda: None)
    assert "not known whether the receiver" in caught.value.__notes__[0]


def test_a_silent_sender_is_given_up() -> None:
    there = AddressSpace(LAYOUT)
    with connection() as (ours, theirs), pytest.raises(PartialTransfer, match="silent") as caught:
        ours.sendall(plain_stream.head(b"{}", 2 * MIB)[:50])
        GuestMemory.receive(theirs, there, timeout=0.1)
    assert (caught.value.errno, caught.value.done) == (errno.ETIMEDOUT, 50)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_receiver_that_dies_is_an_error(kind: str) -> None:
    _, memory = guest()
    with connection(kind) as (ours, theirs):

        def die() -> None:
            theirs.recv(100_000)
            theirs.close()

        peer = Peer(die)
        with pytest.raises((PartialTransfer, ImageError)) as caught:
            memory.send(ours)
        peer.wait()
    assert type(caught.value) is PartialTransfer
    assert caught.value.errno in {errno.EPIPE, errno.ECONNRESET}


def test_a_receiver_that_dies_at_any_record_leaves_the_source_as_it_was() -> None:
    _, memory = mapped(ram(0, MIB))
    memory.write(0, numbered(9 * PAGE))
    content, plain = captured(memory, blobs={"name": b"content"})
    with memory.dirty.start() as tracker:
        memory.write_u64(5 * PAGE, 1)
        for cut in {1, 64, *(one.at for one in plain.records), *(one.at + 65 for one in plain.records), len(content)}:
            with connection() as (ours, theirs):

                def die(theirs: socket.socket = theirs, cut: int = cut) -> None:
                    theirs.recv(cut, socket.MSG_WAITALL)
                    theirs.close()

                peer = Peer(die)
                with pytest.raises(PartialTransfer):
                    memory.send(ours, stop=lambda: None, blobs={"name": b"content"})
                peer.wait()
            assert tracker.peek().count == 1


def changing(change: Callable[[], object]) -> Callable[[SendProgress], None]:
    """A progress function that changes something once."""
    done: list[int] = []

    def told(_: SendProgress) -> None:
        if not done:
            done.append(1)
            change()

    return told


def test_a_map_that_changes_ends_it_and_regions_can_not_go() -> None:
    space, memory = guest()
    there = AddressSpace(LAYOUT)
    with connection() as (ours, theirs):
        peer = receiving(theirs, there)
        with pytest.raises(GenerationChanged):
            memory.send(ours, progress=changing(lambda: space.insert_region(ram(3 * GIB, PAGE))))
        assert isinstance(peer.failed(), ImageError)
    with connection() as (ours, theirs):
        receiving(theirs, there)
        with pytest.raises(RegionBusy, match="send"):
            memory.send(ours, progress=changing(lambda: space.remove_region("low")))
    space.remove_region("low")


def test_a_space_of_another_layout_takes_nothing() -> None:
    _, memory = guest()
    there = AddressSpace(type(LAYOUT)(1 << 46, 0, 1 << 44))
    with connection() as (ours, theirs):
        peer = receiving(theirs, there)
        with pytest.raises(ImageError, match="the receiver refused it: ImageMismatch"):
            memory.send(ours, timeout=10)
        assert isinstance(peer.failed(), ImageMismatch)


def test_a_space_with_regions_takes_nothing() -> None:
    space, _ = guest()
    with connection() as (_, theirs), pytest.raises(InvalidArgument, match="has regions"):
        GuestMemory.receive(theirs, space)


def test_a_space_that_changes_meanwhile_takes_nothing() -> None:
    _, memory = guest()
    there = AddressSpace(LAYOUT)
    with connection() as (ours, theirs):
        peer = receiving(theirs, there, progress=changing(lambda: there.insert_region(ram(8 * GIB, PAGE))))
        with pytest.raises(ImageError, match="refused"):
            memory.send(ours)
        assert isinstance(peer.failed(), GenerationChanged)
    assert [region.base for region in there.regions] == [8 * GIB]


def test_the_clients_of_the_space_are_asked() -> None:
    _, memory = guest()
    there = AddressSpace(LAYOUT)
    seen: list[int] = []

    class Client:
        is_refusing = True

        def prepare(self, change: Any) -> None:
            if self.is_refusing and change.added:
                raise Tired

        def commit(self, change: Any) -> None:
            seen.append(len(change.added))

        def rollback(self, change: Any) -> None:
            pass

    client = Client()
    with there.subscribe(client), connection() as (ours, theirs):
        peer = receiving(theirs, there)
        with pytest.raises(ImageError, match="refused"):
            memory.send(ours)
        assert isinstance(peer.failed(), ClientError)
        assert len(there) == 0
    client.is_refusing = False
    with there.subscribe(client), connection() as (ours, theirs):
        peer = receiving(theirs, there)
        memory.send(ours)
        peer.wait()
    assert seen[-1] == 3
    assert all_of(there.memory) == all_of(memory)


def test_what_arrived_lives_as_any_memory() -> None:
    _, memory = guest()
    _, there, _ = sent_to(memory)
    with there.memory.dirty.start() as tracker, there.memory.checkpoint() as point:
        there.memory.fill(0, 2 * PAGE, 9)
        assert tracker.collect().count == 2
        point.restore()
    with there.memory.view(0, PAGE), pytest.raises(RegionBusy):
        there.remove_region("low")
    there.remove_region("low")
    _, further, _ = sent_to(there.memory)
    assert all_of(further.memory) == all_of(there.memory)


def test_windows_on_the_same_bytes_are_windows_there() -> None:
    space, memory = mapped(ram(0, MIB, name="low"))
    space.insert_region(AddressSpaceRegion.alias(GIB, space[0]))
    memory.write(PAGE, b"once")
    _, there, _ = sent_to(memory)
    assert there.memory.read(GIB + PAGE, 4) == b"once"
    there.memory.write(GIB, b"twice")
    assert there.memory.read(0, 5) == b"twice"
    there.remove_region(0)
    assert there.memory.read(GIB, 5) == b"twice"


def test_a_rate_is_kept() -> None:
    _, memory = guest()
    seen: list[SendProgress] = []
    with connection() as (ours, theirs), interrupted(0.3):
        receiving(theirs, AddressSpace(LAYOUT))
        memory.send(ours, rate="256KiB", progress=seen.append)
    assert all(progress.done < MIB for progress in seen)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_downtime": -1}, InvalidArgument),
        ({"max_passes": 0}, InvalidArgument),
        ({"rate": 0}, InvalidArgument),
        ({"stop": 5}, TypeError),
        ({"blobs": [b"x"]}, TypeError),
        ({"blobs": {"x": "text"}}, TypeError),
        ({"blobs": {"x" * 5000: b""}}, InvalidArgument),
    ],
)
def test_arguments_that_are_wrong_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    _, memory = mapped(ram(0, PAGE))
    with connection() as (ours, _), pytest.raises(error):
        memory.send(ours, **options)


def test_sockets_of_other_kinds_are_refused() -> None:
    _, memory = mapped(ram(0, PAGE))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, pytest.raises(InvalidArgument, match="packets"):
        memory.send(ours)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(InvalidArgument, match="accept"):
        GuestMemory.receive(listener, AddressSpace(LAYOUT))


def test_a_sender_hears_that_the_space_is_not_new() -> None:
    _, memory = mapped(ram(0, MIB))
    there, _ = mapped(ram(0, MIB))
    with connection() as (ours, theirs):
        receiver = receiving(theirs, there)
        with pytest.raises(ImageError, match="the receiver refused it: InvalidArgument: the space has regions"):
            memory.send(ours, timeout=20)
        assert isinstance(receiver.failed(), InvalidArgument)
