"""`NumaNodeInfo`, `NumaNode`, `NumaIdTable`: values that keep what they are given, in order."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dbs_address_space import InvalidAddressRange, NumaIdTable, NumaNode, NumaNodeInfo

LOW, HIGH = NumaNodeInfo(0, "3GiB"), NumaNodeInfo(1 << 32, 1 << 30)


def test_an_info_is_a_range_of_memory() -> None:
    assert (LOW.base, LOW.size) == (0, 3 << 30)
    assert NumaNodeInfo(5, 0).size == 0
    assert repr(LOW) == "NumaNodeInfo(base=0x0, size=0xc000_0000)"


@pytest.mark.parametrize(("base", "size"), [(-1, 1), (0, -1), (2**64, 1), (2**64 - 1, 1), (True, 1), (0, "1GB")])
def test_ranges_that_cannot_be_are_refused(base: int, size: int) -> None:
    with pytest.raises(InvalidAddressRange):
        NumaNodeInfo(base, size)


def test_an_empty_node_is_the_default() -> None:
    assert NumaNode() == NumaNode((), ())
    assert (NumaNode().region_infos, NumaNode().vcpu_ids) == ((), ())


def test_add_gives_a_new_node() -> None:
    empty = NumaNode()
    node = empty.add_info(LOW).add_info(HIGH).add_vcpu_ids([0, 1]).add_vcpu_ids(iter((1,)))
    assert node.region_infos == (LOW, HIGH)
    assert node.vcpu_ids == (0, 1, 1)
    assert empty == NumaNode()
    assert node == NumaNode([LOW, HIGH], (0, 1, 1))
    assert (
        repr(NumaNode([LOW], [2]))
        == "NumaNode(region_infos=(NumaNodeInfo(base=0x0, size=0xc000_0000),), vcpu_ids=(2,))"
    )


def test_order_counts() -> None:
    assert NumaNode([LOW, HIGH]) != NumaNode([HIGH, LOW])
    assert NumaNode(vcpu_ids=[0, 1]) != NumaNode(vcpu_ids=[1, 0])
    assert NumaIdTable([0], [1]) != NumaIdTable([1], [0])


def test_a_table_has_the_ids_of_memory_and_vcpus() -> None:
    table = NumaIdTable(memory=range(2), cpu=np.array([0, 0, 1], "u4"))
    assert (table.memory, table.cpu) == ((0, 1), (0, 0, 1))
    assert NumaIdTable() == NumaIdTable([], [])
    assert repr(table) == "NumaIdTable(memory=(0, 1), cpu=(0, 0, 1))"


@pytest.mark.parametrize("number", [-1, 2**32, True], ids=str)
def test_ids_out_of_range_are_refused(number: int) -> None:
    makers: list[Callable[[], object]] = [
        lambda: NumaNode(vcpu_ids=[number]),
        lambda: NumaNode().add_vcpu_ids([number]),
        lambda: NumaIdTable([number]),
        lambda: NumaIdTable(cpu=[number]),
    ]
    for make in makers:
        with pytest.raises(InvalidAddressRange):
            make()


def test_wrong_types_are_refused() -> None:
    node: Any = NumaNode
    calls: list[Callable[[], object]] = [
        lambda: node(5),
        lambda: node([(0, 1)]),
        lambda: node((), 5),
        lambda: node((), ["0"]),
        lambda: node().add_info((0, 1)),
        lambda: node().add_vcpu_ids(1),
        lambda: node().add_vcpu_ids("1"),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


VALUES = [LOW, NumaNode([LOW], [1]), NumaIdTable([1], [2])]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_they_are_values(value: Any) -> None:
    for same in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert same == value
        assert hash(same) == hash(value)
        assert type(same) is type(value)
    assert value != 5
    with pytest.raises(AttributeError):
        value.size = 5


def test_they_match_patterns() -> None:
    match (LOW, NumaNode([LOW], [1]), NumaIdTable([1], [2])):
        case (NumaNodeInfo(0, size), NumaNode((NumaNodeInfo(),), (vcpu,)), NumaIdTable((memory,), (cpu,))):
            assert (size, vcpu, memory, cpu) == (3 << 30, 1, 1, 2)
        case _:
            pytest.fail("no match")
