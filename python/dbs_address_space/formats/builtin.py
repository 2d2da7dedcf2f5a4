"""The table of the formats that come with the package, and how each is recognized: by its content, never by its name."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from .registry import Format

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["FORMATS"]


def _begins(*magics: bytes) -> Callable[[Source], bool]:
    return lambda source: source.head.startswith(magics)


def _has(pattern: bytes) -> Callable[[Source], bool]:
    """A pattern near the beginning of what is a text."""
    return lambda source: (
        b"\0" not in source.head and re.search(pattern, source.head, re.MULTILINE | re.DOTALL) is not None
    )


def _in(module: str, function: str) -> Callable[..., Any]:
    """A function of a module that is imported when it is first called."""

    def call(*arguments: object, **options: object) -> Any:
        return getattr(import_module(f"{__package__}.{module}"), function)(*arguments, **options)

    return call


def _refuses(advice: str) -> Callable[..., AddressSpace]:
    def refuse(source: Source, **_options: object) -> AddressSpace:
        raise source.error(advice)

    return refuse


def _format(
    name: str,
    title: str,
    sniff: Callable[[Source], bool] | None,
    *,
    module: str = "",
    writes: bool = False,
    **more: Any,
) -> Format:
    """A format with a module, of its name if none is given."""
    write = _in(module or name, "write") if writes else None
    return Format(name, title, sniff=sniff, read=_in(module or name, "read"), write=write, **more)


def _is_memmap(source: Source) -> bool:
    if source.is_directory:
        return (Path(source.path) / "0/start").exists()
    return _has(rb"\A\d+ 0x[0-9a-f]+ 0x[0-9a-f]+ \w")(source)


FORMATS = (
    _format("elf", "an ELF64 core dump", _begins(b"\x7fELF"), writes=True, suffixes=(".elf", ".core")),
    _format("lime", "a LiME dump", _begins(b"EMiL"), writes=True, suffixes=(".lime",)),
    _format(
        "json",
        "a map as JSON",
        _has(rb"\A\s*\{.*?\"dbs-address-space/map\""),
        module="map_json",
        writes=True,
        suffixes=(".json",),
    ),
    _format("mtree", "the map of a QEMU", _has(rb"^FlatView #")),
    _format(
        "log",
        "the memory map in a kernel's log",
        _has(rb"BIOS-e820: |efi: mem\d+: "),
        module="kernel_log",
        writes=True,
        suffixes=(".log",),
    ),
    _format("iomem", "/proc/iomem", _has(rb"\A *[0-9a-f]{8,16}-[0-9a-f]{8,16} : ")),
    _format("firmware-memmap", "/sys/firmware/memmap", _is_memmap, module="firmware_memmap"),
    _format(
        "memmap",
        "memmap= of a kernel's command line",
        _has(rb"(\A|\s)memmap=\S"),
        module="memmap_parameter",
        writes=True,
        suffixes=(".cmdline",),
    ),
    _format("e820", "an E820 table in binary", None, writes=True, suffixes=(".e820",)),
    _format("raw", "raw memory", None, writes=True, suffixes=(".raw",)),
)
