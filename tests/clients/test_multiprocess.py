"""Spaces and memories as arguments of multiprocessing: each worker follows once."""

import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor

import dbs_address_space.multiprocess  # noqa: F401  pytest may have imported the package first
import pytest
from children import run_python
from dbs_address_space import AddressSpace, Share, Unsupported
from memory_helpers import MIB, mapped, ram
from multiprocess_tasks import count, describe, wait_for_region

TASKS = 100


def shares(space: AddressSpace) -> list[Share]:
    return [client for client in space.clients if isinstance(client, Share)]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pool_has_one_follower_a_worker(method: str) -> None:
    space, memory = mapped(ram(0, MIB, name="low"))
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        workers = set(pool.map(count, [memory] * TASKS, [8] * TASKS))
        assert memory.load(8) == TASKS
        (share,) = shares(space)
        assert {follower.pid for follower in share.followers} == workers
        assert len(share.followers) == len(workers)
        assert pool.submit(describe, space).result() == (True, os.getpid(), ["low"])
        space.insert_region(ram(MIB, MIB, name="high"))
        assert pool.submit(describe, space).result() == (True, os.getpid(), ["low", "high"])
        assert shares(space) == [share]
    space.insert_region(ram(2 * MIB, MIB))
    assert share.followers == ()


def test_an_argument_of_a_process_follows_changes() -> None:
    space, memory = mapped(ram(0, MIB))
    context = multiprocessing.get_context("spawn")
    has_begun = context.Event()
    worker = context.Process(target=wait_for_region, args=(space, has_begun))
    worker.start()
    assert has_begun.wait(60)
    with space.transaction() as change:
        change.insert_region(ram(MIB, MIB, name="early"))
    space.move_region("early", 4 * MIB)
    memory.write_u8(4 * MIB, 7)
    space.replace_region("early", space["early"].replace(name="late"))
    worker.join(60)
    assert worker.exitcode == 7


def test_who_sends_it_to_itself_has_the_same_space() -> None:
    space, memory = mapped(ram(0, MIB))
    dumps = multiprocessing.reduction.ForkingPickler.dumps
    assert pickle.loads(dumps(space)) is space
    assert pickle.loads(dumps(memory)) is memory


def test_pickle_alone_refuses_and_so_does_memory_of_one_process() -> None:
    space, memory = mapped(ram(0, MIB, mem_type="mmap", name="private"))
    for handle in (space, memory):
        with pytest.raises(TypeError, match="multiprocessing, imported before"):
            pickle.dumps(handle)
        with pytest.raises(Unsupported, match="cannot share 'private'"):
            multiprocessing.reduction.ForkingPickler.dumps(handle)


def test_a_program_that_sends_nothing_does_not_import_it() -> None:
    look = "import sys, dbs_address_space\nprint('multiprocessing' in sys.modules)"
    assert run_python(look).strip() == "False"
    begun = "import multiprocessing, dbs_address_space, sys\nprint('dbs_address_space.multiprocess' in sys.modules)"
    assert run_python(begun).strip() == "True"
