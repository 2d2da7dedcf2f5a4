"""The samples of each format, and what is in them; `samples/README.md` tells how each was made."""

import gzip
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import AccessDenied, AddressSpace, FormatError, MemoryFault, UnmappedAddress, load

SAMPLES = Path(__file__).parent / "samples"


@dataclass(frozen=True)
class Holds:
    """The ranges of RAM, bytes at addresses, and addresses that were left out."""

    ranges: list[tuple[int, int]]
    reads: dict[int, bytes] = field(default_factory=dict)
    absent: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


MICROVM = Holds(
    [(0, 0x4_0000), (0xF_0000, 0x10_0000), (0xFFFF_0000, 1 << 32)],
    {0x1000: b"hello-kdump", 0x3_F000: bytes(range(256))},
)
RIGHT: dict[str, Holds | str] = {
    "elf-qemu72-two-ranges.core": Holds(
        [(0xFFFF_E000, 0x1_0000_2000)], {1 << 32: b"above-4g", 0x1_0000_1FF8: b"last-8b!"}
    ),
    "elf-qemu72-mid-page.core": Holds([(0x1234, 0x3579)], {0x1234: b"START", 0x3576: b"END"}),
    "elf-qemu72-microvm.core.gz": MICROVM,
    "elf-filesz-lt-memsz.core": Holds([(0x1000, 0x4000), (0x10_0000, 0x10_1000)], absent=(0x2000, 0x3FFF)),
    "elf-filesz-gt-memsz.core": r"the segment at 0x1000 has 0x2000 bytes in the file and 0x1000 in memory",
    "elf-notes-only.core": r"there is no memory in it",
    "elf-no-phdrs.core": r"no program headers",
    "elf-truncated-in-phdrs.core": r"truncated: of the table of 2 program headers, .* 0x2e bytes are missing",
    "elf-phentsize-64.core": Holds([(0x5000, 0x6000), (0x9000, 0xA000)], {0x5000: b"five", 0x9000: b"nine"}),
    "elf-overlap-same-bytes.core": Holds([(0x10_0000, 0x10_2000)]),
    "elf-partial-overlap.core": r"\[0x1000, 0x3000\) and \[0x2000, 0x4000\) overlap",
    "elf-wrap.core": r"0x2000 bytes at 0xfffffffffffff000 are not a range",
    "elf-process-core.core": r"the core of a process",
    "elf-big-endian-ppc64.core": r"big-endian",
    "elf-et-exec.core": r"not a core dump",
    "elf-aarch64.core": Holds([(0x4000_0000, 0x4000_1000)]),
    "elf-pn-xnum-lie.core": r"truncated: of the table of 2147483647 program headers",
    "lime-two-ranges-mid-page.lime": Holds([(0x1000, 0x3004), (1 << 32, 0x1_0000_1000)], {0x3000: b"tail"}),
    "lime-avml-style-blocks.lime": Holds([(0, 0x8000), (0xC000, 0x1_0000)]),
    "lime-unsorted.lime": Holds([(0x1000, 0x2000), (1 << 32, 0x1_0000_1000)]),
    "lime-end-before-start.lime": r"a record ends at 0x1000, before it begins at 0x2000",
    "lime-truncated-header.lime": r"truncated.*\(at offset 0x1020\)",
    "lime-version-2.lime": r"version 2 is not known",
    "lime-single-byte.lime": Holds([(0x5000, 0x5001), (0x7000, 0x8000)]),
    "kdump-qemu72-microvm.flat.gz": MICROVM,
    "kdump-microvm-rearranged.kdump.gz": MICROVM,
    "kdump-flat-shuffled.flat.gz": MICROVM,
    "kdump-flat-no-end-flag.flat.gz": r"truncated: of the next block or the end of the stream",
    "kdump-bitmap-blocks-4g.kdump.gz": r"truncated: of the bitmaps, ",
    "kdump-block-size-3.kdump.gz": r"blocks of 4097 bytes",
    "avml-v2.avml": Holds([(0x1000, 0x2_9000), (1 << 32, 0x1_0000_2000)]),
    "avml-wrong-trailer.avml": r"the memory \[.*\) has 0x.* packed bytes, and 0x7 by its end",
    "avml-cut.avml": r"truncated: of the memory \[",
    "virt-2-nodes.dtb.gz": Holds([(0x4000_0000, 0xC000_0000)]),
    "srat-qemu72-2-nodes-hotplug.bin": Holds([(0, 0xA_0000), (0x10_0000, 0x4000_0000)]),
    "windows-full.dmp": Holds(
        [(0x1000, 0x4000), (0x10_0000, 0x10_2000), (1 << 32, 0x1_0000_1000)], {0x10_1000: b"pfn101 "}
    ),
    "windows-bitmap.dmp": Holds(
        [(0x1000, 0x4000), (0x2_0000, 0x2_2000), (0x4_0000, 0x4_1000), (0x5_F000, 0x6_0000)], {0x5_F000: b"pfn95 "}
    ),
    "windows-truncated.dmp": r"truncated: of the memory \[0x1000, 0x4000\), .* 0x2000 bytes are missing",
    "windows-bitmap-count-wrong.dmp": r"truncated: of the memory \[0x1000, 0x3000\), .* 0x1000 bytes are missing",
    "windows-type-triage-minidump-4.dmp": r"a Windows dump of type 4 \(small\)",
    "windows-type-kernel-8.dmp": r"a Windows dump of type 8 \(kernel memory\)",
    "windows-32bit.dmp": r"32-bit Windows",
    "xen-hvm-pfn.core": Holds([(0, 0x2000), (1 << 32, 0x1_0000_1000)]),
    "xen-pv-p2m.core": Holds([(0, 0x1000), (0x5000, 0x6000)]),
    "vmware/guest.vmem": Holds([(0, 0x3000), (1 << 32, 0x1_0000_2000)]),
    "vmware/guest.vmsn": Holds([(0, 0x3000), (1 << 32, 0x1_0000_2000)]),
    "vmware/flat.vmem": Holds([(0, 0x2000)]),
    "vmware/flat.vmss": Holds([(0, 0x2000)]),
    "cloud-hypervisor": Holds([(0, 0x4000), (1 << 32, 0x1_0000_2000)], {1 << 32: b"chhi"}),
    "qemu72-microvm.mig.gz": r"a migration stream of QEMU.*dump-guest-memory",
    "qemu-mapped-ram.mig.gz": r"a migration stream of QEMU.*dump-guest-memory",
    "libvirt-save.img": r"virsh dump --memory-only",
    "libvirt-save-gzip.img": r"virsh dump --memory-only",
    "e820-20-byte.bin": Holds([(0, 0x9_FC00), (0x10_0000, 0x8000_0000)], options={"format": "e820"}),
    "e820-24-byte.bin": Holds([(0, 0x9_FC00), (0x10_0000, 0x8000_0000)], options={"format": "e820", "entry_size": 24}),
    "dmesg-qemu-numa-memmap-arg.txt": Holds([(0, 0x9_FC00), (0x10_0000, 0x3FFE_0000)]),
    "sys-firmware-memmap.txt": Holds([(0, 0x9_FC00), (0x10_0000, 0x3FFE_0000)]),
    "iomem-qemu-numa-memmap-arg.txt": Holds([(0x1000, 0x9_FC00), (0x10_0000, 0x1000_0000), (0x1100_0000, 0x3FFE_0000)]),
    "mtree-q35-dimm-virtio-mem.txt": Holds([(0, 0xC_0000), (0x10_0000, 0x4000_0000), (1 << 32, 0x1_6000_0000)]),
}
DAMAGED = {
    "kdump-page-desc-outside.kdump.gz": (0x0, r"the page at 0x0 reaches behind the end of the file"),
    "avml-bad-crc.avml": (0x1000, r"the memory at 0x1000 can't be unpacked"),
}
"""Where a page can't be unpacked, and why."""


