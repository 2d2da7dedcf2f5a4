"""Names that users of other projects guess first, and keywords that they misspell: the error says which is ours."""

import re
from pathlib import Path
from typing import Any

import dbs_address_space
import pytest
from dbs_address_space import AddressSpaceRegion, GuestMemory, Machine, tables
from memory_helpers import PAGE
from public_callables import World, call, signatures

TABLE = (Path(__file__).parents[2] / "src/python/guess_table.rs").read_text()
BLOCK = re.compile(r"^(?:pub\(super\) )?const (\w+): [^=]*= &\[$(.*?)^\];$", re.MULTILINE | re.DOTALL)
BLOCKS = {match[1]: match[2] for match in BLOCK.finditer(TABLE)}
PAIR = re.compile(r'\(\s*"((?:[^"\\]|\\.)*)",\s*"((?:[^"\\]|\\.)*)",?\s*\)')


def guesses(text: str) -> dict[str, str]:
    """Ours by guess."""
    return {guess: ours.replace('\\"', '"') for names, ours in PAIR.findall(text) for guess in names.split(" ")}


def by_class(block: str) -> dict[str, dict[str, str]]:
    """The guesses at the names of each class."""
    entries = re.findall(r'\(\s*"([\w ]+)",\s*(?:(\w+)|&\[(.*?)\]),?\s*\),$', BLOCKS[block], re.MULTILINE | re.DOTALL)
    found = [(names, guesses(BLOCKS[table] if table else inline)) for names, table, inline in entries]
    by_name: dict[str, dict[str, str]] = {}
    for names, table in found:
        for name in names.split(" "):
            by_name.setdefault(name, {}).update(table)
    return by_name


OBJECTS = by_class("CLASSES")
WITHOUT_OBJECT = {"KvmSlots", "VhostUserClient"}

