"""The matrix of regions, events and verbs: no cell ends in a signal, hangs, has wrong bytes, or leaves something behind."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from host import mounted, require
from kill_cells import HUGE, is_huge
from kill_runner import Count, all_cells, run

SAMPLE = 600
SEED = 1
"""The same cells in each run of `make test`, so that a red one is of the change; `make test-long` has them all."""


@contextmanager
def limit_of_one_huge_page(link: Path) -> Iterator[None]:
    """A control group in which one page may be used; without the controller its cells can't happen."""
    groups = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line]
    with_pages = [group for group in groups if "hugetlb" in (group / "cgroup.controllers").read_text().split()]
    if not with_pages:
        yield
        return
    control, group = with_pages[0] / "cgroup.subtree_control", with_pages[0] / f"kill-matrix-{os.getpid()}"
    was_on = "hugetlb" in control.read_text().split()
    control.write_text("+hugetlb")
    group.mkdir()
    try:
        (group / f"hugetlb.{HUGE >> 20}MB.max").write_text(str(HUGE))
        link.symlink_to(group)
        yield
    finally:
        group.rmdir()
        if not was_on:
            control.write_text("-hugetlb")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    require(os.geteuid() == 0, "huge pages, mounts and control groups need root")
    (tmp_path / "disk").mkdir()
    with (
        mounted("hugetlbfs", tmp_path / "huge", f"pagesize={HUGE}"),
        mounted("tmpfs", tmp_path / "small", "size=64k"),
        limit_of_one_huge_page(tmp_path / "cgroup"),
    ):
        yield tmp_path


@pytest.mark.timeout(4 * 3600)
def test_no_cell_kills_hangs_leaks_or_lies(directory: Path, record_property: Callable[[str, object], None]) -> None:
    cells = all_cells(directory)
    seed = int(os.environ.get("KILL_MATRIX_SEED", SEED))
    if "KILL_MATRIX" in os.environ:
        chosen = cells
    else:
        chosen = random.Random(seed).sample(cells, SAMPLE)
        chosen.sort(key=lambda cell: is_huge(cell.source))
    count = Count()
    red = [f"{cell}: {reason}" for cell, reason in run(chosen, directory, count)]
    done = f"{count.cells} of {len(cells)} cells, {len(count.possible)} of them possible, {len(red)} red"
    record_property("closing", f"kill matrix: seed {seed}, {done}")
    assert not red, "\n".join(red)
