"""Images of the memory of a QEMU that is stopped, against what its own monitor dumps."""

from pathlib import Path

from dbs_address_space import AddressSpace, load
from dbs_address_space.adapters import qemu
from test_qemu import running
from test_qemu_space import machine
from threads import until


def test_a_stopped_machine_is_saved_as_its_own_dump_has_it(tmp_path: Path) -> None:
    with running(tmp_path, *machine("q35", "64M"), "-S") as qmp, qemu.open_space(qmp) as opened:
        qmp("cont", {})
        # The firmware has begun.
        until(lambda: [opened.refresh(), opened.space.find_region(0xC0000)][1])
        qmp("stop", {})
        opened.refresh()
        saved = opened.space.save(tmp_path / "vm.img")
        qmp("dump-guest-memory", {"paging": False, "protocol": f"file:{tmp_path / 'vm.elf'}"})
        dumped = load(tmp_path / "vm.elf")
        restored = AddressSpace.restore(tmp_path / "vm.img")
        for region in restored.memory.regions:
            assert restored.memory.read(region.base, region.size) == dumped.memory.read(region.base, region.size)
        assert 0 < saved.data_size < restored.memory.regions[-1].end
