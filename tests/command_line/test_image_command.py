"""The command `image`."""

import json
from pathlib import Path

from command_helpers import MIB, run
from dbs_address_space import AddressSpace, AddressSpaceRegion, dump, load
from memory_helpers import LAYOUT


def test_an_image_is_made_of_a_dump_and_dumped_again(tmp_path: Path) -> None:
    space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, MIB, name="low")], LAYOUT)
    space.map_memory().write(0x1000, b"hello")
    dump(space, tmp_path / "vm.elf")
    first, second, full, back = (str(tmp_path / name) for name in ("0.img", "1.img", "2.img", "back.elf"))
    assert run("image", "save", str(tmp_path / "vm.elf"), first).returncode == 0
    assert run("image", "save", str(tmp_path / "vm.elf"), second, "--parent", first).returncode == 0
    assert run("image", "merge", second, full).returncode == 0
    for words in (["merge", second, full], ["save", str(tmp_path / "vm.elf"), full], ["restore", second, full]):
        done = run("image", *words)
        assert (done.returncode, done.stderr.splitlines()[0]) == (2, f"error: {full} is there already")
    assert run("image", "merge", second, full, "--force").returncode == 0
    assert run("image", "restore", full, back).returncode == 0
    assert load(back).memory.read(0x1000, 5) == b"hello"
    told = run("image", "info", second).stdout
    assert "memory     1 MiB in 1 regions, 0 B in this file\n" in told
    assert f"parent     {first}, 4 KiB\n" in told
    content = json.loads(run("image", "info", second, "--json").stdout)
    assert [one["path"] for one in content["chain"]] == [second, first]
    assert run("image", "verify", second).stdout.startswith("all 1 MiB are as they were saved: ")


def test_an_image_that_is_damaged_is_told(tmp_path: Path) -> None:
    (tmp_path / "vm.img").write_bytes(b"not an image")
    done = run("image", "verify", str(tmp_path / "vm.img"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "which is not even a header" in done.stderr
    assert run("image", "look", "vm.img").returncode == run("image", "merge", "vm.img").returncode == 2
    assert run("image", "info", str(tmp_path / "nothing")).returncode == 2
