"""One guest boots, and becomes fifty, each with another input.

    python examples/fork_guest.py [--count 50] [--engine kvm|unicorn]

The memory of each is `Checkpoint.fork()`: the booted guest's, of which only pages that are written are copied.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from dbs_address_space import AddressSpace
from engine import EngineMissing
from ring3_kvm import DEVICE, Ring3Machine, new_space
from ring3_unicorn import UnicornMachine

CODE, TABLE, INPUT = 0x10000, 0x20000, 0x30000


def quad(value: int) -> bytes:
    """Eight bytes of machine code."""
    return value.to_bytes(8, "little")


BOOT = (
    b"\x48\xbf" + quad(TABLE)  # mov rdi, TABLE
    + b"\x31\xc9"  # xor ecx, ecx
    + b"\x89\xc8\x0f\xaf\xc1\x89\x04\x8f\xff\xc1\x81\xf9\0\1\0\0\x72\xee"  # do { table[ecx] = ecx * ecx } while (++ecx < 256)
    + b"\x48\xbb" + quad(DEVICE)  # mov rbx, DEVICE
    + b"\x88\x0b"  # mov [rbx], cl: booted
    + b"\x48\xbe" + quad(INPUT)  # mov rsi, INPUT
    + b"\x31\xd2"  # xor edx, edx
    + b"\x0f\xb6\x06\x48\xff\xc6\x84\xc0\x74\x05\x03\x14\x87\xeb\xf1"  # while (al = *rsi++) edx += table[al]
    + b"\x89\x13"  # mov [rbx], edx: the answer
)  # fmt: skip
"""A guest that prepares a table of squares, says so, and then sums up the squares of the bytes of its input."""


def machine_on(space: AddressSpace, engine: str) -> Any:
    """A machine on a space: on KVM if it is there, else on Unicorn."""
    if engine != "unicorn":
        try:
            return Ring3Machine(space)
        except EngineMissing:
            if engine == "kvm":
                raise
    return UnicornMachine(space)


def private_memory() -> int:
    """Bytes that this process has for itself alone."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024


def main(arguments: list[str] | None = None) -> list[int]:
    """Boots one, forks it, and prints what each says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50, help="how many forks (50)")
    parser.add_argument("--engine", choices=["auto", "kvm", "unicorn"], default="auto")
    options = parser.parse_args(arguments)

    space = new_space()
    space.memory.write(CODE, BOOT)
    parent = machine_on(space, options.engine)
    parent.boot(CODE)
    parent.run()
    state = parent.registers()
    answers = []
    with space.memory.checkpoint() as booted:
        began, before = time.perf_counter(), private_memory()
        forks = [booted.fork() for _ in range(options.count)]
        seconds = time.perf_counter() - began
        for number, fork in enumerate(forks):
            fork.memory.write(INPUT, b"guest %d\0" % number)
            child = machine_on(fork, options.engine)
            child.resume(state)
            _, answer = child.run()
            print(f"guest {number}: the squares of its input are {answer}")
            answers.append(answer)
            child.close()
        taken = private_memory() - before
    parent.close()
    print(
        f"{type(parent).__name__}: {seconds / options.count * 1e6:.0f} µs a fork, {taken // options.count >> 10} KiB a guest"
    )
    return answers


if __name__ == "__main__":
    main()
