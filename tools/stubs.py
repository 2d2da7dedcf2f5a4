"""Merges the extension's docstrings into its stub, which is where editors look for them.

The signatures are written by hand and stay as they are; each docstring is replaced by the one of the extension. `make stubs` runs
this and formats the result; running it again changes nothing.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from dbs_address_space import _core

STUB = Path(__file__).parents[1] / "python/dbs_address_space/_core.pyi"


def definitions(
    holder: ast.Module | ast.ClassDef, owner: object
) -> Iterator[tuple[ast.ClassDef | ast.FunctionDef, str]]:
    """Each public class, function, method and property of the stub, with its docstring in the extension."""
    for node in holder.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            value = getattr(owner, node.name)
            yield node, inspect.cleandoc(value.__doc__)
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, value)


def literal(docstring: str) -> bytes:
    """A docstring as source, without its indentation, which the formatter sees to."""
    raw, end = "r" if "\\" in docstring else "", "\n" if "\n" in docstring else ""
    return f'{raw}"""{docstring}{end}"""'.encode()


def merged(stub: str) -> str:
    """The stub with each docstring in place: the whole body of a function, the first statement of a class."""
    lines = stub.encode().splitlines(keepends=True)
    for node, docstring in reversed([*definitions(ast.parse(stub), _core)]):
        first, text = node.body[0], literal(docstring)
        last = node.body[-1] if isinstance(node, ast.FunctionDef) else first
        if isinstance(node, ast.ClassDef) and ast.get_docstring(node) is None:
            line = min(part.lineno for part in [first, *getattr(first, "decorator_list", [])])
            lines.insert(line - 1, b" " * first.col_offset + text + b"\n")
        else:
            line, end_line = first.lineno - 1, last.end_lineno or 0
            before, behind = lines[line][: first.col_offset], lines[end_line - 1][last.end_col_offset :]
            lines[line:end_line] = [before + text + behind]
    return b"".join(lines).decode()


if __name__ == "__main__":
    STUB.write_text(merged(STUB.read_text()))
