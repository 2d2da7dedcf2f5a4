"""What a plan costs."""

from __future__ import annotations

from collections import namedtuple

__all__ = ["PlanCost"]


class PlanCost(namedtuple("PlanCost", ["size", "preallocated", "pages", "nodes"])):
    """What a plan takes from a host: bytes of RAM and firmware, bytes that are there from the beginning, pages, nodes.

    `pages` counts pages by their size in bytes, `nodes` bytes by host NUMA node, where `None` stands for any. Small pages count
    4 KiB, and huge ones 2 MiB where no size is given: a plan looks at no host.
    """

    __slots__ = ()
    size: int
    preallocated: int
    pages: dict[int, int]
    nodes: dict[int | None, int]
