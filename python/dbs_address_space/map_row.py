"""The rows of a map: what every table and picture shows."""

from __future__ import annotations

from ._named_tuple import NamedTuple, in_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._core import AddressSpaceRegion

__all__ = ["MapRow"]


class MapRow(NamedTuple):
    """A row of a table or picture: a region, neighbours that are shown as one, reserved or free addresses.

    Addresses and sizes are bytes, the end is exclusive. `kind` is `"region"`, `"group"`, `"reserved"` or `"free"`; `look` is the
    type that all regions of the row have, `"mixed"` where they differ, and the kind of a row without regions. `size` is that of
    the regions: a group's gaps don't count. `name` and the four texts behind it are what is shown: empty where there is nothing,
    `"…"` where the regions of a group differ.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> rows = AddressSpaceBuilder(numa_regions=["1GiB", "1GiB"]).build().rows(limit=1)
    >>> rows[0].kind, rows[0].type_text, rows[0].size == 2 << 30
    ('group', '2 ram', True)
    """

    base: int
    end: int
    size: int
    kind: str
    look: str
    name: str
    type_text: str
    prot: str
    backing: str
    node: str
    is_hotplug: bool
    regions: tuple[AddressSpaceRegion, ...]

    def __repr__(self) -> str:
        return in_hex(self, "base", "end", "size")
