"""`examples/run_guest.py`: a real guest, on KVM and in Unicorn."""

import ctypes
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from dbs_address_space import AddressSpaceRegion, RegionBusy
from host import imported

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import engine_kvm  # noqa: E402
import guest_program  # noqa: E402
import run_guest  # noqa: E402
from engine import Engine, EngineMissing  # noqa: E402
from engine_kvm import KvmEngine  # noqa: E402
from engine_unicorn import UnicornEngine  # noqa: E402

NO_DEVICE = "/dev/no-such-kvm"
ACCESSED, DIRTY = 1 << 5, 1 << 6
DIMM = AddressSpaceRegion("ram", run_guest.DIMM, "2MiB", name="dimm0", is_hotplug=True)


def kvm_problem() -> str | None:
    try:
        KvmEngine().close()
    except EngineMissing as problem:
        return str(problem)
    return None


def require_engine(engine: str) -> None:
    if engine == "kvm" and (problem := kvm_problem()):
        pytest.skip(problem)
    if engine == "unicorn":
        imported("unicorn")


@pytest.fixture(params=["kvm", "unicorn"])
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    require_engine(name)
    return name


@pytest.fixture
def machine(engine_name: str) -> Iterator[run_guest.Machine]:
    space = run_guest.plan()
    with space.map_memory() as memory, closing(run_guest.open_engine(engine_name, "/dev/kvm")) as engine:
        machine = run_guest.Machine(space, memory, engine)
        machine.boot()
        yield machine


def run_example(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "run_guest.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_guest_does_its_work(engine_name: str) -> None:
    result = run_example("--engine", engine_name)
    assert (result.returncode, result.stderr) == (0, "")
    output = result.stdout
    assert f"engine: {'KVM' if engine_name == 'kvm' else 'Unicorn'}" in output
    assert output.count("guest | firmware: in long mode") == 1
    assert output.count("guest | firmware: running totals written") == 3
    assert output.count("are as Python computes them") == 2
    assert "nothing is there any more: all bits read as 1" in output
    assert re.search(r"by what the space has there: console \d+, mailbox \d+, no region \d+$", output, re.MULTILINE)
    assert re.search(r"^  space \| \+.*'dimm0'(.|\n)*^  space \| -.*'dimm0'", output, re.MULTILINE)


def test_every_step_is_timed(engine_name: str) -> None:
    output = run_example("--engine", engine_name).stdout
    steps = re.findall(r"^(\S.+)\n(?:  guest \|.+\n)*   took \| [\d.]+ ms$", output, re.MULTILINE)
    assert steps == [
        "plan the machine",
        "map its memory",
        "connect the engine",
        "load the firmware and boot",
        "let the guest work on 100,000 numbers at 0x1_0000_0000",
        "plug 'dimm0'",
        "let the guest work on 50,000 numbers at 0x1_4000_0000",
        "unplug 'dimm0'",
        "let the guest work on 1 number at 0x1_4000_0000",
    ]


def test_the_map_is_printed_before_and_after(engine_name: str) -> None:
    output = run_example("--engine", engine_name).stdout
    before, after = re.findall(r"^the map (?:before|after):\n((?:.+\n)+)", output, re.MULTILINE)
    assert before == after
    for name in ("ram-low", "mailbox", "firmware", "ram-high", "free"):
        assert name in before


def test_auto_prefers_kvm() -> None:
    require_engine("kvm")
    assert "engine: KVM" in run_example().stdout


def test_auto_takes_unicorn_without_kvm() -> None:
    require_engine("unicorn")
    result = run_example("--kvm-device", NO_DEVICE)
    assert result.returncode == 0, result.stderr
    assert "engine: Unicorn" in result.stdout


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (NO_DEVICE, "No such file or directory"),
        ("/dev/null", "Inappropriate ioctl for device"),
        ("/dev", "Is a directory"),
    ],
)
def test_a_missing_kvm_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, device: str, reason: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(EngineMissing, match=f"^KVM cannot be used, {device}: {reason}$"):
        run_guest.open_engine("kvm", device)