def opened(name: str, **options: Any) -> AddressSpace:
    path = SAMPLES / name
    return load(gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path, **options)


def ram(space: AddressSpace) -> list[tuple[int, int]]:
    return [(range_.base, range_.end) for range_ in space.ranges("ram")]


@pytest.mark.parametrize("name", [name for name, right in RIGHT.items() if isinstance(right, Holds)])
def test_a_sample_holds_what_was_put_into_it(name: str) -> None:
    right = RIGHT[name]
    assert isinstance(right, Holds)
    space = opened(name, **right.options)
    assert ram(space) == right.ranges
    assert {address: space.memory.read(address, len(there)) for address, there in right.reads.items()} == right.reads
    for address in right.absent:
        with pytest.raises(AccessDenied, match="not in the dump"):
            space.memory.read(address, 1)


@pytest.mark.parametrize("name", [name for name, right in RIGHT.items() if isinstance(right, str)])
def test_a_sample_is_refused_with_the_reason(name: str) -> None:
    reason = RIGHT[name]
    assert isinstance(reason, str)
    with pytest.raises(FormatError, match=reason) as raised:
        opened(name)
    assert raised.value.format
    assert name.endswith(".gz") or raised.value.path == str(SAMPLES / name)


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_found_when_a_page_is_unpacked(name: str) -> None:
    address, reason = DAMAGED[name]
    with pytest.raises(MemoryFault, match=reason):
        opened(name).memory.read(address, 1)
    with pytest.raises(FormatError, match=reason):
        opened(name, copy=True)


def test_what_was_left_out_reads_as_zeroes_only_on_demand() -> None:
    memory = opened("elf-filesz-lt-memsz.core", absent="zero").memory
    assert memory.read(0x2000, 0x2000) == bytes(0x2000)
    with pytest.raises(UnmappedAddress):
        memory.read(0x5000, 1)


def test_what_a_cut_file_has_is_read_on_demand() -> None:
    content = (SAMPLES / "lime-unsorted.lime").read_bytes()[:-0x1000]
    with pytest.raises(
        FormatError,
        match=re.escape("truncated: of the memory [0x1000, 0x2000), [0x1040, 0x2040), 0x1000 bytes are missing"),
    ):
        load(content)
    memory = load(content, partial=True).memory
    assert memory.read(1 << 32, 4)
    with pytest.raises(AccessDenied, match="not in the dump"):
        memory.read(0x1000, 1)
