"""Docstrings, doc comments and messages are plain sentences: with a subject, and negated at the verb."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dbs_address_space import errors

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("src", "python", "tests", "benches", "examples", "tools")
    for path in sorted((ROOT / folder).rglob("*.*"))
    if path.suffix in {".rs", ".py", ".pyi"} and "target" not in path.parts
]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
HEADLESS = re.compile(r"(What|Who|Whoever|Whichever) ")
"""A first sentence whose subject is a clause: "What is mapped." says less than "The mapped files."."""
NEGATED_NOUN = re.compile(r"(?<!there )\b(?:is|are|was|were) no (?!longer\b|more\b|such\b)\w+", re.IGNORECASE)
"""A thing that "is no page"; that there is no page is another matter."""


def test_each_error_is_in_the_page_of_errors() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    raised = [one.__name__ for one in classes if issubclass(one, errors.AddressSpaceError)]
    raised.remove("AddressSpaceError")
    assert len(raised) > 30
    assert [name for name in raised if f"`{name}`" not in page] == []


def python_documentation(text: str) -> Iterator[str]:
    """The docstrings, also those behind the constants and fields that they document."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value.strip()


def rust_documentation(text: str) -> Iterator[str]:
    """The doc comments, each without its markers."""
    for block in re.findall(r"(?:^[ \t]*//[/!].*\n)+", text, re.MULTILINE):
        yield re.sub(r"^[ \t]*//[/!] ?", "", block, flags=re.MULTILINE).strip()


def documentation(path: Path) -> list[str]:
    read = rust_documentation if path.suffix == ".rs" else python_documentation
    return list(read(path.read_text()))


def test_documentation_begins_with_its_subject() -> None:
    found = {path.relative_to(ROOT): documentation(path) for path in SOURCES}
    assert [(path, text) for path, texts in found.items() for text in texts if HEADLESS.match(text)] == []
    assert sum(len(texts) for path, texts in found.items() if path.suffix == ".rs") >= 1000
    assert sum(len(texts) for path, texts in found.items() if path.suffix != ".rs") >= 1000


def test_nothing_is_a_negated_noun() -> None:
    texts = {path: path.read_text() for path in [*SOURCES, *PAGES] if path != Path(__file__)}
    assert [
        (path.relative_to(ROOT), found[0]) for path, text in texts.items() for found in NEGATED_NOUN.finditer(text)
    ] == []
    assert len(texts) >= 200
    assert len(PAGES) >= 8


@pytest.mark.parametrize("text", ["/// Who asks.\n", "    //! What is mapped.\n    //!\n    //! More.\n"])
def test_headless_sentences_are_found_in_rust(text: str) -> None:
    assert [HEADLESS.match(found) is not None for found in rust_documentation(text)] == [True]


@pytest.mark.parametrize("text", ['"""What it is."""\n', 'class A:\n    b = 1\n    """\n    Whoever asks."""\n'])
def test_headless_sentences_are_found_in_python(text: str) -> None:
    assert [HEADLESS.match(found) is not None for found in python_documentation(text)] == [True]


def test_a_thing_that_is_not_there_may_be_missing() -> None:
    assert NEGATED_NOUN.findall("fd 7 is no socket. There is no socket; it is no longer there.") == ["is no socket"]