def test_a_missing_engine_is_exit_code_2() -> None:
    result = run_example("--engine", "kvm", "--kvm-device", NO_DEVICE)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"run_guest: KVM .+\n", result.stderr)


def test_a_failed_engine_leaves_no_descriptor() -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        with pytest.raises(EngineMissing):
            KvmEngine("/dev/null")
    assert len(list(descriptors.iterdir())) == before


def test_a_missing_unicorn_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "unicorn", None)
    assert run_guest.main(["--engine", "unicorn"]) == 2
    assert re.fullmatch(r"run_guest: Unicorn cannot be used: .+pip install unicorn\)\n", capsys.readouterr().err)


def test_without_any_engine_both_reasons_are_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "unicorn", None)
    assert run_guest.main(["--kvm-device", NO_DEVICE]) == 2
    assert re.fullmatch(r"run_guest: KVM .+; Unicorn .+\n", capsys.readouterr().err)


def test_another_processor_has_no_kvm_for_this_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(EngineMissing, match="aarch64"):
        run_guest.open_engine("kvm", "/dev/kvm")


def test_a_region_can_be_plugged_again_and_again(machine: run_guest.Machine) -> None:
    before = machine.space.snapshot()
    for round_ in range(1, 6):
        machine.plug(DIMM)
        machine.memory.write_u64(DIMM.base, round_)
        machine.memory.write_u64(DIMM.base + 8, 1)
        assert machine.running_totals(DIMM.base, 2) == round_ + 1
        assert machine.memory.read_u64(DIMM.base + 8) == round_ + 1
        machine.unplug(DIMM)
        assert machine.running_totals(DIMM.base, 1) == 2**64 - 1
    assert machine.space.snapshot() == before


def test_the_guest_works_in_the_very_memory_that_python_sees(machine: run_guest.Machine) -> None:
    with machine.memory.view(run_guest.HIGH_RAM, 24) as view, view.cast("Q") as numbers:
        numbers[0], numbers[1], numbers[2] = 5, 6, 7
        assert machine.running_totals(run_guest.HIGH_RAM, 3) == 18
        assert list(numbers) == [5, 11, 18]


def test_a_refused_unplug_leaves_the_guest_its_memory(machine: run_guest.Machine) -> None:
    machine.plug(DIMM)
    with machine.memory.view(DIMM.base, 8) as view, view.cast("Q") as numbers:
        with pytest.raises(RegionBusy):
            machine.unplug(DIMM)
        numbers[0] = 42
        assert machine.running_totals(DIMM.base, 1) == 42
    machine.unplug(DIMM)


def test_the_guest_cannot_write_its_firmware(machine: run_guest.Machine, engine_name: str) -> None:
    before = machine.memory.read(run_guest.FIRMWARE, 4096)
    # KVM hands such a write to the bus, where it is lost; in Unicorn it ends the emulation.
    with nullcontext() if engine_name == "kvm" else pytest.raises(Exception, match="UC_ERR_WRITE_PROT"):
        machine.running_totals(run_guest.FIRMWARE, 8)
    assert machine.memory.read(run_guest.FIRMWARE, 4096) == before


def test_the_guest_runs_on_its_page_tables(machine: run_guest.Machine) -> None:
    def entry(table: int, index: int) -> int:
        return machine.memory.read_u64((table & ~0xFFF) + 8 * index)

    for addr in (run_guest.STACK, run_guest.FIRMWARE, run_guest.HIGH_RAM, run_guest.DIMM):
        pointers = entry(run_guest.PAGE_TABLES, addr >> 39)
        page = entry(entry(pointers, addr >> 30), addr >> 21 & 0x1FF)
        assert page & ~(ACCESSED | DIRTY) == (addr >> 21 << 21) | 0x83
        assert bool(page & ACCESSED) == (addr in {run_guest.STACK, run_guest.FIRMWARE})


