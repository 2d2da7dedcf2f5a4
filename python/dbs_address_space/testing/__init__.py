"""For the tests of programs that use the package: Hypothesis strategies, and hosts of other people.

The strategies need `hypothesis`: `pip install 'dbs-address-space[testing]'`.
"""

from .fake_host import FakeHost
from .strategies import layouts, regions, spaces

__all__ = ["FakeHost", "layouts", "regions", "spaces"]
