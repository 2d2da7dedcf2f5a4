"""Adapters that let other programs use guest memory. Each module needs its program, so the package itself imports none of them.

`unicorn` and `drgn` are also `AddressSpace.attach_unicorn` and `attach_drgn`. `volatility3` has a layer, `qemu` the arguments
that make a QEMU use the memory and a reader of a QEMU's map, `gdb` a script for `gdb -p`.
"""

__all__: list[str] = []