FIRST_GUESSES: dict[str, dict[str, list[str]]] = {
    "mmap": {
        "GuestMemory": [
            "find", "rfind", "flush", "move", "resize", "seek", "size", "tell", "readline", "read_byte", "write_byte", "madvise",
            "closed", "close", "read", "write",
        ],
    },
    "Unicorn": {
        "AddressSpace": ["mem_map", "mem_unmap", "mem_protect", "mem_regions", "mem_read", "mem_write", "hook_add", "mmio_map"],
        "GuestMemory": ["mem_map", "mem_unmap", "mem_protect", "mem_regions", "mem_read", "mem_write", "mem_map_ptr"],
    },
    "drgn": {
        "GuestMemory": [
            "read", "read_u8", "read_u16", "read_u32", "read_u64", "read_word", "read_c_string", "search_memory", "read_pointer",
            "search_memory_u64",
        ],
    },
    "NumPy": {
        "GuestMemory": [
            "ndarray", "numpy", "asarray", "frombuffer", "fromfile", "tofile", "tobytes", "copyto", "zeros", "fill", "view",
            "shape", "dtype", "nbytes", "data", "ctypes",
        ],
    },
    "vm-memory": {
        "GuestMemory": [
            "read_obj", "write_obj", "read_slice", "write_slice", "get_host_address", "find_region", "num_regions", "last_addr",
            "check_range", "address_in_range", "iter", "load", "store", "get_slice",
        ],
        "AddressSpaceRegion": ["start_addr", "len", "last_addr", "size", "file_offset", "flags", "prot"],
    },
    "Python": {
        "AddressSpace": [
            "add", "insert", "remove", "append", "pop", "get", "items", "keys", "values", "copy", "find", "count", "size",
            "allocate", "add_region", "regions", "memory", "map", "read", "write", "subscribe", "on_change", "unmap", "close",
        ],
        "AddressSpaceRegion": [
            "start", "stop", "length", "type", "prot", "numa_node", "name", "end", "base", "size", "overlaps", "contains", "fd",
            "path", "offset", "kind", "flags", "protection", "id", "label", "copy", "_replace",
        ],
        "GuestMemory": [
            "zero", "read_struct", "write_struct", "load_file", "save", "dump", "memset", "memcpy", "compare_and_swap", "hash",
            "sha256", "find_all", "index", "peek", "poke", "get", "set", "read_bytes", "write_bytes", "read_int", "read_string",
        ],
        "AddressRange": ["start", "stop", "length", "end", "overlaps", "contains", "size", "intersection"],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize("user", FIRST_GUESSES)
def test_most_first_guesses_work_or_are_hinted(user: str, world: World) -> None:
    asked = [(world.owner(name), guess) for name, names in FIRST_GUESSES[user].items() for guess in names]
    assert sum(helps(owner, guess) for owner, guess in asked) >= 0.9 * len(asked)


def helps(owner: object, guess: str) -> bool:
    try:
        getattr(owner, guess)
    except AttributeError as error:
        return ": use " in str(error)
    return True


@pytest.mark.parametrize("name", [name for name in OBJECTS if name not in WITHOUT_OBJECT])
def test_a_guess_is_answered_with_our_name(name: str, world: World) -> None:
    table = OBJECTS[name]
    owner = world.owner(name)
    shown = dir(owner)
    for guess, ours in table.items():
        assert not hasattr(owner, guess)
        assert guess not in shown
        with pytest.raises(AttributeError, match=re.escape(f"{name} has no attribute '{guess}': use {ours}")):
            getattr(owner, guess)


@pytest.mark.parametrize("name", OBJECTS)
def test_a_guess_that_is_called_on_the_class_is_answered(name: str) -> None:
    for guess, ours in OBJECTS[name].items():
        with pytest.raises(AttributeError, match=re.escape(ours)):
            getattr(getattr(dbs_address_space, name), guess)(0)


def test_a_guess_at_a_name_of_the_package_is_answered() -> None:
    for guess, ours in guesses(BLOCKS["MODULE"]).items():
        with pytest.raises(AttributeError, match=re.escape(f": use {ours}")):
            getattr(dbs_address_space, guess)
    with pytest.raises(AttributeError, match=r"has no attribute 'nothing'$"):
        _ = dbs_address_space.nothing  # type: ignore[attr-defined]


def test_our_names_are_there(world: World) -> None:
    """A hint that begins with a name, as most do, begins with one that there is."""
    for name, table in OBJECTS.items():
        if name in WITHOUT_OBJECT:
            continue
        owner = world.owner(name)
        for ours in table.values():
            first = re.match(r"(\w+)(?=\(|$|,)", ours)
            holder: Any = owner if first and hasattr(owner, first[1]) else dbs_address_space
            assert first is None or hasattr(holder, first[1]), (name, ours)
    for ours in guesses(BLOCKS["MODULE"]).values():
        assert hasattr(dbs_address_space, re.split(r"\W", ours.removeprefix("the module "))[0]), ours


def test_what_is_there_stays_visible() -> None:
    assert {"search", "read", "array"} <= set(dir(World().memory))
    assert "firmware" in dir(Machine.named("q35"))
    assert GuestMemory.search is not None
    assert "is search" in repr(vars(GuestMemory)["find"])
    region = AddressSpaceRegion("ram", 0, PAGE)
    assert set(dir(region)) == {name for name in dir(region) if hasattr(region, name)}


QUICK = {
    f"{owner}.{name}"
    for owner, names in {
        "AddressSpaceBase": "from_regions overlapping gaps insert_region replace_region",
        "AddressSpace": "from_regions overlapping gaps replace_region dispatch remove_region wait_for_change "
        "split_region join_regions move_region protect grow_region",
        "Transaction": "replace_region split_region join_regions move_region protect grow_region",
        "DirtyPages": "bitmap",
        "GuestMemory": "read read_into write fill view pin copy translate readv_into read_c_string compare hexdump "
        "part aliases check_range find_zero_pages discard unpack pack read_from write_to load store swap compare_exchange "
        "fetch_add fetch_sub fetch_and fetch_or fetch_xor read_u8 read_u16 read_u32 read_u64 "
        "write_u8 write_u16 write_u32 write_u64 wake_value",
        "DaxWindow": "map_file unmap",
    }.items()
    for name in names.split()
}
"""Callables that stay as PyO3 makes them: quick ones, which `**others` would make slower, and those with hardly an option."""
OF_PYTHON = {"DimmSlots", "MemoryBlocks", "AddressRange", "GuestFile", "SavedSpace", "VhostUserRegion"}
SUGGESTING = {
    str(signature): signature
    for signature in signatures()
    if len(signature.parameters) > 1
    and signature.owner not in OF_PYTHON
    and str(signature) not in QUICK
    and (signature.owner or signature.name in vars(tables))
}


@pytest.mark.parametrize("name", SUGGESTING)
def test_a_misspelt_keyword_is_answered_with_ours(world: World, name: str) -> None:
    signature = SUGGESTING[name]
    function, required = world.callable(signature), world.required(signature)
    for keyword in (parameter.name for parameter in signature.parameters):
        misspelt = keyword[:-2] + keyword[-1] if len(keyword) > 3 else keyword + "z"
        with pytest.raises(TypeError, match=rf"keyword argument '{misspelt}': did you mean '{keyword}'\?"):
            call(function, signature, required, **{misspelt: None})
    with pytest.raises(TypeError, match=r"'xyzzy': it takes \w+, \w+"):
        call(function, signature, required, xyzzy=None)


def test_the_callables_that_suggest_are_most_with_options() -> None:
    assert len(SUGGESTING) >= 30
    assert {str(signature) for signature in signatures()} >= QUICK


@pytest.mark.parametrize(
    ("guess", "ours"),
    [("numa_node_id", "host_numa_node_id"), ("prot", "prot_flags"), ("hugepage", "is_hugepage"), ("fd", "file")],
)
def test_a_guessed_keyword_is_answered_as_the_attribute_is(guess: str, ours: str) -> None:
    with pytest.raises(TypeError, match=f"did you mean '{ours}'"):
        AddressSpaceRegion("ram", 0, PAGE, **{guess: 0})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"did you mean '{ours}'"):
        AddressSpaceRegion("ram", 0, PAGE).replace(**{guess: 0})
