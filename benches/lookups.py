"""`find_region` against `bisect` and an index over Python lists, and what a change costs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import spaces
from harness import MICROSECONDS, Measure, Pace, Result, per_item, statement

FIND, FIND_REFERENCE = "find(address)", "regions[bisect_right(starts, address) - 1]"
SPEED_GOALS = {1: 1 / 1.15, 4: 1.0, 64: 1.0, 4096: 3.0}


def find(pace: Pace) -> Iterator[Result]:
    """Look-ups on a live space; the reference does not even check the region's end."""
    for count in spaces.COUNTS:
        space = spaces.space_of(count)
        addresses = [spaces.base(index) + 64 for index in spaces.random_indexes(count)]
        known = {
            "find": space.find_region,
            "address": spaces.base(count // 2) + 64,
            "addresses": addresses,
            "regions": list(space),
            "starts": [region.base for region in space],
            "bisect_right": bisect_right,
        }
        space.find_region(spaces.base(0))
        samples = pace.in_turns(statement(FIND, **known), statement(FIND_REFERENCE, **known))
        goal = SPEED_GOALS[count]
        yield Result("look-ups", f"find_region, {count:,} regions, same address", *samples, Measure.SPEED, goal)
        samples = pace.in_turns(
            per_item(statement(f"for address in addresses: {FIND}", **known), addresses),
            per_item(statement(f"for address in addresses: {FIND_REFERENCE}", **known), addresses),
        )
        yield Result("look-ups", f"find_region, {count:,} regions, random", *samples, Measure.SPEED, goal)


def change(pace: Pace) -> Iterator[Result]:
    """A pair of insertion and removal in the largest space: without memory, and with a memfd mapped and unmapped each time."""
    count = max(spaces.COUNTS)
    pair = "insert(region); remove(region)"
    for state, goal in (("unmapped", 150e-6), ("mapped", None)):
        space = spaces.space_of(count)
        if state == "mapped":
            space.map_memory()
        region = spaces.ram(spaces.base(count // 2) + spaces.PAGE)
        samples = pace.alone(statement(pair, insert=space.insert_region, remove=space.remove_region, region=region))
        name = f"insert_region + remove_region, {count:,} regions, {state}"
        yield Result("changes", name, *samples, Measure.ALONE, goal, MICROSECONDS)
