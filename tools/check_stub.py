"""The stub against the extension, by `mypy.stubtest`, which is told that guesses are not names (`src/python/guesses.rs`)."""

import sys
import tempfile
from collections.abc import Iterator

from dbs_address_space import _core
from mypy import stubtest

HELPERS = {"_Guess", "_Dir"}


def guesses() -> Iterator[str]:
    """The attributes that are only there to say which name is meant, and what hides them from `dir()`."""
    for name, owner in vars(_core).items():
        if isinstance(owner, type):
            for attribute, value in vars(owner).items():
                if type(value).__name__ in HELPERS and (attribute == "__dir__" or attribute[0] != "_"):
                    yield f"dbs_address_space._core.{name}.{attribute}"


if __name__ == "__main__":
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(guesses()))
        file.flush()
        sys.exit(stubtest.test_stubs(stubtest.parse_options(["dbs_address_space._core", "--allowlist", file.name])))
