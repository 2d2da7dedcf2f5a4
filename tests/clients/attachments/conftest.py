"""Each way to attach something, and a space that it may follow."""

from collections.abc import Iterator

import pytest
from attachment_kinds import ATTACHED, Kind, space_to_follow
from dbs_address_space import AddressSpace


@pytest.fixture(params=ATTACHED)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    kind = ATTACHED[request.param]()
    yield kind
    kind.close()


@pytest.fixture
def space() -> AddressSpace:
    return space_to_follow()
