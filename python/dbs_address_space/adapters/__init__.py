"""Other people's programs on our memory: each module needs its program, and none is imported by the package itself.

`unicorn` and `drgn` are also `AddressSpace.attach_unicorn` and `attach_drgn`. `volatility3` is a layer, `qemu` the arguments that
make a QEMU use our memory and a reader of a QEMU's map, `gdb` a script for `gdb -p`.
"""

__all__: list[str] = []
