"""Arguments by the name of their parameter: mostly such that a call comes far, else anything."""

import inspect
import struct
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile import BUFFERS, Hostile, Stream, Victim, odd

DEVICE, WINDOW = 1 << 45, (1 << 45) + (1 << 20)
ADDRESSES = [0, 8, 0xFFFC, 0x10000, 0x1FFF8, 0x40000, 0x42FF8, 0x80000, 0xC0000, 0x100000, DEVICE, WINDOW]
SIZES = [0, 1, 8, 0x100, 0x1000, 0x3000, 0x10000, "4KiB", "64KiB", "320MiB", 1 << 45, 1 << 56]
NUMBERS = [0, 1, 2, 8, 255, 1 << 16, (1 << 64) - 1]
FLAGS = [True, False]
REGIONS = ["low", "rom", "dax", "device", "file", 0, 0x40000]
# Never odd ints, which may name descriptors of others.
ENDPOINTS = {"file", "fd", "fds", "sock", "vm_fd", "path", "mem_file_path", "device"}
CALLBACKS = {"allow", "progress", "callback", "client", "client_or_callable", "handler", "uc", "program"}
WAITS = {"timeout"}
SENSIBLE: dict[str, list[Any]] = {
    **dict.fromkeys(["addr", "base", "dst", "src", "start", "low", "key", "ofs"], ADDRESSES),
    **dict.fromkeys(["size", "max_size", "width", "length", "block_size"], SIZES),
    **dict.fromkeys(
        [
            *("value", "expected", "new", "byte", "pad", "offset", "file_offset", "align", "limit", "slots", "threads"),
            *("first_slot", "max_slots", "request"),
        ],
        NUMBERS,
    ),
    **dict.fromkeys(["region", "regions", "old", "target", "x", "name"], REGIONS),
    "ranges": [[(0, 8)], [(0, 1 << 45)], [(1 << 40, 1 << 30)], [(0, 8), (0x10000, 64)], []],
    "pairs": [[(0, b"x")], [(0, b"x"), (0x10000, b"y" * 64)], []],
    "addresses": [array("Q", [0, 8]), array("Q", [1 << 44]), array("Q")],
    "widths": [(1, 2, 4, 8), (3,), ()],
    "fmt": ["<Q", "16s", struct.Struct("<IIQ"), "x", "", "999999999999s"],
    "order": ["relaxed", "acquire", "release", "acq_rel", "seq_cst"],
    "shape": [1, (4,), (2, 3), ()],
    "dtype": ["u1", "<u8", "f4", "O"],
    "algorithm": ["blake3", "sha256"],
    "mode": ["rb", "r+b", "bind", "interleave"],
    "holes": ["error", "zero"],
    "region_type": ["ram", "device", "dax", "firmware"],
    "perm_flags": [1, 2, 0x22],
    "prot_flags": [0, 1, 3, 5, "rw-"],
    "mem_type": ["shmem", "mmap", "hugemmap", "hugeshmem", "hugetlbfs"],
    "policy": ["first", "last", "best"],
    "machine": ["q35", "virt"],
    "text": ["?? 12", '{"machine": []}', "12 34"],
    "layout": [None],
    **dict.fromkeys(["force", "writable", "unguarded", "background", "writes", "dirty_log"], FLAGS),
}


class Arguments:
    """Chooses arguments for a victim, of which some are objects that it has."""

    def __init__(self, victim: Victim, path: Path, objects: list[Any]) -> None:
        self.victim, self.path, self.objects = victim, path, objects

    def endpoint(self) -> Any:
        choices: list[Any] = [self.path, str(self.path), self.path.parent, self.path / "missing", None, 1.5, b"x", -1]
        own = self.victim.fileno()
        choices += [own, Hostile(self.victim, numbers=[own]), Stream(self.victim), [own]]
        return self.victim.random.choice(choices)

    def argument(self, name: str) -> Any:
        random = self.victim.random
        if name in ENDPOINTS:
            return self.endpoint()
        if name in WAITS:
            # Nothing is waited for without an end.
            return random.choice([0, 0.01, -1, "x", float("nan"), Hostile(self.victim, "raise")])
        if name in CALLBACKS and random.random() < 0.8:
            return Hostile(self.victim)
        if name in {"data", "needle", "buffer", "payload"} and random.random() < 0.6:
            return random.choice(BUFFERS)()
        if name in SENSIBLE and random.random() < 0.7:
            return random.choice(SENSIBLE[name])
        return odd(self.victim, self.objects)

    def of(self, function: Callable[..., object]) -> tuple[list[Any], dict[str, Any]]:
        """By its signature mostly; too many, too few and misnamed ones too."""
        random = self.victim.random
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return [odd(self.victim, self.objects) for _ in range(random.randrange(3))], {}
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for parameter in parameters:
            is_needed = parameter.default is parameter.empty or parameter.name in WAITS
            if parameter.kind is parameter.VAR_KEYWORD or (not is_needed and random.random() > 0.3):
                continue
            value = self.argument(parameter.name)
            if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL}:
                positional.append(value)
            elif parameter.kind is parameter.KEYWORD_ONLY or named or parameter.default is not parameter.empty:
                named[parameter.name] = value
            else:
                positional.append(value)
        if random.random() < 0.02:
            named["sise"] = 1
        return positional, named
