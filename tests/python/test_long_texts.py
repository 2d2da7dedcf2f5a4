"""Texts of any length: refused at once, in a message that can be read."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpaceRegion,
    BackingOptions,
    load,
)

LONG = {"ascii": "x" * 20_000_000, "surrogates": "\ud800" * 2_000_000}
DOORS: dict[str, Callable[[Any, Any], Any]] = {
    "getitem": lambda space, text: space[text],
    "contains": lambda space, text: text in space,
    "remove": lambda space, text: space.remove_region(text),
    "split": lambda space, text: space.split_region(text, 1),
    "size": lambda space, text: space.memory.read(0, text),
    "type": lambda _, text: AddressSpaceRegion(text, 0, 4096),
    "source": lambda _, text: AddressSpaceRegion("ram", 0, 4096, mem_type=text),
    "name": lambda _, text: AddressSpaceRegion("ram", 0, 4096, name=text),
    "protection": lambda space, text: space.protect(0, 4096, text),
    "keyword": lambda space, text: space.find_free(1, **{text: 1}),
    "order": lambda space, text: space.memory.load(0, 8, order=text),
    "mode": lambda space, text: space.memory.dirty.start(text),
    "private": lambda space, text: space.share(0, private=text),
    "algorithm": lambda space, text: space.memory.hash(0, 1, algorithm=text),
    "policy": lambda _, text: BackingOptions(policy=text),
    "partial pages": lambda space, text: space.attach_kvm(0, partial_pages=text),
    "format": lambda _, text: load(b"x", format=text),
}


@pytest.fixture(scope="module")
def space() -> AddressSpace:
    return AddressSpaceBuilder(numa_regions=["4MiB"]).build()


@pytest.mark.parametrize("text", LONG)
@pytest.mark.parametrize("door", DOORS)
def test_a_long_text_is_refused_in_a_short_message(space: AddressSpace, door: str, text: str) -> None:
    begun = time.process_time()
    with pytest.raises((TypeError, ValueError, LookupError)) as caught:
        DOORS[door](space, LONG[text])
    assert time.process_time() - begun < 2
    assert len(str(caught.value)) < 2000
