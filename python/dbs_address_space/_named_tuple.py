"""Named tuples written as with `typing.NamedTuple`, whose import would take as long as the whole package's."""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple
else:

    class _Fields(type):
        """Makes classes of named tuples: their fields are what they annotate."""

        def __new__(cls, name: str, _bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            fields = namespace["__annotations__"]
            base = namedtuple(name, fields, defaults=[namespace.pop(field) for field in fields if field in namespace])
            return type(name, (base,), {"__slots__": (), **namespace})

    NamedTuple = type.__new__(_Fields, "NamedTuple", (), {"__doc__": "The base of a named tuple."})


def in_hex(record: Any, *names: str) -> str:
    """The `repr` of a named tuple, with the named fields in hex: addresses and bytes."""
    shown = (
        f"{name}={value:#_x}" if name in names else f"{name}={value!r}" for name, value in record._asdict().items()
    )
    return f"{type(record).__name__}({', '.join(shown)})"


__all__ = ["NamedTuple", "in_hex"]
