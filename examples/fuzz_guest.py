"""A fuzzer: a parser in guest code, put back by a checkpoint after each input, until one writes past its buffer.

    python examples/fuzz_guest.py [--seconds 20] [--engine kvm|unicorn] [--mode auto|kvm|compare] [--verify]

The parser counts the branches that it takes, as a compiler for fuzzing makes it do: an input that takes a new one is kept.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

from dbs_address_space import AddressSpace
from engine import EngineMissing
from ring3_kvm import DEVICE, SIZE, Ring3Machine, new_space
from ring3_unicorn import UnicornMachine

CODE, INPUT, BRANCHES = 0x10000, 0x20000, 0x30000
BUFFER = SIZE - 128
"""The last 128 bytes of memory: a longer record runs out of it."""
MAGIC = b"REC\x02"
MOST = 300


def quad(value: int) -> bytes:
    """Eight bytes of machine code."""
    return value.to_bytes(8, "little")


def parser_code() -> bytes:
    """A record has a magic number, a byte with its length, and as many bytes, which are copied without a look at the buffer."""
    copy = (
        b"\x0f\xb6\x4e\x04\x89\xca\xc1\xea\x05\xfe\x44\x17\x08"  # movzx ecx, [rsi+4]; branches[8 + ecx / 32]++
         b"\x48\x8d\x76\x05\x49\xb8" + quad(BUFFER)  # lea rsi, [rsi+5]; mov r8, BUFFER
        + b"\x85\xc9\x74\x0f\x8a\x06\x41\x88\x00\x48\xff\xc6\x49\xff\xc0\xff\xc9\xeb\xed"  # while (ecx--) *r8++ = *rsi++
    )  # fmt: skip
    checks = b""
    for index in reversed(range(len(MAGIC))):
        # cmp byte [rsi+index], magic; jne the end; branches[index]++
        rest = bytes([0xFE, 0x47, index]) + checks
        checks = bytes([0x80, 0x7E, index, MAGIC[index], 0x75, len(rest) + len(copy)]) + rest
    start = b"\x48\xbe" + quad(INPUT) + b"\x48\xbf" + quad(BRANCHES) + b"\x48\xbb" + quad(DEVICE)
    return start + checks + copy + b"\x88\x03"  # mov [rbx], al: the end


def mutated(data: bytes, choose: random.Random) -> bytes:
    """The input with some bytes changed."""
    changed = bytearray(data)
    for _ in range(choose.randint(1, 2)):
        changed[choose.randrange(8)] = choose.randrange(256)
    return bytes(changed)


def machine_on(space: AddressSpace, engine: str, mode: str) -> Any:
    """A machine on a space: on KVM if it is there, else on Unicorn."""
    if engine != "unicorn":
        try:
            return Ring3Machine(space, dirty_log=mode == "kvm")
        except EngineMissing:
            if engine == "kvm":
                raise
    return UnicornMachine(space)


class Fuzzer:
    """Runs inputs from one state, and knows which branches were ever taken."""

    def __init__(self, engine: str, mode: Any) -> None:
        """Load the parser, and take the checkpoint before its first instruction."""
        self.space = new_space()
        self.space.memory.write(CODE, parser_code())
        self.machine = machine_on(self.space, engine, mode)
        self.machine.boot(CODE)
        on_kvm = isinstance(self.machine, Ring3Machine)
        # Unicorn's own registers go back with every checkpoint.
        self.registers = self.machine.registers(("regs",)).apply if on_kvm else None
        self.point = self.space.memory.checkpoint(mode=mode, on_restore=self.timed_registers)
        self.corpus, self.taken = [bytes(MOST)], bytearray(16)
        self.running = self.applying = 0.0

    def timed_registers(self) -> None:
        """Put the registers back."""
        if self.registers is not None:
            began = time.perf_counter()
            self.registers()
            self.applying += time.perf_counter() - began

    def run(self, data: bytes) -> int | None:
        """The address that a crashing input wrote to; `None` for any other, which is kept when it took a new branch."""
        memory = self.space.memory
        memory.write(INPUT, data)
        began = time.perf_counter()
        addr, _ = self.machine.run()
        self.running += time.perf_counter() - began
        branches = memory.read(BRANCHES, 16)
        self.point.restore()
        if addr != DEVICE:
            return int(addr)
        if any(new and not old for new, old in zip(branches, self.taken, strict=True)):
            self.taken = bytearray(old | new for old, new in zip(self.taken, branches, strict=True))
            self.corpus.append(data)
        return None

    def close(self) -> None:
        """Let everything go."""
        self.point.close()
        self.machine.close()


def main(arguments: list[str] | None = None) -> bytes | None:
    """Fuzzes until the crash or the end of the time, and prints what bounds the rate; returns the crashing input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="the longest time (20)")
    parser.add_argument("--engine", choices=["auto", "kvm", "unicorn"], default="auto")
    parser.add_argument("--mode", choices=["auto", "pagemap", "kvm", "compare"], default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verify", action="store_true", help="compare all memory each 1,000 resets")
    options = parser.parse_args(arguments)

    fuzzer, choose = Fuzzer(options.engine, options.mode), random.Random(options.seed)
    began, crash, count = time.perf_counter(), None, 0
    while crash is None and time.perf_counter() - began < options.seconds:
        data = mutated(choose.choice(fuzzer.corpus[-4:]), choose)
        addr = fuzzer.run(data)
        count += 1
        if addr is not None:
            print(f"crash: a store to {addr:#x}, behind the buffer, by a record that begins with {data[:5]!r}")
            crash = data
        if options.verify and count % 1000 == 0 and (differing := fuzzer.point.verify()):
            raise SystemExit(f"{differing.count} pages differ after reset {count}")
    seconds, stats = time.perf_counter() - began, fuzzer.point.stats
    each = {"run": fuzzer.running, "registers": fuzzer.applying, "memory (find, compare, copy)": stats.seconds}
    each["the rest of this loop"] = seconds - sum(each.values())
    on = f"{type(fuzzer.machine).__name__}, {fuzzer.point.mode}"
    print(f"{count} resets in {seconds:.2f} s, {count / seconds:.0f} a second on {on}:")
    for name, value in each.items():
        print(f"  {name}: {value / count * 1e6:.1f} µs each")
    print(f"  {stats.hot} hot pages, {stats.copied / count:.1f} copied each time; {len(fuzzer.corpus)} inputs kept")
    fuzzer.close()
    return crash


if __name__ == "__main__":
    main()
