"""Saving that is killed, or refused by the kernel at any step: the old image is there, or the new one, whole."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dbs_address_space import AddressSpace, AddressSpaceRegion, MemoryFault, SavedSpace
from host import mounted, require
from memory_helpers import MIB, PAGE, mapped, numbered, ram

SCRIPT = """
import sys
from memory_helpers import MIB, mapped, numbered, ram
from dbs_address_space import AddressSpace
space, memory = mapped(ram(0, MIB, name="low"))
memory.write(0, numbered(200_000, int(sys.argv[2])))
space.save(sys.argv[1], sync=True, check=False)
"""
CALLS = "pwrite64,fsync,rename,renameat,renameat2,ftruncate"


def saving(path: Path, seed: int, *before: str) -> subprocess.CompletedProcess[bytes]:
    paths = os.pathsep.join(filter(None, sys.path))
    command = [*before, sys.executable, "-c", SCRIPT, str(path), str(seed)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=False)


def seed_of(path: Path) -> int:
    saved = SavedSpace.open(path)
    saved.verify()
    found = saved.restore().memory.read(0, 200_000)
    return next(seed for seed in (1, 2) if found == numbered(200_000, seed))


def traced(path: Path, seed: int, *options: str) -> tuple[int, list[str]]:
    """The exit status of a child that saves, and its calls that change files."""
    log = path.with_suffix(".trace")
    done = saving(path, seed, "strace", "-qq", "-o", str(log), "-e", f"trace={CALLS}", *options)
    return done.returncode, [line.split("(")[0] for line in log.read_text().splitlines() if "(" in line]


def needs_strace(tmp_path: Path) -> None:
    require(shutil.which("strace"), "strace is needed")
    found = subprocess.run(["strace", "-o", tmp_path / "log", "true"], capture_output=True, check=False)
    require(found.returncode == 0, "strace must be allowed to trace")


def test_killed_at_every_step_it_is_the_old_image_or_the_new_one(tmp_path: Path) -> None:
    needs_strace(tmp_path)
    path = tmp_path / "vm.img"
    assert saving(path, 1).returncode == 0
    status, calls = traced(path, 2)
    assert (status, seed_of(path)) == (0, 2)
    assert [call for call in calls if call == "fsync"] == ["fsync"] * 3
    assert calls[-2:] == ["rename", "fsync"]
    assert saving(path, 1).returncode == 0
    for name in sorted(set(calls)):
        for nth in range(1, calls.count(name) + 1):
            assert saving(path, 1).returncode == 0
            status, _ = traced(path, 2, "-e", f"inject={name}:signal=SIGKILL:when={nth}")
            assert status != 0
            # It is killed before the call is made: the last comes behind the rename.
            assert seed_of(path) == (2 if (name, nth) == ("fsync", 3) else 1), (name, nth)


@pytest.mark.parametrize(("call", "error"), [("pwrite64", "EIO"), ("fsync", "EIO"), ("rename", "EXDEV")])
def test_a_step_that_fails_leaves_what_was_there(tmp_path: Path, call: str, error: str) -> None:
    needs_strace(tmp_path)
    path = tmp_path / "vm.img"
    assert saving(path, 1).returncode == 0
    log = tmp_path / "log"
    done = saving(path, 2, "strace", "-qq", "-o", str(log), "-e", f"inject={call}:error={error}")
    assert b"OSError: [Errno" in done.stderr
    assert str(path).encode() in done.stderr
    assert seed_of(path) == 1
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "mounting needs root")
    space, memory = mapped(ram(0, 4 * MIB))
    memory.write(0, b"small")
    with mounted("tmpfs", tmp_path / "small", "size=1m") as folder:
        space.save(folder / "vm.img").close()
        before = (folder / "vm.img").read_bytes()
        memory.write(0, numbered(4 * MIB))
        with pytest.raises(OSError, match="No space left") as caught:
            space.save(folder / "vm.img")
        assert caught.value.filename == str(folder / "vm.img")
        assert (folder / "vm.img").read_bytes() == before
        assert [path.name for path in folder.iterdir()] == ["vm.img"]


def test_a_directory_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "mounting needs root")
    space, memory = mapped(ram(0))
    with mounted("tmpfs", tmp_path / "fixed", "size=1m") as folder:
        space.save(folder / "vm.img").close()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(OSError, match="Read-only file system"):
            space.save(folder / "vm.img")
        assert AddressSpace.restore(folder / "vm.img").memory.read(0, PAGE) == memory.read(0, PAGE)


def test_a_file_that_is_cut_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    space, memory = mapped(ram(0, MIB, name="low"))
    memory.write(0, numbered(MIB))
    saved = space.save(tmp_path / "vm.img")
    mapped_privately = saved.restore("cow").memory
    os.truncate(tmp_path / "vm.img", 2 * MIB)
    for call in saved.verify, saved.restore:
        with pytest.raises(ValueError, match="the file was cut"):
            call()
    with pytest.raises(OSError, match="truncated"):
        mapped_privately.read(0, MIB)


@pytest.mark.parametrize("shared", [True, False])
def test_memory_whose_file_was_cut_is_not_stored_as_zeroes(tmp_path: Path, *, shared: bool) -> None:
    path = tmp_path / "memory"
    path.write_bytes(numbered(MIB))
    space, memory = mapped(AddressSpaceRegion.from_file(0, MIB, path, shared=shared))
    os.truncate(path, MIB // 2)
    assert sum(data.size for data in memory.data_ranges()) == MIB
    for store in (lambda: space.save(tmp_path / "vm.img"), memory.checkpoint):
        with pytest.raises(MemoryFault):
            store()
    assert not (tmp_path / "vm.img").exists()
