"""Whatever is called with whatever, from whatever callback: a value or an exception, never a signal, a hang or a panic."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FUZZER = Path(__file__).with_name("api_fuzz.py")
# `make test-long` asks for more; a seed that failed is given again with FUZZ_SEED.
FIRST = int(os.environ.get("FUZZ_SEED", "1"))
SEEDS = int(os.environ.get("FUZZ_SEEDS", "3"))
CALLS = int(os.environ.get("FUZZ_CALLS", "1500"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_no_call_kills_hangs_or_panics(
    seed: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    last = tmp_path / "last"
    last.write_bytes(bytes(600))
    run = subprocess.run(
        [sys.executable, FUZZER, str(seed), str(CALLS), last],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=800,
        check=False,
    )
    called = last.read_bytes().rstrip(b"\0 ").decode(errors="replace")
    assert run.returncode == 0, f"seed {seed} ended with {run.returncode} in {called}:\n{run.stderr[-4000:]}"
    assert "FINDING" not in run.stdout, run.stdout
    *_, closing = run.stdout.splitlines()
    record_property("closing", f"fuzzer: {closing[:100]}")
    assert closing.startswith(f"seed {seed}: {CALLS} calls")
