"""Every verb of `GuestMemory`: how to call it on a range, what it does to plain bytes, and its traits.

The tables of verbs in the tests are chosen from `VERBS` by trait, so that each of them has a new verb from its first day.
`memory/test_verbs.py` finds a name without an entry, and a trait that is wrong.
"""

import asyncio
import inspect
import mmap
import os
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, partial
from hashlib import md5
from typing import Any, BinaryIO, Literal

import plain_stream
from blake3 import blake3
from bytes_model import undump
from dbs_address_space import AddressSpace, GuestMemory, LoadedElf
from elf_programs import elf
from memory_helpers import GIB, LAYOUT, PAGE, numbered
from stream_peers import captured, connection

Call = Callable[..., object]
"""Of memory, an address, a size and keywords; what is wrong with these is the verb's to find."""
Right = Callable[[bytes], tuple[object, bytes]]
"""From the bytes that are there: what the call gives, and what is there afterwards."""
Kind = Literal["bytes", "integer", "wait", "atomic", "scan", "file", "lease", "query", "change"]

OTHER = 0
"""Where copies have their other side: in a writable region that is large enough, with `data` for a copy inward."""
BYTE = 0xA5
NEEDLE = numbered(64)[40:44]


@dataclass(frozen=True)
class Verb:
    """One way to call one name. The rest is read from its signature."""

    name: str
    call: Call
    right: Right | None = None
    """None where the result is not about bytes."""
    _: KW_ONLY
    kind: Kind
    form: str = ""
    needs: Literal["r", "w", ""] = ""
    """Accesses that the protection must allow; none where only memory is needed."""
    writes: bool = False
    """Whether the pages count as written."""
    widths: tuple[int, ...] = ()
    """The sizes that there are; empty for any."""
    holes: bool = False
    """Whether the range may end where there is no memory."""
    crosses: bool = False
    """Whether what it leases may lie in several regions."""
    unguarded: bool = False
    """Whether the caller answers for memory that may fault."""
    sparse: bool = False
    """Whether a look at memory that no one has written allocates none."""
    parts: bool = False
    """Whether it asks for its range in parts, and a fault tells of the part."""
    long: bool = False
    """Whether other threads run while it works on much."""
    interruptible: bool = False
    """Whether Ctrl-C ends it midway."""

    def __str__(self) -> str:
        return f"{self.form} {self.name}".strip()

    def __call__(self, memory: GuestMemory, addr: Any, size: Any, **keywords: Any) -> Any:
        return self.call(memory, addr, size, **keywords)

    @cached_property
    def parameters(self) -> frozenset[str]:
        member = getattr(GuestMemory, self.name)
        return frozenset(inspect.signature(member).parameters) if callable(member) else frozenset()

    @property
    def progress(self) -> bool:
        return "progress" in self.parameters

    @property
    def ranged(self) -> bool:
        """Whether it is about the range that it is called with."""
        named = {"addr", "dst", "ranges", "pairs", "addresses", "start"}
        return self.kind == "file" or bool(self.parameters & named)

    @property
    def addressed(self) -> bool:
        """Whether it is told its address as it is."""
        return bool(self.parameters & {"addr", "dst", "ranges", "pairs"})

    @property
    def sized(self) -> bool:
        """Whether it is told any size as it is."""
        is_told = self.parameters & {"size", "max_size", "ranges"} and "buffer" not in self.parameters
        return bool(is_told) and not self.widths

    @property
    def touches(self) -> bool:
        """Whether it reads or writes the bytes of its range before it returns."""
        return self.kind in ("bytes", "integer", "wait", "atomic", "scan", "file")

    @property
    def direct(self) -> bool:
        """Whether memory that may fault is `Unsupported`."""
        return self.kind == "atomic" or (self.kind == "lease" and self.needs != "" and not self.unguarded)

    @property
    def contiguous(self) -> bool:
        """Whether its range must lie in one region."""
        return self.kind == "lease" and not self.crosses

    def fitting(self, most: int) -> int:
        """The largest of its sizes up to `most`, or its smallest."""
        return max((width for width in self.widths if width <= most), default=min(self.widths, default=most))


