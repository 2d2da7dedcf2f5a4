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

    from .source import Source

__all__ = ["FORMATS"]


def _begins(*magics: bytes) -> Callable[[Source], bool]:
    return lambda source: source.head.startswith(magics)


def _has(pattern: bytes) -> Callable[[Source], bool]:
    """A pattern near the beginning of what is a text."""
    return lambda source: (
        b"\0" not in source.head and re.search(pattern, source.head, re.MULTILINE | re.DOTALL) is not None
    )


def _is_called(*suffixes: str) -> Callable[[Source], bool]:
    """The name, where a format has no sign of its own."""
    return lambda source: source.path.endswith(suffixes)


def _in(module: str, function: str) -> Callable[..., Any]:
    """A function of a module that is imported when it is first called."""

    def call(*arguments: object, **options: object) -> Any:
        return getattr(import_module(f"{__package__}.{module}"), function)(*arguments, **options)

    return call


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


def _is_command_line(source: Source) -> bool:
    return re.match(rb"\S*\bqemu(-system-\w+|-kvm)?[\s\0]", source.head) is not None


def _is_snapshot(source: Source) -> bool:
    return source.is_directory and all((Path(source.path) / name).exists() for name in ("state.json", "memory-ranges"))


def _is_xen(source: Source) -> bool:
    """An ELF file with sections, and no segment."""
    head = source.head
    return head[:6] == b"\x7fELF\2\1" and head[56:58] == b"\0\0" and head[60:62] not in (b"", b"\0\0")


def _is_vmware(source: Source) -> bool:
    """Its metadata, or memory, which has no sign of its own."""
    return source.head.startswith(VMWARE) or source.path.endswith(".vmem")


def _refused(name: str, title: str, sniff: Callable[[Source], bool], refusal: str) -> Format:
    return Format(name, title, sniff=sniff, refusal=refusal)


def _packed(name: str, *magics: bytes) -> Format:
    return _refused(name, f"a file packed by {name}", _begins(*magics), "unpack it first")


VMWARE = (b"\xd0\xbe\xd2\xbe", b"\xd1\xba\xd1\xba", b"\xd2\xbe\xd2\xbe", b"\xd3\xbe\xd3\xbe")
REFUSED = (
    _refused("lime-big", "a big-endian LiME dump", _begins(b"LiME"), "only little-endian ones are"),
    _refused("diskdump", "a dump of diskdump", _begins(b"DISKDUMP"), "crash reads those of Linux 2.4"),
    _refused("windows-32", "a dump of 32-bit Windows", _begins(b"PAGEDUMP"), "only those of 64-bit Windows are"),
    _refused("minidump", "a minidump of a process", _begins(b"MDMP"), "it has no machine's memory"),
    _refused(
        "migration",
        "a migration stream of QEMU",
        _begins(b"QEVM"),
        "it has no addresses of memory; write a dump with QMP's dump-guest-memory",
    ),
    _refused(
        "libvirt-save",
        "a machine that virsh saved",
        _begins(b"LibvirtQemudSave", b"LibvirtQemudPart"),
        "write its memory with virsh dump --memory-only",
    ),
    _refused("hyper-v", "a saved state of Hyper-V", _is_called(".vmrs", ".vsv"), "take a dump in the guest"),
    _refused(
        "zip", "a zip archive", _begins(b"PK\3\4"), "of AFF4 extract PhysicalMemory, which is raw, and name its ranges"
    ),
    _refused("mach-o", "a Mach-O file", _begins(b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe"), "convert it to an ELF core"),
    _refused(
        "hibernation",
        "Windows' hibernation file",
        _begins(b"hibr", b"HIBR", b"wake", b"WAKE"),
        "unpack it to raw memory",
    ),
    _packed("gzip", b"\x1f\x8b"),
    _packed("xz", b"\xfd7zXZ"),
    _packed("zstd", b"\x28\xb5\x2f\xfd"),
    _packed("bzip2", b"BZh"),
    _packed("lz4", b"\x04\x22\x4d\x18"),
    _packed("zlib", b"\x78\x01", b"\x78\x9c", b"\x78\xda"),
)
FORMATS = (
    _format("image", "an image that save() wrote", _begins(b"DBSASIMG"), module="saved"),
    _format("xen", "a Xen core dump", _is_xen),
    _format("elf", "an ELF64 core dump", _begins(b"\x7fELF"), writes=True, suffixes=(".elf", ".core")),
    _format("lime", "a LiME dump", _begins(b"EMiL"), writes=True, suffixes=(".lime",)),
    _format("avml", "an AVML dump", _begins(b"AVML")),
    _format("kdump", "a compressed kdump", _begins(b"KDUMP   ")),
    _format("flattened", "a stream of makedumpfile", _begins(b"makedumpfile\0\0\0\0")),
    _format("windows", "a dump of 64-bit Windows", _begins(b"PAGEDU64")),
    _format("vmware", "the memory of a VMware machine", _is_vmware),
    _format("cloud-hypervisor", "a snapshot of cloud-hypervisor", _is_snapshot, module="cloud_hypervisor"),
    _format("firecracker", "a memory file of Firecracker", None),
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
        _has(rb"\A([^\n]*\s)?memmap=(\d|exactmap)[^\n]*\n?\Z"),
        module="memmap_parameter",
        writes=True,
        suffixes=(".cmdline",),
    ),
    _format("device-tree", "a flattened device tree", _begins(b"\xd0\x0d\xfe\xed"), module="device_tree"),
    _format("srat", "an ACPI SRAT", _begins(b"SRAT")),
    _format("libvirt", "a domain of libvirt", _has(rb"\A\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<domain[\s>]")),
    _format("qemu", "a command line of QEMU", _is_command_line, module="qemu_arguments"),
    _format("e820", "an E820 table in binary", None, writes=True, suffixes=(".e820",)),
    _format("raw", "raw memory", None, writes=True, suffixes=(".raw",)),
    *REFUSED,
)
