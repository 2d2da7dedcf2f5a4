"""The types that a checker finds: unpacking, iteration and errors need no `cast` and no `assert`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import dbs_address_space
import pytest
from host import imported, require

REVEALED = {
    "[region for region in space]": "list[AddressSpaceRegion]",
    "list(reversed(space))": "list[AddressSpaceRegion]",
    "space['ram0']": "AddressSpaceRegion",
    "space.snapshot().find_region(0)": "AddressSpaceRegion | None",
    "[size for _, size in space.snapshot().gaps()]": "list[int]",
    "space.snapshot().gaps()[0].base": "int",
    "copied.rate": "float",
    "cost.nodes": "dict[int | None, int]",
    "memory.read(0, 1)": "bytes",
    "memory.view(0, 1)": "memoryview[int]",
    "lease.what": "str",
    "unmapped.address": "int",
    "base": "int",
    "size": "int",
    "total": "int",
    "pages": "dict[int, int]",
    "error.region": "AddressSpaceRegion | None",
    "fault.completed": "int",
    "[lease.size for lease in busy.leases]": "list[int]",
    "plan.problems": "tuple[str, ...]",
}
PROGRAM = """
from dbs_address_space import *

def program(
    space: AddressSpace, memory: GuestMemory, copied: PreallocReport, cost: PlanCost, lease: Lease,
    error: AddressSpaceError, unmapped: UnmappedAddress, extent: AddressRange, fault: MemoryFault, busy: RegionBusy,
    plan: InvalidPlan,
) -> None:
    base, size = extent
    total, _, pages, _ = cost
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM + "".join(f"    reveal_type({expression})\n" for expression in REVEALED))
    return path


def test_pyright_finds_them(path: Path) -> None:
    checker = Path(sys.executable).parent / "basedpyright"
    require(checker.exists(), "basedpyright is not installed")
    # It takes no package from a .pth file.
    environment = os.environ | {"PYTHONPATH": str(Path(dbs_address_space.__path__[0]).parent)}
    command = [str(checker), "--pythonpath", sys.executable, "--outputjson", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=path.parent, env=environment)
    found = [one["message"] for one in json.loads(done.stdout)["generalDiagnostics"]]
    types = [match[1] for message in found if (match := re.fullmatch(r'Type of ".*" is "(.*)"', message))]
    assert dict(zip(REVEALED, types, strict=True)) == REVEALED, done.stdout


def test_mypy_finds_them(path: Path, tmp_path: Path) -> None:
    options = ["--strict", "--hide-error-context", "--no-color-output", "--no-error-summary", f"--cache-dir={tmp_path}"]
    said, errors, _ = imported("mypy.api").run([*options, f"--python-executable={sys.executable}", str(path)])
    assert errors == ""
    types = [re.sub(r"\b(builtins|dbs_address_space)\.(\w+\.)*", "", kind) for kind in re.findall(r'is "(.*)"', said)]
    assert dict(zip(REVEALED, types, strict=True)) == REVEALED, said
