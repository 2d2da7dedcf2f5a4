"""The commands that look at memory, on dumps and on a running QEMU."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from command_helpers import PROGRAM, in_a_terminal, run
from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, dump, load
from host import require
from memory_helpers import GIB, MIB
from qemu_helpers import connected

NEEDLE = b"needle in guest memory"


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dump of 2 MiB in two pieces, with a needle in each."""
    regions = [AddressSpaceRegion("ram", base, MIB, name=name) for base, name in ((0, "low"), (GIB, "high"))]
    space = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
    with space.map_memory() as memory:
        memory.write(0x1000, NEEDLE)
        memory.write(GIB + 0x2004, NEEDLE)
        path = tmp_path_factory.mktemp("dumps") / "guest.elf"
        dump(space, path)
    return str(path)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The number and the QMP socket of a stopped QEMU with 64 MiB that others may map."""
    program = shutil.which("qemu-system-x86_64")
    require(program, "there is no qemu-system-x86_64 (Debian: qemu-system-x86)")
    path = tmp_path_factory.mktemp("qemu") / "qmp"
    ram = "memory-backend-memfd,share=on,id=ram0,size=64M"
    options = ["-M", "q35,memory-backend=ram0", "-m", "64M", "-object", ram, "-S", "-accel", "tcg", "-nodefaults"]
    command = [str(program), *options, "-display", "none", "-qmp", f"unix:{path},server=on,wait=off"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        connected(process, path).close()
        yield process.pid, path
    finally:
        process.kill()
        process.communicate()


def test_hexdump_prints_bytes(dumped: str) -> None:
    done = run("hexdump", "0x1000", dumped)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("|needle in guest |")
    assert lines[2:] == [
        "0000000000001020  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
        "*",
        "0000000000001100",
    ]
    across = run("hexdump", "0xffff0..0x100010", dumped).stdout
    assert "[0x10_0000, 0x10_0010) has nothing to read" in across
    raw = subprocess.run([*PROGRAM, "hexdump", "--raw", "0x1000+22", dumped], capture_output=True, check=True)
    assert raw.stdout == NEEDLE
    refused = run("hexdump", "--raw", "0xffff0+32", dumped)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "0x10_0000" in refused.stderr
    assert "nothing to read" in run("hexdump", "0xffff_ffff_ffff_ff00+0xff", dumped).stdout


def test_search_prints_where(dumped: str) -> None:
    done = run("search", "needle", dumped)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["0x1000", "0x4000_2004"]
    assert run("search", "--hex", "6e 65 65 6? 6c", "--align", "0", dumped).returncode == 2
    aligned = run("search", "--hex", "6e 65 65 6? 6c", "--align", "0x10", dumped)
    assert aligned.stdout.split()[0::2] == ["0x1000"]
    assert run("search", "needle", "--limit", "1", dumped).stdout.count("\n") == 1
    assert run("search", "needle", "--range", "0x1001..0x50000000", dumped).stdout.split()[0] == "0x4000_2004"
    assert run("search", "-q", "needle", dumped).stdout == ""
    backwards = run("search", "needle", "--range", "0x50000000..0x1001", dumped)
    assert (backwards.returncode, backwards.stdout) == (2, "")
    assert "ends before it begins" in backwards.stderr
    assert run("search", "haystack", dumped).returncode == 1
    told = [json.loads(line)["address"] for line in run("search", "--json", "needle", dumped).stdout.splitlines()]
    assert told == ["0x1000", "0x40002004"]


def test_dump_and_convert_write_files_that_are_read_again(dumped: str, tmp_path: Path) -> None:
    lime, raw, text = (tmp_path / name for name in ("guest.lime", "guest.raw", "guest.json"))
    done = run("dump", dumped, str(lime))
    assert done.returncode == 0, done.stderr
    assert f"{lime}: a LiME dump, 2 regions, 2.0 MiB" in done.stderr
    assert load(lime).memory.read(GIB + 0x2004, len(NEEDLE)) == NEEDLE
    told = json.loads(run("convert", dumped, str(raw), "--json").stdout)
    assert (told["written"], told["size"]) == ("raw", GIB + MIB)
    assert told["data"] <= MIB
    assert run("convert", dumped, str(text), "-q").stderr == ""
    assert run("diff", "-q", dumped, str(text), "--ignore", "prot,backing").returncode == 0
    assert run("convert", dumped, "-", "--to", "memmap").stdout.startswith("memmap=")
    plain = tmp_path / "guest"
    assert "an ELF64 core dump" in run("dump", dumped, str(plain)).stderr
    assert sorted(tmp_path.iterdir()) == sorted([lime, raw, text, plain])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dump", "{dump}", "there.elf"], "there.elf is there already"),
        (["dump", "{dump}", "new.elf", "--to", "json"], "'json' has no memory in it"),
        (["dump", "there.elf", "new.elf"], "there.elf: its format is not recognized"),
        (["convert", "{dump}", "new.unknown"], "the suffix of 'new.unknown' tells no format"),
        (["convert", "{dump}", "-", "--to", "elf"], "an ELF64 core dump is written to files only"),
        (["convert", "{dump}", "nowhere/new.elf"], "No such file or directory"),
    ],
)
def test_what_can_not_be_written_is_refused(dumped: str, tmp_path: Path, arguments: list[str], message: str) -> None:
    there = tmp_path / "there.elf"
    there.write_text("mine")
    done = run(*(argument.format(dump=dumped) for argument in arguments), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (list(tmp_path.iterdir()), there.read_text()) == ([there], "mine")


def test_a_running_qemu_is_a_source(machine: tuple[int, Path], tmp_path: Path) -> None:
    pid, path = machine
    for source in (f"qmp:{path}", f"pid:{pid}"):
        shown = run("show", source)
        assert shown.returncode == 0, shown.stderr
        assert "ram0" in shown.stdout
        assert "apic-msi" in shown.stdout
    core = tmp_path / "guest.elf"
    done = run("dump", f"pid:{pid}", str(core))
    assert done.returncode == 0, done.stderr
    assert load(core).ram_size > 60 * MIB
    assert run("search", "-q", "\x7fELF", f"qmp:{path}").returncode in {0, 1}
    assert run("diff", f"qmp:{path}", f"pid:{pid}").returncode == 0


def test_a_qmp_socket_that_is_taken_is_told_of(machine: tuple[int, Path]) -> None:
    pid, path = machine
    with closing(connected(_Running(), path)) as other:  # type: ignore[arg-type]
        assert other.recv(1 << 16)
        done = run("show", f"pid:{pid}")
    assert done.returncode == 2
    assert "no answer within" in done.stderr
    assert "one client at a time" in done.stderr


class _Running:
    """A program that is there."""

    def poll(self) -> None:
        """Says that it has not ended."""


def is_writing(program: int, folder: Path) -> bool:
    """Whether a program has a file in a folder that has no name yet."""
    with suppress(FileNotFoundError):
        return any(str(link.readlink()).startswith(f"{folder}/#") for link in Path(f"/proc/{program}/fd").iterdir())
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_dump_that_is_ended_by_a_signal_leaves_nothing(tmp_path: Path, number: int) -> None:
    target = tmp_path / "guest.raw"
    big = tmp_path / "big.raw"
    # Holes take no time.
    with big.open("wb") as file:
        file.writelines(b"data" * (16 << 20) for _ in range(8))
    command = [*PROGRAM, "dump", "--from", "raw", str(big), str(target)]
    program = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not is_writing(program.pid, tmp_path):
        assert program.poll() is None, program.communicate()
    program.send_signal(number)
    assert program.communicate(timeout=60)[1] == b""
    assert program.returncode == -number
    assert list(tmp_path.iterdir()) == [big]


def test_progress_is_on_the_terminal_and_gone_at_the_end() -> None:
    code = (
        "from dbs_address_space.command_line import progress\n"
        "from dbs_address_space.progress import Progress\n"
        "progress.PATIENCE = 0\n"
        "with progress.shown('writing', is_quiet=False) as shown:\n"
        "    shown(Progress('dump', 1 << 20, 4 << 20, 1 << 20))\n"
    )
    output = in_a_terminal(80, code=code)
    assert output.startswith("\rwriting  ━━━━━━━━───")
    assert "1 MiB of 4 MiB   1 MiB/s   0:03 left" in output
    assert output.endswith("\r\x1b[K")
    assert len(output.split("\x1b[K")[0]) <= 80
