"""A virtual machine's guest-physical address space, and the memory behind it.

An `AddressSpace` holds typed `AddressSpaceRegion`s that keep an `AddressSpaceLayout`. `map_memory()` gives each its bytes, as a
`GuestMemory`. `snapshot()` is the map as an immutable `AddressSpaceBase`.

>>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
>>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
>>> base = space.insert_region(AddressSpaceRegion("ram", 0, "64MiB", name="ram-low"))
>>> with space.map_memory() as memory:
...     memory.write(0x1000, b"hello")
...     memory.read(0x1000, 5)
b'hello'
"""

import sys

# Not `sys.platform == "linux"`: type checkers on other systems would then skip the rest of this file.
if "linux" not in sys.platform:
    raise ImportError(f"dbs_address_space needs Linux on x86_64 or aarch64; this is {sys.platform}")
try:
    import _interpreters  # type: ignore[import-not-found,unused-ignore]  # from 3.13 on
except ImportError:
    import _xxsubinterpreters as _interpreters  # type: ignore[import-not-found,unused-ignore,no-redef]

# From 3.12 on Python refuses isolated ones by itself, and no others: they all would share the native classes.
if _interpreters.get_current() != _interpreters.get_main():
    raise ImportError("dbs_address_space can be imported in the main interpreter only, not in a sub-interpreter")

from . import _core
from ._core import __version__, usable_end

# The native classes that say they belong here. Type checkers, which can't follow, read the stub instead.
globals().update({name: value for name, value in vars(_core).items() if getattr(value, "__module__", "") == __name__})
_NATIVE = [name for name in globals() if name[0] != "_" and name != "sys"] + ["__version__"]
for _native in _NATIVE[:-1]:
    if isinstance(globals()[_native], type):
        _core.guessed(globals()[_native])
_MODULES = (
    "errors",
    "enums",
    "ranges",
    "progress",
    "reports",
    "balloon",
    "hotplug",
    "images",
    "memory_blocks",
    "map_row",
    "loading",
    "formats.exchange",
)
_PUBLIC_MODULES = ("adapters", "formats", "tables", "testing")

# Who has not imported it gives nothing to other processes.
if "multiprocessing.reduction" in sys.modules:
    from . import multiprocess as _multiprocess


def __getattr__(name: str) -> object:
    """Python code is imported when it is first asked for: `enum` alone takes longer to import than all the rest."""
    from importlib import import_module  # noqa: PLC0415  as above

    if name == "__all__":
        lazy = (import_module(f"{__name__}.{module}").__all__ for module in _MODULES)
        return globals().setdefault(name, sorted({*_NATIVE, *(name for names in lazy for name in names)}))
    if name in _MODULES or name in _PUBLIC_MODULES:
        return import_module(f"{__name__}.{name}")
    if not name.startswith("__"):
        for module_name in _MODULES:
            module = import_module(f"{__name__}.{module_name}")
            if name in module.__all__:
                return globals().setdefault(name, getattr(module, name))
    hint = _core.guessed_name(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{f': use {hint}' if hint else ''}")


def __dir__() -> list[str]:
    return sorted({*__getattr__("__all__"), *_PUBLIC_MODULES})
