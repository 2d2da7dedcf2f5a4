"""The command `dbs-address-space`. Only the module and the parser of the command that is run are loaded: start-up counts."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "show": "print the map of a source",
    "find": "tell what lies at an address",
    "diff": "print what changed from one map to another",
    "top": "show what the memory of a running program does",
    "hexdump": "print the bytes at an address",
    "search": "print where a text or bytes are in memory",
    "plan": "plan the address space of a machine",
    "image": "look at, check, merge or make an image of memory",
    "check": "look for problems of a map",
    "convert": "write a map or memory in another format",
    "dump": "write the memory of a guest to a file",
    "doctor": "tell what this host offers",
    "completion": "print a completion script for a shell",
}
HELP = """\
usage: dbs-address-space [--color WHEN] COMMAND [options] ...

A virtual machine's guest-physical address space: look at it, compare it, plan it, take it along.

{commands}

  dbs-address-space show vm.elf          the map as a table
  dbs-address-space COMMAND --help       more about a command

A source is a FILE in any format that is known by its content, a running QEMU by its process, as pid:1234, or by its
QMP socket, as qmp:/path, a program that called space.serve(), as space:/path, or - for standard input.
--version prints the version.
exit status  0 done, same, found;  1 differs, not found, problems;  2 usage, or it could not be done"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and ends the process with its exit status."""
    _open_closed_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _die_of("SIGINT")
    except BrokenPipeError:
        _die_of("SIGPIPE")
    except Exception as error:  # noqa: BLE001  the last place where it can be told
        status = _told(error, is_json="--json" in given)
    sys.exit(status)


def _open_closed_streams() -> None:
    """Lets what is printed go nowhere where a shell has closed a standard stream, before a file of ours takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  open until the end


def _run(given: list[str]) -> int:
    if given[:1] == ["--color"]:
        if given[1:2] not in (["auto"], ["always"], ["never"]):
            from .parsing import UsageError  # noqa: PLC0415  as late as it can be

            raise UsageError("--color takes auto, always or never", "See --help.")
        os.environ["DBS_ADDRESS_SPACE_COLOR"] = "".join(given[1:2])
        given = given[2:]
    if not given or given[0] in {"-h", "--help"}:
        print(HELP.format(commands="\n".join(f"  {name:<12}{line}" for name, line in COMMANDS.items())))
        return 0 if given else 2
    if given[0] == "--version":
        from dbs_address_space import __version__  # noqa: PLC0415  as late as it can be

        print(__version__)
        return 0
    return _command(given[0], given[1:])


def _command(name: str, arguments: list[str]) -> int:
    from importlib import import_module  # noqa: PLC0415  as above

    from .parsing import UsageError  # noqa: PLC0415  as above

    if name not in COMMANDS:
        from difflib import get_close_matches  # noqa: PLC0415  as above

        close = get_close_matches(name, COMMANDS, 1)
        raise UsageError(f"no command {name!r}{f'. Did you mean {close[0]!r}?' if close else ''}", "See --help.")
    module = import_module(f"{__name__}.{name}")
    if arguments in (["-h"], ["--help"]):
        print(module.HELP)
        return 0
    return int(module.run(arguments))


def _told(error: Exception, *, is_json: bool) -> int:
    """Says what went wrong: a user's mistake and the world's without a traceback."""
    from .problems import tell  # noqa: PLC0415  as above

    return tell(error, is_json=is_json)


def _die_of(name: str) -> NoReturn:
    """Ends the process as the signal would have, which shells and scripts look at."""
    import signal  # noqa: PLC0415  as above

    number = signal.Signals[name]
    # What is still in the buffer can go nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)
