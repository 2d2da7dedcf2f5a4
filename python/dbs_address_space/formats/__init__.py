"""Files that hold a map of guest physical memory, or the memory itself, for `load` and `dump`; formats of your own.

Each format is a small module here; `builtin` has the table of all, and says by which bytes each is recognized.
"""

from .elf_file import elf_notes
from .registry import Format, register
from .source import Source

__all__ = ["Format", "Source", "elf_notes", "register"]
