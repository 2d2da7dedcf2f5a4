"""Adapters that let other programs use guest memory. Each module needs its program, so the package itself imports none of them.

`unicorn` and `drgn` are also `AddressSpace.attach_unicorn` and `attach_drgn`. `volatility3` has a layer, `qemu` the arguments
that make a QEMU use the memory, and a reader of a running QEMU's map and memory, `gdb` a script for `gdb -p`. `kvm_state` has the
registers of a virtual CPU, to go back with the memory to a checkpoint.
"""

from importlib import import_module
from types import ModuleType

__all__: list[str] = []
_MODULES = ("drgn", "gdb", "kvm_state", "qemu", "unicorn", "volatility3")


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(_MODULES)


def needs(package: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error of an adapter whose program is not installed; any other module that is missing is told of as it is."""
    if error.name is None or error.name.partition(".")[0] != package:
        return error
    return ModuleNotFoundError(
        f"this adapter needs {package}: pip install 'dbs-address-space[{package}]'", name=package
    )
