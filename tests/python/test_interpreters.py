"""The main interpreter has the package for itself: another one is refused, and does no harm."""

import sys

import pytest
from children import run_python

MODULE = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
SHARING = '"legacy"' if sys.version_info >= (3, 13) else "isolated=False"
PROGRAM = f"""
import {MODULE} as interpreters

other = interpreters.create(%s)
interpreters.run_string(other, '''
try:
    import dbs_address_space
except ImportError as error:
    print("refused:", "interpreter" in str(error), flush=True)
''')
from dbs_address_space import AddressRange, AddressSpaceRegion

print(AddressRange(0, 1), AddressSpaceRegion("ram", 0, 4096).size)
interpreters.destroy(other)
"""


@pytest.mark.parametrize("options", ["", SHARING], ids=["isolated", "sharing"])
def test_a_sub_interpreter_is_refused_and_the_main_one_goes_on(options: str) -> None:
    assert run_python(PROGRAM % options) == "refused: True\n[0x0, 0x1) 4096\n"
