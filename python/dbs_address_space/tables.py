"""Tables that tell a guest of its memory: the E820 map, ACPI SRAT and SLIT, device-tree memory nodes, each as bytes."""

from ._core import device_tree, e820, slit, srat

__all__ = ["device_tree", "e820", "slit", "srat"]
