"""Messages say what was asked, what is in the way and what to do; none shows a value as Rust writes it."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import drgn
import pytest
from dbs_address_space import AddressSpace, AddressSpaceRegion, InvalidArgument, UnmappedAddress, adapters
from memory_helpers import LAYOUT, MIB, PAGE, WINDOW, mapped, ram

ROOT = Path(__file__).parents[2]
FORMATTED = re.compile(r'(?:format|format_args|write|writeln|error)!?\(\s*"(?:[^"\\]|\\.)*\{\w*:#?\?\}')


def without_tests(text: str) -> str:
    return text.partition("#[cfg(test)]")[0]


def test_no_message_shows_a_value_as_rust_does() -> None:
    """Texts are shown by `quoted`, numbers by `hex` and `listed`: `{:?}` would show a user `Some(1)`."""
    texts = {path: without_tests(path.read_text()) for path in (ROOT / "src").rglob("*.rs")}
    found = [(path.name, match[0]) for path, text in texts.items() for match in FORMATTED.finditer(text)]
    assert found == [("quote.rs", 'format!("{text:?}')]
    assert len(texts) >= 100


@pytest.mark.parametrize(
    "code", ['format!("it answered {:?}", x)', '#[error("no {name:?}")]', 'format!(\n    "{x:#?}")']
)
def test_the_guard_complains(code: str) -> None:
    assert FORMATTED.search(code)


def device_space() -> AddressSpace:
    return mapped(ram(0), AddressSpaceRegion.create_device_region(WINDOW, PAGE, name="uart"))[0]


MESSAGES: dict[str, tuple[type[Exception], Callable[[], Any], str]] = {
    "regions before the layout": (
        TypeError,
        lambda: AddressSpace([], LAYOUT),  # type: ignore[call-arg, arg-type]
        r"takes one AddressSpaceLayout, not list and 1 more; .* AddressSpace.from_regions\(regions, layout\)",
    ),
    "regions behind the layout": (
        TypeError,
        lambda: AddressSpace(LAYOUT, []),  # type: ignore[call-arg]
        r"AddressSpace.from_regions\(regions, layout\)",
    ),
    "a program without a platform": (
        InvalidArgument,
        lambda: device_space().attach_drgn(drgn.Program()),
        r"no platform.*Program\(Platform\(Architecture",
    ),
    "not a program": (TypeError, lambda: device_space().attach_drgn(3), "program must be a drgn.Program, not int"),
    "not an engine": (TypeError, lambda: device_space().attach_unicorn(3), "uc must be a unicorn.Uc, not int"),
    "a read of a device": (
        UnmappedAddress,
        lambda: device_space().memory.read(WINDOW, 4),
        r"device region 'uart' .*: space.dispatch\(addr, size\)",
    ),
    "progress that can't be called": (
        TypeError,
        lambda: mapped(ram(0, MIB))[1].copy(0, PAGE, 8, progress=3),  # type: ignore[arg-type]
        "progress must be a function that takes a Progress, not int",
    ),
    "widths": (
        ValueError,
        lambda: device_space().attach_device("uart", SimpleNamespace(read=print, write=print), widths=(1, 3)),
        r"widths \[1, 3\] must be some of 1, 2, 4 and 8",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_a_message_says_what_to_do(case: str) -> None:
    error, do, message = MESSAGES[case]
    with pytest.raises(error, match=message):
        do()


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("numpy", "memory.array(0, 1, 'u1')"),
        ("numpy", "DirtyPages().bitmap(0, 4096)"),
        ("unicorn", "space.attach_unicorn(1)"),
        ("drgn", "space.attach_drgn(1)"),
        ("volatility3", "import dbs_address_space.adapters.volatility3"),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(package: str, use: str) -> None:
    program = f"""
import sys
sys.modules[{package!r}] = None
from dbs_address_space import AddressSpaceBuilder, DirtyPages
space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
memory = space.memory
try:
    {use}
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"pip install 'dbs-address-space[{package}]'" in done.stdout


def test_another_module_that_is_missing_is_told_as_it_is() -> None:
    error = ModuleNotFoundError("No module named 'numpy'", name="numpy")
    assert adapters.needs("drgn", error) is error