class Broken(run_guest.Mailbox):
    """A device whose Python code fails."""

    def write(self, _offset: int, _size: int, _value: int) -> None:
        raise ArithmeticError("broken device")


@pytest.mark.parametrize(("kind", "name"), [("mmio", "mailbox"), ("ports", "console")])
def test_a_devices_exception_comes_out_of_run(machine: run_guest.Machine, kind: str, name: str) -> None:
    broken = Broken()
    for mailbox in (machine.mailbox, broken):
        mailbox.post(run_guest.HIGH_RAM, 1)
    space = {"mmio": machine.space, "ports": machine.space.ports}[kind]
    space.clients[0].detach()
    space.attach_device(name, broken)
    with pytest.raises(ArithmeticError, match="broken device"):
        machine.run()


def test_the_plan_is_a_real_machines() -> None:
    space = run_guest.plan()
    assert [region.name for region in space] == ["ram-low", "mailbox", "firmware", "ram-high"]
    assert [region.name for region in space.ports] == ["console"]
    assert space["ram-high"].base >= 1 << 32
    assert not space.is_mapped
    assert any(gap.base <= 1 << 30 < gap.end for gap in space.gaps())


def test_the_bus_asks_the_space() -> None:
    space = run_guest.plan()
    mailbox = run_guest.Mailbox()
    bus = run_guest.HardwareBus(space)
    space.attach_device("mailbox", mailbox)
    mailbox.post(0x1_2345_6789, 3)
    base = guest_program.MAILBOX
    assert bus.dispatch(base, 8) == 0x1_2345_6789
    assert [bus.dispatch(base, 4), bus.dispatch(base + 4, 4)] == [0x2345_6789, 1]
    assert bus.dispatch(base + guest_program.MAILBOX_TOTAL, 8, 99) is None
    assert mailbox.total == 99
    assert bus.dispatch(run_guest.DIMM, 2) == 0xFFFF
    assert bus.dispatch(run_guest.DIMM, 2, 1) is None
    assert bus.hits == {"mailbox": 4, "no region": 2}


def test_a_wrong_result_of_the_guest_is_noticed() -> None:
    space = run_guest.plan()
    with space.map_memory() as memory:
        machine = SimpleNamespace(memory=memory, running_totals=lambda _addr, _count: 0)
        with pytest.raises(RuntimeError, match="wrong"):
            run_guest.check_totals(machine, run_guest.HIGH_RAM, 16)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="something answers"):
            run_guest.check_nothing(machine, run_guest.DIMM)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "structure"),
    [
        (engine_kvm.KVM_SET_USER_MEMORY_REGION, engine_kvm.UserspaceMemoryRegion),
        (engine_kvm.KVM_SET_REGS, engine_kvm.Regs),
        (engine_kvm.KVM_GET_SREGS, engine_kvm.Sregs),
        (engine_kvm.KVM_SET_SREGS, engine_kvm.Sregs),
    ],
)
def test_the_structures_have_the_size_that_the_kernel_wants(request_: int, structure: type[ctypes.Structure]) -> None:
    assert request_ >> 16 & 0x3FFF == ctypes.sizeof(structure)


def test_the_program_finds_its_texts() -> None:
    program = guest_program.PROGRAM
    for lea in (0x05, 0x2E):
        text = lea + 7 + int.from_bytes(program[lea + 3 : lea + 7], "little")
        assert program[text:].startswith(b"firmware: ")
        assert program[text - 1] in (0xC3, 0)


def test_engines_keep_the_protocol() -> None:
    require_engine("unicorn")
    engines: list[Engine] = [UnicornEngine()]
    if kvm_problem() is None:
        engines.append(KvmEngine())
    for engine in engines:
        engine.close()
