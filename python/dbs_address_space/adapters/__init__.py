"""Adapters that let other programs use guest memory. Each module needs its program, so the package itself imports none of them.

`unicorn` and `drgn` are also `AddressSpace.attach_unicorn` and `attach_drgn`. `volatility3` has a layer, `qemu` the arguments
that make a QEMU use the memory and a reader of a QEMU's map, `gdb` a script for `gdb -p`.
"""

from importlib import import_module
from types import ModuleType

__all__: list[str] = []
_MODULES = ("drgn", "gdb", "qemu", "unicorn", "volatility3")


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(_MODULES)
