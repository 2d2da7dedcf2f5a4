"""The exception of a `with` block's body comes out of it, whatever goes wrong at its end."""

from typing import Any

import pytest
from dbs_address_space import AddressSpaceChange, RegionBusy
from memory_helpers import PAGE, mapped, ram


class LeavesBadly:
    name = "bad"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def prepare(self, change: AddressSpaceChange) -> None: ...
    def commit(self, change: AddressSpaceChange) -> None: ...
    def rollback(self, change: AddressSpaceChange) -> None: ...
    def leave(self) -> None:
        raise self.error


def test_a_view_that_is_left_does_not_hide_the_error_of_the_body() -> None:
    space, memory = mapped(ram(0, PAGE, name="ram0"))
    views: list[Any] = []
    with pytest.raises(KeyError) as raised, memory:
        views.append(memory.view(0, 16))
        raise KeyError
    (note,) = raised.value.__notes__
    assert "RegionBusy" in note
    assert "ram0" in note
    views[0].release()
    with pytest.raises(RegionBusy), memory:
        views.append(memory.view(0, 16))
    views[1].release()
    memory.close()
    assert not space.is_mapped


def test_a_client_that_leaves_badly_does_not_hide_it_and_is_detached() -> None:
    space, _ = mapped(ram(0, PAGE))
    with pytest.raises(KeyError) as raised, space.subscribe(LeavesBadly(ValueError("stuck"))):
        raise KeyError
    assert "stuck" in raised.value.__notes__[0]
    assert space.clients == ()


def test_ctrl_c_at_the_end_shows_what_the_body_raised() -> None:
    space, _ = mapped(ram(0, PAGE))
    with pytest.raises(KeyboardInterrupt) as raised, space.subscribe(LeavesBadly(KeyboardInterrupt())):
        raise KeyError
    assert isinstance(raised.value.__context__, KeyError)


def test_a_transaction_and_a_reservation_pass_it_and_are_over() -> None:
    space, _ = mapped(ram(0, PAGE))
    with pytest.raises(KeyError), space.reserve(PAGE, owner="me") as room, space.transaction() as change:
        change.remove_region(0)
        raise KeyError
    assert not room.is_active
    assert len(space) == 1
