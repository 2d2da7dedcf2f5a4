"""Facts that stand in more than one place agree, and the README can be read on an index page."""

import re
import tomllib
from pathlib import Path

import try_pythons

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CARGO = tomllib.loads((ROOT / "Cargo.toml").read_text())


def test_the_readme_links_to_nothing_beside_it() -> None:
    links = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text())
    assert len(links) >= 3
    assert [link for link in links if not link.startswith("https://")] == []


def test_the_pythons_that_are_named_are_those_that_are_tested() -> None:
    classifiers = PYPROJECT["project"]["classifiers"]
    named = [found[1] for text in classifiers if (found := re.fullmatch(r".* :: Python :: (3\.\d+)", text))]
    assert tuple(named) == try_pythons.VERSIONS
    assert PYPROJECT["project"]["requires-python"] == f">={named[0]}"


def test_the_oldest_rust_is_the_same_everywhere() -> None:
    oldest = CARGO["package"]["rust-version"]
    assert f"oldest_rust={oldest}\n" in (ROOT / "tools" / "doctor.sh").read_text()
    assert f"cargo +{oldest} " in (ROOT / "Makefile").read_text()


def test_every_wheel_has_the_licences() -> None:
    for name in PYPROJECT["project"]["license-files"]:
        assert (ROOT / name).read_text().strip()
