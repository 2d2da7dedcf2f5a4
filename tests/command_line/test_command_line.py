import json
import re
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from command_helpers import GIB, MIB, PROGRAM, content, in_a_terminal, region, run
from dbs_address_space.command_line import COMMANDS
from dbs_address_space.command_line.completion import options_of

OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
LOW, UART = region("low", 0, 2 * GIB), region("uart", 0xFE00_0000, 0x1000, "device")
DIMM = region("dimm0", 4 * GIB, GIB, is_hotplug=True, host_numa_node_id=1)


@pytest.fixture
def before(tmp_path: Path) -> str:
    path = tmp_path / "before.json"
    path.write_text(content(LOW, UART, DIMM))
    return str(path)


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_show_fits_the_terminal(before: str, columns: int) -> None:
    output = in_a_terminal(columns, "show", "-q", before)
    plain = re.sub(r"\x1b\[\d+m", "", output)
    assert plain != output
    assert max(map(len, plain.splitlines())) <= columns
    assert ("█" in plain) == (columns > 60)
    assert ("end" in plain.splitlines()[0]) == (columns == 140)


def test_colours_are_the_users_choice(before: str) -> None:
    for given, colored in [({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)]:
        assert ("\x1b[" in in_a_terminal(80, "show", before, **given)) == colored
    assert "\x1b[" not in in_a_terminal(80, "--color", "never", "show", before)
    assert "\x1b[" not in run("show", before).stdout
    assert "\x1b[94m" in run("show", "--color", "always", before).stdout
    assert run("show", "--ascii", before).stdout.isascii()


def test_show_prints_the_map_and_the_summary_apart(before: str) -> None:
    done = run("show", before)
    assert done.returncode == 0
    assert "uart" in done.stdout
    assert "3 regions (3 GiB RAM in 2, 1 device); h = hotplugged" in done.stderr
    assert run("show", "-q", before).stderr == ""
    assert run("show", "-", input=Path(before).read_text()).stdout == done.stdout


def test_show_chooses(before: str) -> None:
    assert "low" not in run("show", "--region-type", "device", before).stdout
    assert "uart" not in run("show", "--range", "0..1", before).stdout
    assert "low" in run("show", "--range", "low+0x1000", before).stdout
    assert "free" not in run("show", "--no-free", before).stdout
    assert "└─ 0xfe00_0000  uart  4 KiB  device" in run("show", "--tree", before).stdout


def test_show_json_is_read_again(before: str, tmp_path: Path) -> None:
    done = run("show", "--json", before)
    found = json.loads(done.stdout)
    assert (found["format"], found["version"], len(found["regions"])) == ("dbs-address-space/map", 1, 3)
    again = tmp_path / "again.json"
    again.write_text(done.stdout)
    assert run("diff", before, str(again)).returncode == 0


def test_pictures_are_files_that_are_not_replaced_unasked(before: str, tmp_path: Path) -> None:
    svg, page = tmp_path / "map.svg", tmp_path / "map.html"
    assert run("show", before, "--svg", str(svg), "--html", str(page)).returncode == 0
    assert svg.read_text().startswith("<svg")
    assert page.read_text().startswith("<!doctype html>")
    svg.write_text("mine")
    refused = run("show", before, "--svg", str(svg))
    assert (refused.returncode, svg.read_text()) == (2, "mine")
    assert "is there already" in refused.stderr
    assert run("show", before, "--svg", str(svg), "--force").returncode == 0
    assert svg.read_text().startswith("<svg")
    assert sorted(tmp_path.iterdir()) == sorted([Path(before), svg, page])
    assert run("show", before, "--svg", "-").stdout.startswith("<svg")


def test_find_tells_what_is_there(before: str) -> None:
    found = run("find", "low+0x1000", before)
    assert found.returncode == 0
    assert "0x1000 is in 'low' [0x0, 0x8000_0000), 0x1000 (4 KiB) from its start" in found.stdout
    free = run("find", "0xfe00_1000", before)
    assert free.returncode == 1
    assert free.stdout == "0xfe00_1000 is free: [0xfe00_1000, 0x1_0000_0000), 31.9 MiB, in an MMIO window\n"
    assert "outside" in run("find", hex(1 << 46), before).stdout
    told = json.loads(run("find", "--json", "0xfe00_0010", before).stdout)
    assert (told["found"], told["region"]["name"], told["offset"]) == ("region", "uart", "0x10")
    assert (told["before"]["name"], told["after"]["name"]) == ("low", "dimm0")


def test_diff_tells_each_kind_of_change(before: str, tmp_path: Path) -> None:
    after = tmp_path / "after.json"
    moved, changed = region("uart", 0xFD00_0000, 0x1000, "device"), LOW | {"prot": "r--"}
    after.write_text(content(changed, moved, region("dimm1", 6 * GIB, GIB)))
    done = run("diff", before, str(after))
    assert done.returncode == 1
    assert [line[0] for line in done.stdout.splitlines()] == ["~", ">", "-", "+"]
    assert "prot rw- -> r--" in done.stdout
    assert "moved from 0xfe00_0000" in done.stdout
    assert "1 added, 1 removed, 1 changed, 1 moved, 0 unchanged" in done.stderr
    assert run("diff", "-q", before, before).returncode == 0
    told = json.loads(run("diff", "--json", before, str(after)).stdout)
    assert [change["change"] for change in told["changes"]] == ["changed", "moved", "removed", "added"]
    assert told["changes"][0]["fields"] == ["prot"]
    assert "~" not in run("diff", "--ignore", "prot", before, str(after)).stdout
    page = run("diff", before, str(after), "--html", "-")
    assert page.returncode == 1
    table = ET.fromstring(page.stdout[page.stdout.index("<table") : page.stdout.index("</table>") + 8])
    kinds = [row.findtext("th") for row in table.iterfind("tbody/tr")]
    assert kinds == ["changed", "moved", "removed", "added"]
    assert "moved from 0xfd00_0000" not in page.stdout
    assert "moved from 0xfe00_0000" in page.stdout
    assert page.stdout.count("<svg") == 1
    assert run("diff", before, before, "--html", str(tmp_path / "same.html")).returncode == 0
    assert "3 unchanged" in (tmp_path / "same.html").read_text()


def test_check_finds_overlaps_and_breaches_of_a_machine(before: str, tmp_path: Path) -> None:
    assert run("check", before).returncode == 0
    overlapping = tmp_path / "overlapping.json"
    overlapping.write_text(content(LOW, region("other", GIB, GIB)))
    done = run("check", str(overlapping))
    assert done.returncode == 1
    assert "overlap" in done.stdout
    assert run("check", str(overlapping), "--machine", "q35").returncode == 1
    wide = tmp_path / "wide.json"
    wide.write_text(content(region("wide", 0, 3 * GIB)))
    told = json.loads(run("check", "--json", str(wide), "--machine", "q35").stdout)
    assert (told["errors"], told["problems"][0]["region"]) == (1, "wide")


def test_plan_says_where_and_why() -> None:
    done = run("plan", "q35", "--node", "3GiB", "--node", "1GiB:0-1", "--hotplug", "16GiB:2")
    assert done.returncode == 0, done.stderr
    assert "hotplug window" in done.stdout
    assert "as much of its 3 GiB as fits" in done.stdout
    for wrong in (["q36", "--node", "1GiB"], ["q35"], ["q35", "--node", "1GB"], ["q35", "--node", "1GiB@x"]):
        assert run("plan", *wrong).returncode == 2


def test_doctor_tells_of_this_host() -> None:
    done = run("doctor")
    assert done.returncode == 0
    for name in ("KVM", "userfaultfd", "PAGEMAP_SCAN", "huge pages", "NUMA", "dbs-address-space"):
        assert name in done.stdout
    told = json.loads(run("doctor", "--json").stdout)
    assert {check["state"] for check in told["checks"]} <= {"ok", "limited", "missing"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shwo"], "error: no command 'shwo'. Did you mean 'show'?"),
        (["show"], "the following arguments are required: source"),
        (["show", "--nothing", "x"], "unrecognized arguments: --nothing"),
        (["show", "nowhere.json"], "error: nowhere.json: No such file or directory"),
        (["show", "pid:1"], "error: pid:1: its command line has no QMP socket"),
        (["show", "pid:x"], "error: pid:x: 'x' is not the number of a process"),
        (["show", "qmp:/nowhere"], "error: qmp:/nowhere: /nowhere: No such file or directory"),
        (["show", "--from", "elf", "qmp:/nowhere"], "error: qmp:/nowhere: --from is for files"),
        (["show", "/"], "error: /: its format is not recognized"),
        (["show", "/dev/null"], "error: /dev/null: its format is not recognized"),
        (["hexdump", "0", "-"], "error: <stdin>: its format is not recognized"),
        (["diff", "-", "-"], "both maps are to come from the standard input"),
        (["--color", "sometimes", "show", "x"], "error: --color takes auto, always or never"),
        (["completion", "tcsh"], "no completion for 'tcsh'"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(arguments: list[str], message: str) -> None:
    done = run(*arguments, input="")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"format": "dbs-address-space/map"}',
        content({}),
        content(LOW, LOW),
        content(LOW | {"base": []}),
        "[" * 99999,
    ],
)
def test_a_wrong_map_is_told_of(text: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    done = run("show", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "internal" not in done.stderr
    assert "message" in json.loads(run("show", "--json", str(path)).stderr)["error"]


def test_names_of_strangers_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path, hostile = tmp_path / "hostile.json", "mine\u202e\u2066"
    path.write_text(content(region(hostile, 0, GIB)))
    other = tmp_path / "other.json"
    other.write_text(content(region(hostile, GIB, GIB), LOW | {"name": hostile + "2", "end": hex(GIB)}))
    wrong = tmp_path / "wrong.json"
    wrong.write_text(content(region(hostile, 0, GIB), region(hostile, 0, GIB)))
    control = tmp_path / "control.json"
    control.write_text(content(region("\x1b]0;mine\x07", 0, GIB)))
    for arguments in (["show"], ["show", "--tree"], ["find", "0"], ["diff", str(other)], ["check"]):
        for source in (path, wrong, control):
            done = run(*arguments, str(source))
            assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", done.stdout + done.stderr)


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    path = tmp_path / "many.json"
    path.write_text(content(*(region(f"r{number}", number * 2 * MIB, MIB) for number in range(1000))))
    program = subprocess.Popen([*PROGRAM, "show", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    assert program.stderr.read() == b""
    program.stderr.close()
    assert program.wait(60) == -signal.SIGPIPE


def is_reading(pid: int, pipe: int) -> bool:
    """Whether a program waits in a read of the other end of a pipe; the number of that call depends on the architecture."""
    call = re.match("(?:0|63) (0x[0-9a-f]+) ", Path(f"/proc/{pid}/syscall").read_text())
    with suppress(OSError):
        ours = Path(f"/proc/self/fd/{pipe}").readlink()
        return call is not None and Path(f"/proc/{pid}/fd/{int(call[1], 16)}").readlink() == ours
    return False


def test_an_interrupt_is_quiet() -> None:
    program = subprocess.Popen([*PROGRAM, "show", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdin is not None
    while not is_reading(program.pid, program.stdin.fileno()):
        assert program.poll() is None
    program.send_signal(signal.SIGINT)
    assert program.stderr is not None
    assert program.stderr.read() == b""
    program.communicate(timeout=60)
    assert program.returncode == -signal.SIGINT


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_of_every_option(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert set(options_of(command)) == set(OPTION.findall(done.stdout))
    assert f"usage: dbs-address-space {command}" in done.stdout
    assert done.stdout.rstrip() == import_module(f"dbs_address_space.command_line.{command}").HELP
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_help_tells_of_every_command() -> None:
    done = run("--help")
    assert all(f"\n  {command} " in done.stdout for command in COMMANDS)
    assert run().returncode == 2
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_all_commands_and_options(shell: str) -> None:
    script = run("completion", shell).stdout
    assert all(command in script for command in COMMANDS)
    assert all(option.lstrip("-") in script for command in COMMANDS for option in options_of(command))


def test_bash_completes(before: str) -> None:
    script = run("completion", "bash").stdout
    ask = "COMP_WORDS=(dbs-address-space show --re); COMP_CWORD=2; _dbs_address_space; echo ${COMPREPLY[*]}"
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "--region-type\n"


def test_a_command_loads_no_more_than_it_needs(before: str) -> None:
    code = (
        "import sys; from dbs_address_space.command_line import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "show", "-q", before], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stderr.split())
    assert "dbs_address_space.command_line.show" in loaded
    assert not loaded & {"dbs_address_space.command_line.diff", "typing", "dataclasses", "rich", "inspect", "asyncio"}


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["show FILE", "convert FILE -", "doctor", "--version"])
def test_a_closed_stream_is_no_mistake(before: str, command: str, closed: str) -> None:
    arguments = [before if word == "FILE" else word for word in command.split()]
    shell = ["sh", "-c", f'"$@" {closed}', "sh", *PROGRAM, *arguments]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "error" not in done.stderr
