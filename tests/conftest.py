"""The space that most tests are about: a file that needs other regions gives its own `regions`, and has the rest from here."""

import gc
import io
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, GuestMemory, _core
from kernel_view import open_files
from memory_helpers import LAYOUT, ram
from threads import switch_interval

PYTEST_FILES: set[io.FileIO] = set()


def pytest_report_header() -> str:
    return f"extension: {_core.__file__}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test has the same name in each run, or no one can ask for it again, nor share the tests out."""
    nameless = [item.nodeid for item in items if " at 0x" in item.nodeid]
    assert not nameless, f"these have an address of memory in their names: give ids= to them: {nameless}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tests with a seed tell of their runs here, from whichever process."""
    reports = [report for found in ("passed", "failed") for report in terminalreporter.stats.get(found, [])]
    for report in reports:
        for name, line in report.user_properties:
            if name == "closing":
                terminalreporter.write_line(str(line))


def pytest_sessionstart() -> None:
    # A shell starts what runs in the background with Ctrl-C ignored, and the children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    PYTEST_FILES.update(open_files())


@pytest.fixture(autouse=True, scope="session")
def _closed() -> Iterator[None]:
    """A file that a test or a module leaves open would be complained of when Python ends, where no test can fail of it."""
    yield
    assert open_files() <= PYTEST_FILES


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """Objects of pytest stay: looking through them after each test would take longer than the tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Clients refer to their spaces: what a test leaves behind goes before the next one looks at the process."""
    yield
    gc.collect()


@pytest.fixture(params=[0.005, 1e-5], ids=["usual switches", "constant switches"])
def any_switches(request: pytest.FixtureRequest) -> Iterator[None]:
    with switch_interval(request.param):
        yield


@pytest.fixture
def constant_switches() -> Iterator[None]:
    with switch_interval(1e-5):
        yield


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The exceptions that Python could raise nowhere."""
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised_: raised.append(raised_.exc_value))
    return raised


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    return [ram(0, name="low")]


@pytest.fixture
def layout() -> AddressSpaceLayout:
    return LAYOUT


@pytest.fixture
def space(regions: list[AddressSpaceRegion], layout: AddressSpaceLayout) -> AddressSpace:
    space = AddressSpace.from_regions(regions, layout)
    space.map_memory()
    return space


@pytest.fixture
def memory(space: AddressSpace) -> GuestMemory:
    return space.memory


@pytest.fixture(params=[False, True], ids=["unmapped", "mapped"])
def either(request: pytest.FixtureRequest, space: AddressSpace) -> AddressSpace:
    """Of a file whose `space` is not mapped: that, and again with memory."""
    if request.param:
        space.map_memory()
    return space
