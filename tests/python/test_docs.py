"""Every example in a docstring, the README and the other pages runs, and every public name has a docstring, also in the stub."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import dbs_address_space
import pytest
from dbs_address_space import _core

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`((?:src|python|tests|docs|benches|examples|tools|\.ci)/[\w./-]*|[A-Z]\w+\.(?:md|toml)|Makefile)`")
NAME = re.compile(r"`(?:\w+(?:\.|::))*([A-Za-z_]\w*)(?:\([^`]*\))?`")


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def modules() -> list[ModuleType]:
    """The modules of the package, the extension among them, and the package itself."""
    found = pkgutil.walk_packages(dbs_address_space.__path__, "dbs_address_space.")
    names = sorted(info.name for info in found if not info.name.endswith("__main__"))
    return [*map(importlib.import_module, names), dbs_address_space]


def is_documented(value: object) -> bool:
    """Whether it is something that can have a docstring of its own; a guess is not there (`src/python/guesses.rs`)."""
    return type(value).__name__ != "_Guess" and (
        inspect.isclass(value) or inspect.isroutine(value) or inspect.isdatadescriptor(value)
    )


def public(holder: object) -> dict[str, Any]:
    """The public names of a module or class that were made there; compiled classes say that they belong to the package."""
    name = getattr(holder, "__name__", "")
    homes = {name, "dbs_address_space"} if name.endswith("._core") else {name}
    found = {key: getattr(value, "__func__", value) for key, value in vars(holder).items() if not key.startswith("_")}
    return {
        key: value
        for key, value in found.items()
        if is_documented(value) and (inspect.isclass(holder) or value.__module__ in homes)
    }


def members() -> dict[str, Any]:
    """Every module, class, function, method and property of the package."""
    found: dict[str, Any] = {}
    for module in modules():
        found[module.__name__] = module
        for name, value in public(module).items():
            found[f"{module.__name__}.{name}"] = value
            if inspect.isclass(value):
                found.update({f"{module.__name__}.{name}.{key}": inner for key, inner in public(value).items()})
    return found


def examples() -> Iterator[doctest.DocTest]:
    parser, seen = doctest.DocTestParser(), set[int]()
    for name, value in members().items():
        if ">>>" in (value.__doc__ or "") and id(value) not in seen:
            seen.add(id(value))
            home = inspect.getmodule(value)
            globals_ = {} if "._core" in name or home is None else vars(home).copy()
            yield parser.get_doctest(inspect.cleandoc(value.__doc__), globals_, name, None, 0)


EXAMPLES = {example.name: example for example in sorted(examples(), key=lambda example: example.name)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings(name: str) -> None:
    runner, said = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), list[str]()
    result = runner.run(EXAMPLES[name], out=said.append)
    assert not result.failed, "".join(said)
    assert result.attempted


def test_there_are_enough_examples() -> None:
    compiled = [name for name in EXAMPLES if "._core." in name]
    assert len(compiled) >= 60
    assert len(EXAMPLES) - len(compiled) >= 8
    assert {name.rsplit(".", 1)[1] for name in compiled} >= {
        "AddressSpace",
        "insert_region",
        "read",
        "view",
        "create_dax_region",
    }


def test_everything_public_has_a_docstring() -> None:
    found = members()
    assert [name for name, value in found.items() if not value.__doc__ and not name.endswith("._core")] == []
    assert len(found) >= 250


def definitions(holder: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, str | None]]:
    """Every public class, function (each of its overloads), method and property of a stub, with its docstring."""
    for node in holder.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield f"{prefix}.{node.name}", ast.get_docstring(node)
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, f"{prefix}.{node.name}")


def test_the_stub_has_the_docstrings_of_the_extension() -> None:
    """Editors show those of the stub, and `help()` those of the extension."""
    stub = Path(_core.__file__).with_name("_core.pyi").read_text()
    shown = list(definitions(ast.parse(stub), _core.__name__))
    said = {name: inspect.getdoc(value) for name, value in members().items() if name.startswith(f"{_core.__name__}.")}
    assert {name for name, _ in shown} == said.keys()
    assert [name for name, docstring in shown if docstring != said[name]] == [], "run `make stubs`"
    assert len(said) >= 250


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=relative)
def test_examples_of_pages(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of a page run one after the other; sessions with a prompt show what they print."""
    globals_: dict[str, Any] = {"__name__": page.name}
    for number, block in enumerate(BLOCK.findall(page.read_text())):
        name = f"{page.name}, block {number}"
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, globals_, name, str(page), 0)
            assert not doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False).failed
            globals_.update(test.globs)
        else:
            exec(compile(block, name, "exec"), globals_)
    capsys.readouterr()


OWNERS = {
    "memory": dbs_address_space.GuestMemory,
    "space": dbs_address_space.AddressSpace,
    "slots": dbs_address_space.KvmSlots,
    "client": dbs_address_space.VhostUserClient,
}
"""The objects of blocks that can't run everywhere, by the names that those give them."""


def test_verbs_in_blocks_that_do_not_run_exist() -> None:
    blocks = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    called = re.compile(rf"\b({'|'.join(OWNERS)})\.(\w+)\(")
    found = {call for page in PAGES for block in blocks.findall(page.read_text()) for call in called.findall(block)}
    assert [call for call in found if not is_documented(getattr(OWNERS[call[0]], call[1], None))] == []
    assert len(found) >= 10


def test_the_readme_has_an_example_that_runs() -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    assert blocks
    assert "map_memory()" in blocks[0]


@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("docs/design.md", 30),
        ("docs/glossary.md", 5),
        ("CONTRIBUTING.md", 25),
        ("README.md", 7),
        ("docs/machines.md", 0),
    ],
)
def test_files_named_in_a_page_exist(page: str, least: int) -> None:
    named = set(FILE.findall((ROOT / page).read_text()))
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert len(named) >= least


def test_the_reference_has_every_public_name_once() -> None:
    pages = "\n".join(page.read_text() for page in sorted((ROOT / "docs/reference").glob("*.md")))
    shown = re.findall(r"^\.\. auto(?:class|exception|function):: dbs_address_space\.(\w+)$", pages, re.MULTILINE)
    public = {name for name in dir(dbs_address_space) if not name.isupper() and name[0] != "_"}
    modules_ = {info.name for info in pkgutil.iter_modules(dbs_address_space.__path__)}
    assert sorted(shown) == sorted(public - modules_)


def public_names() -> set[str]:
    """Every name that a user of the package can write, and those of its modules."""
    return {part for name in members() for part in name.split(".")} | set(dir(dbs_address_space))


@pytest.mark.parametrize(
    "section", (ROOT / "docs/design.md").read_text().split("\n## ")[1:], ids=lambda text: text[:20]
)
def test_what_a_section_of_the_design_names_is_in_the_files_that_it_names(section: str) -> None:
    """Each word of the design is found where the section says."""
    files = [ROOT / path for path in FILE.findall(section)]
    code = "\n".join(path.read_text() for path in files if path.is_file())
    names = set(NAME.findall(section)) - public_names()
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []
    assert files