def data(size: Any) -> bytes:
    """The bytes to write, without zeroes; of two sizes, one begins with the other. None where the size is wrong."""
    return numbered(size).replace(b"\0", b"\1") if type(size) is int and 0 <= size <= GIB else b""


def integer(there: bytes) -> int:
    return int.from_bytes(there, "little")


# What is right.


def of(result: Callable[[bytes], object]) -> Right:
    """The bytes stay."""
    return lambda there: (result(there), there)


def writing(after: Callable[[int], bytes], result: Callable[[bytes], object] = lambda _: None) -> Right:
    return lambda there: (result(there), after(len(there)))


same = of(bytes)
silent = of(lambda _: None)
written = writing(data)


def filled(size: int) -> bytes:
    return bytes([BYTE]) * size


def words(there: bytes) -> list[int]:
    return array("Q", there[: len(there) // 8 * 8]).tolist()


def places(there: bytes) -> list[int]:
    found, at = list[int](), there.find(NEEDLE)
    while at >= 0:
        found.append(at)
        at = there.find(NEEDLE, at + 1)
    return found


def zero_pages(there: bytes) -> int:
    """Of a range that begins with a page."""
    return PAGE * sum(there[at : at + PAGE] == bytes(PAGE) for at in range(0, len(there), PAGE))


def difference(there: bytes) -> int | None:
    right = data(len(there))
    pages = (page for page in range(0, len(there), PAGE) if there[page : page + PAGE] != right[page : page + PAGE])
    return next((at for page in pages for at in range(page, page + PAGE) if there[at] != right[at]), None)


def string(there: bytes) -> bytes:
    return there.split(b"\0")[0]


def md5_of(there: bytes) -> bytes:
    return md5(there, usedforsecurity=False).digest()


def operated(operation: Callable[[int, int], int]) -> Right:
    def right(there: bytes) -> tuple[object, bytes]:
        value = operation(integer(there), integer(data(len(there)))) % (1 << 8 * len(there))
        return integer(there), value.to_bytes(len(there), "little")

    return right


# Calls of more than one line.


@contextmanager
def memfd(content: bytes = b"") -> Iterator[int]:
    fd = os.memfd_create("transfer")
    try:
        if content:
            os.truncate(fd, len(content))
            # A write would let other threads run, and that is what the verb is asked for.
            with mmap.mmap(fd, 0) as mapping:
                mapping[:] = content
        yield fd
    finally:
        os.close(fd)


def content_of(fd: int) -> bytes:
    if os.fstat(fd).st_size == 0:
        return b""
    with mmap.mmap(fd, 0) as mapping:
        return mapping[:]


def read_into(memory: GuestMemory, addr: Any, size: int) -> bytearray:
    target = bytearray(size)
    assert memory.read_into(addr, target) == size
    return target


def readv_into(memory: GuestMemory, addr: Any, size: Any) -> bytearray:
    target = bytearray(len(data(size)))
    assert memory.readv_into([(addr, size)], target) == size
    return target


def addresses(addr: int, size: int) -> "array[int]":
    return array("Q", range(addr, addr + size - 7, 8))


def copy_outward(memory: GuestMemory, addr: Any, size: Any, **keywords: Any) -> bytes:
    memory.copy(OTHER, addr, size, **keywords)
    return memory.read(OTHER, size)


def compare(memory: GuestMemory, addr: Any, size: Any) -> int | None:
    found = memory.compare(addr, data(size))
    return None if found is None else found - addr


def copy_inward(memory: GuestMemory, addr: Any, size: Any, **keywords: Any) -> None:
    memory.copy(addr, OTHER, size, **keywords)


def search(memory: GuestMemory, addr: int, size: int, **keywords: Any) -> list[int]:
    return [place - addr for place in memory.search(NEEDLE, addr, addr + size, **keywords)]


def wait_value(memory: GuestMemory, addr: Any, size: Any) -> int:
    """The value that is there, at once: it is not what is expected, or the time is up."""
    return memory.wait_value(addr, 0, size, timeout=0)


def wait_value_async(memory: GuestMemory, addr: Any, size: Any) -> int:
    async def wait() -> int:
        return await memory.wait_value_async(addr, 0, size, timeout=0)

    return asyncio.run(wait())


def find_zero_pages(memory: GuestMemory, addr: int, size: int) -> int:
    return sum(pages.size for pages in memory.find_zero_pages(addr, addr + size))


def hexdump(memory: GuestMemory, addr: Any, size: Any) -> bytes:
    return b"".join(part or b"" for _, part in undump(memory.hexdump(addr, size)))


def read_from(memory: GuestMemory, addr: Any, size: Any, file: BinaryIO | None = None) -> int:
    if file:
        return memory.read_from(file, addr, size)
    with memfd(data(size)) as fd:
        return memory.read_from(fd, addr, size)


def write_to(memory: GuestMemory, addr: Any, size: Any, file: BinaryIO | None = None) -> bytes:
    if file:
        memory.write_to(file, addr, size)
        return b""
    with memfd() as fd:
        memory.write_to(fd, addr, size)
        return content_of(fd)


def load_elf(memory: GuestMemory, addr: Any, size: int) -> int:
    # A program without anything to load is refused, wherever it lies.
    program = memory.load_elf(elf([(0, addr, size, data(size))])) if size else LoadedElf(0, (), ())
    return sum(segment.size for segment in program.segments)


def file_read(memory: GuestMemory, addr: int, size: int) -> bytes | None:
    with memory.open() as file:
        file.seek(addr)
        return file.read(size)


def file_write(memory: GuestMemory, addr: int, size: int) -> int | None:
    with memory.open("r+b") as file:
        file.seek(addr)
        return file.write(data(size))


def view(memory: GuestMemory, addr: Any, size: Any, *, unguarded: bool = False) -> None:
    with memory.view(addr, size, writable=True, unguarded=unguarded) as view:
        view[:] = data(view.nbytes)


def slices(memory: GuestMemory, addr: Any, size: Any) -> None:
    parts, at = memory.slices(addr, size, writable=True), 0
    for part in parts:
        part[:] = data(size)[at : at + part.nbytes]
        at += part.nbytes
        part.release()


def view_read_only(memory: GuestMemory, addr: Any, size: Any) -> bytes:
    with memory.view(addr, size, writable=False) as view:
        return view.tobytes()


def array_of_bytes(memory: GuestMemory, addr: Any, size: Any, *, unguarded: bool = False) -> None:
    target = memory.array(addr, size, "u1", writable=True, unguarded=unguarded)
    target[:] = memoryview(data(target.size))


def pin(memory: GuestMemory, addr: Any, size: Any) -> int:
    with memory.pin(addr, size) as pin:
        return pin.size


def prealloc(memory: GuestMemory, addr: Any, size: Any, **keywords: Any) -> None:
    memory.prealloc(**keywords)


def received(memory: GuestMemory, addr: Any, size: Any, **keywords: Any) -> None:
    """A memory that is not this one, whichever it is."""
    content, _ = plain_stream.written(numbered(PAGE))
    with connection() as (ours, theirs):
        ours.sendall(content)
        memory.receive(theirs, AddressSpace(LAYOUT), **keywords)


def enter(memory: GuestMemory, addr: Any, size: Any) -> None:
    with memory:
        pass


# The table.

Reader = partial(Verb, kind="bytes", needs="r", long=True, interruptible=True)
Looker = partial(Reader, sparse=True)
Writer = partial(Verb, kind="bytes", needs="w", writes=True, long=True, interruptible=True)
Forcer = partial(Writer, form="forced", needs="")
Scanner = partial(Verb, kind="scan", holes=True, sparse=True, long=True, interruptible=True)
AtomicWriter = partial(Verb, kind="atomic", needs="w", writes=True, widths=(1, 2, 4, 8))
Borrower = partial(Verb, kind="lease", needs="w", writes=True)
Query = partial(Verb, kind="query")
Change = partial(Verb, kind="change")


def part_of(name: str) -> Call:
    """A verb on a part of the region that holds an address."""

    def call(memory: GuestMemory, addr: int, size: int) -> None:
        base = memory.mapping(addr).base
        getattr(memory, name)(base, addr - base, size)

    return call


def integers(width: int, *, signed: bool) -> Iterator[Verb]:
    kind = f"{'i' if signed else 'u'}{8 * width}"
    load, store = f"read_{kind}", f"write_{kind}"
    traits: dict[str, Any] = {"kind": "integer", "widths": (width,)}
    number = partial(int.from_bytes, byteorder="little", signed=signed)
    yield Verb(load, lambda memory, addr, _: getattr(memory, load)(addr), of(number), needs="r", **traits)

    def write(memory: GuestMemory, addr: Any, size: Any) -> None:
        getattr(memory, store)(addr, number(data(width)))

    yield Verb(store, write, written, needs="w", writes=True, **traits)


def operation(name: str, operation: Callable[[int, int], int]) -> Verb:
    def call(memory: GuestMemory, addr: Any, size: Any) -> object:
        return getattr(memory, name)(addr, integer(data(size)), size)

    return AtomicWriter(name, call, operated(operation))


VERBS: tuple[Verb, ...] = (
    Reader("read", GuestMemory.read, same),
    Reader("read", partial(GuestMemory.read, pad=0), same, form="padded", holes=True),
    Reader("read_into", read_into, same),
    Reader("readv", lambda memory, addr, size: b"".join(memory.readv([(addr, size)])), same),
    Reader("readv_into", readv_into, same),
    Reader("unpack", lambda memory, addr, size: memory.unpack(addr, f"{size}s")[0], same),
    Reader(
        "read_c_string", GuestMemory.read_c_string, of(string), holes=True, parts=True, long=False, interruptible=False
    ),
    Looker("compare", compare, of(difference)),
    Looker("hash", GuestMemory.hash, of(lambda there: blake3(there).digest()), interruptible=True),
    Looker("hash", partial(GuestMemory.hash, algorithm="md5"), of(md5_of), form="hashlib's", interruptible=True),
    Reader("copy", copy_outward, same, form="outward", interruptible=True),
    Looker("write_to", write_to, same, interruptible=True),
    Writer("write", lambda memory, addr, size: memory.write(addr, data(size)), written),
    Forcer("write", lambda memory, addr, size: memory.write(addr, data(size), force=True), written),
    Writer("fill", lambda memory, addr, size: memory.fill(addr, size, BYTE), writing(filled)),
    Forcer("fill", lambda memory, addr, size: memory.fill(addr, size, BYTE, force=True), writing(filled)),
    Writer("writev", lambda memory, addr, size: memory.writev([(addr, data(size))]), written),
    Writer("pack", lambda memory, addr, size: memory.pack(addr, f"{size}s", data(size)), written, interruptible=False),
    Writer("copy", copy_inward, written, form="inward", interruptible=True),
    Writer("read_from", read_from, writing(data, len), interruptible=True),
    Writer("load_image", lambda memory, addr, size: memory.load_image(data(size), addr), writing(data, len)),
    Forcer(
        "load_image", lambda memory, addr, size: memory.load_image(data(size), addr, force=True), writing(data, len)
    ),
    Verb("load_elf", load_elf, writing(data, len), kind="file", needs="w", writes=True, long=True),
    *(verb for width in (1, 2, 4, 8) for signed in (False, True) for verb in integers(width, signed=signed)),
    Verb(
        "read_many_u64",
        lambda memory, addr, size: list(memory.read_many_u64(addresses(addr, size))),
        of(words),
        kind="integer",
        needs="r",
        widths=(8,),
        long=True,
    ),
    Verb("load", GuestMemory.load, of(integer), kind="atomic", needs="r", widths=(1, 2, 4, 8)),
    AtomicWriter("store", lambda memory, addr, size: memory.store(addr, integer(data(size)), size), written),
    operation("swap", lambda _, value: value),
    operation("fetch_add", lambda old, value: old + value),
    operation("fetch_sub", lambda old, value: old - value),
    operation("fetch_and", lambda old, value: old & value),
    operation("fetch_or", lambda old, value: old | value),
    operation("fetch_xor", lambda old, value: old ^ value),
    AtomicWriter(
        "compare_exchange",
        lambda memory, addr, size: memory.compare_exchange(addr, 0, integer(data(size)), size),
        operated(lambda old, value: old or value),
    ),
    Verb("wait_value", wait_value, of(integer), kind="wait", needs="r", widths=(1, 2, 4, 8)),
    Verb("wait_value_async", wait_value_async, of(integer), kind="wait", needs="r", widths=(1, 2, 4, 8)),
    Verb("wake_value", GuestMemory.wake_value, of(lambda _: 0), kind="wait", needs="r", widths=(1, 2, 4, 8)),
    Scanner("search", search, of(places), parts=True),
    Scanner("find_zero_pages", find_zero_pages, of(zero_pages), parts=True),
    Scanner("hexdump", hexdump, same),
    Verb("open", file_read, same, kind="file", form="read", needs="r", holes=True, long=True),
    Verb("open", file_write, writing(data, len), kind="file", form="write", needs="w", writes=True, long=True),
    Borrower("view", view, written),
    Borrower("view", view_read_only, same, form="read-only", needs="r", writes=False),
    Borrower("view", partial(view, unguarded=True), written, form="unguarded", unguarded=True),
    Borrower("slices", slices, written, crosses=True),
    Borrower("array", array_of_bytes, written),
    Borrower("array", partial(array_of_bytes, unguarded=True), written, form="unguarded", unguarded=True),
    Borrower("pin", pin, of(len), needs=""),
    Verb("part", GuestMemory.part, kind="lease", widths=(PAGE,)),
    Query("aliases", GuestMemory.aliases),
    Query("check_range", GuestMemory.check_range, of(lambda _: True), holes=True),
    Query("host_address", lambda memory, addr, _: memory.host_address(addr), widths=(1,)),
    Query("guest_address", lambda memory, addr, _: memory.guest_address(memory.host_address(addr)), widths=(1,)),
    Query("guest_addresses", lambda memory, addr, _: memory.guest_addresses(memory.host_address(addr)), widths=(1,)),
    Query("mapping", lambda memory, addr, _: memory.mapping(addr), widths=(1,)),
    Query("translate", lambda memory, addr, size: memory.translate(addresses(addr, size)), long=True),
    Query("regions", lambda memory, _, __: memory.regions),
    Query("mappings", lambda memory, _, __: memory.mappings()),
    Query("vhost_user_regions", lambda memory, _, __: memory.vhost_user_regions()),
    Query("effective", lambda memory, _, __: memory.effective()),
    Query("verify_placement", lambda memory, _, __: memory.verify_placement()),
    Query("dax_window", lambda memory, addr, _: memory.dax_window(addr)),
    Change("prealloc", prealloc, long=True, interruptible=True),
    Change("discard", GuestMemory.discard, writing(bytes), needs="w", writes=True, widths=(PAGE,)),
    Query("dirty", lambda memory, _, __: memory.dirty.available()),
    Change("checkpoint", lambda memory, _, __, **keywords: memory.checkpoint(**keywords).close()),
    Query("send", lambda memory, _, __, **keywords: captured(memory, **keywords)),
    Change("receive", received),
    Query("data_ranges", lambda memory, _, __: memory.data_ranges()),
    Query("resident", lambda memory, _, __: memory.resident()),
    Query("_key", lambda memory, addr, _: memory._key(memory.mapping(addr).base)),  # noqa: SLF001
    Change("_fill_part", part_of("_fill_part"), writing(bytes), writes=True, needs="w", widths=(PAGE,)),
    Change("_discard_part", part_of("_discard_part"), writing(bytes), writes=True, widths=(PAGE,)),
    Change("close", lambda memory, _, __: memory.close()),
    Change("__enter__", enter),
    Change("__exit__", enter),
)
