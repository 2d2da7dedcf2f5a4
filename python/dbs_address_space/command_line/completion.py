"""`completion`: a script that completes commands and options in a shell."""

from __future__ import annotations

from . import COMMANDS
from .parsing import Parser, UsageError

__all__ = ["HELP", "options_of", "parser", "run"]

HELP = """\
Print a completion script for a shell. It completes commands, options and files without starting Python.

usage: dbs-address-space completion SHELL

  dbs-address-space completion bash > ~/.local/share/bash-completion/completions/dbs-address-space
  dbs-address-space completion zsh > ~/.zfunc/_dbs-address-space
  dbs-address-space completion fish > ~/.config/fish/completions/dbs-address-space.fish

arguments
  SHELL                bash, zsh or fish
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          no effect here
  -h, --help           this text
exit status  0 done, 2 usage"""


def parser() -> Parser:
    """The options."""
    options = Parser("completion")
    options.add_argument("shell")
    return options


def run(arguments: list[str]) -> int:
    """Prints the script."""
    shell = parser().parse(arguments).shell
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in scripts:
        raise UsageError(f"no completion for {shell!r}", f"Use one of {', '.join(scripts)}.")
    print(scripts[shell]())
    return 0


def options_of(command: str) -> list[str]:
    """The long options of a command, those of its parser."""
    from importlib import import_module  # noqa: PLC0415  only here are all commands wanted

    actions = import_module(f".{command}", __package__).parser()._actions  # noqa: SLF001  argparse has no other way
    return sorted({name for action in actions for name in action.option_strings if name.startswith("--")} | {"--help"})


def _bash() -> str:
    cases = "\n".join(f'    {command}) words="{" ".join(options_of(command))}" ;;' for command in COMMANDS)
    return f"""\
_dbs_address_space() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  if [ "$COMP_CWORD" = 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(COMMANDS)}" -- "$word"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _dbs_address_space dbs-address-space"""


def _zsh() -> str:
    cases = "\n".join(f"    {command}) compadd -- {' '.join(options_of(command))} ;;" for command in COMMANDS)
    described = " ".join(f"'{command}:{line}'" for command, line in COMMANDS.items())
    return f"""\
#compdef dbs-address-space
local -a commands=({described})
if (( CURRENT == 2 )); then
  _describe command commands
elif [[ $words[CURRENT] == -* ]]; then
  case $words[2] in
{cases}
  esac
else
  _files
fi"""


def _fish() -> str:
    command_line = "complete -c dbs-address-space"
    lines = [
        f"{command_line} -n __fish_use_subcommand -f -a {command} -d '{line}'" for command, line in COMMANDS.items()
    ]
    for command in COMMANDS:
        condition = f"-n '__fish_seen_subcommand_from {command}'"
        lines += [f"{command_line} {condition} -l {option.removeprefix('--')}" for option in options_of(command)]
    return "\n".join(lines)
