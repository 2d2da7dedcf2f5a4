"""How Sphinx builds the pages: `make docs`.

Docstrings come from the extension itself, and the types of a signature from its stub, for a compiled function knows none.
"""

import ast
import copy
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python/dbs_address_space"
sys.path.insert(0, str(PACKAGE.parent))

project = "dbs-address-space"
copyright = "The authors of dbs-address-space for Python"  # noqa: A001  Sphinx's name for it
html_theme = "furo"
html_title = "dbs-address-space for Python"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # the links of README.md, which index.md includes, count from the top
copybutton_exclude = ".linenos, .gp, .go"

default_role = "py:obj"
autodoc_member_order = "alphabetical"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True


def functions(holder: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Each function, method and property of a module or class, by its name with dots; of overloads, the last."""
    for node in holder.body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield f"{prefix}{node.name}", node


PRIVATE = re.compile(r"\b_(?=[A-Z])")
ATTRIBUTE = re.compile(r"`(\.[\w.()]+)`")
PLURAL = re.compile(r"(`[\w.]+`)(s\b)")
SIGNATURES = dict(functions(ast.parse((PACKAGE / "_core.pyi").read_text()), ""))


def shown_arguments(node: ast.FunctionDef, *, is_bound: bool) -> str:
    """The arguments as their reader gives them: without `self`, and with the names of the stub's own types unmasked."""
    held = node.args.posonlyargs or node.args.args
    if is_bound and held:
        held.pop(0)
    return f"({re.sub(PRIVATE, '', ast.unparse(node.args))})"


def typed_signature(
    _app: Sphinx, kind: str, name: str, _value: object, _options: object, arguments: str | None, _returned: str | None
) -> tuple[str | None, str] | None:
    """The signature that the stub has; what is written in Python has its own."""
    node = SIGNATURES.get(name.removeprefix("dbs_address_space.") + (".__new__" if kind == "class" else ""))
    if node is None:
        return None
    is_static = any(getattr(decorator, "id", "") == "staticmethod" for decorator in node.decorator_list)
    shown = shown_arguments(copy.deepcopy(node), is_bound=kind in ("method", "class") and not is_static)
    returned = re.sub(PRIVATE, "", ast.unparse(node.returns)) if node.returns and kind != "class" else ""
    return (None if arguments is None and kind != "class" else shown), returned


def as_markup(_app: Sphinx, _what: str, _name: str, _value: object, _options: object, lines: list[str]) -> None:
    """A plural behind backticks, as in `MapRow`s, wants a space that is not shown; `.size` is nobody's name in particular."""
    lines[:] = [ATTRIBUTE.sub(r"``\1``", PLURAL.sub(r"\1\\ \2", line)) for line in lines]


def skipped(_app: Sphinx, _what: str, _name: str, value: object, skip: bool, _options: object) -> bool:  # noqa: FBT001
    """A guess of a name is there to be answered, and not to be shown (`src/python/guesses.rs`)."""
    return skip or type(value).__name__ == "_Guess"


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls it."""
    app.connect("autodoc-process-signature", typed_signature)
    app.connect("autodoc-process-docstring", as_markup)
    app.connect("autodoc-skip-member", skipped)
    return {"parallel_read_safe": True}
