"""Tables for a guest, as bytes: E820, ACPI SRAT, SLIT, HMAT and NFIT, device tree; page tables and segments of x86-64."""

from ._core import device_tree, e820, slit, srat
from .acpi_tables import hmat, nfit
from .x86_tables import gdt, page_tables

__all__ = ["device_tree", "e820", "gdt", "hmat", "nfit", "page_tables", "slit", "srat"]
