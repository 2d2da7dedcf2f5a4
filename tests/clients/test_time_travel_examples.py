"""The programs of the how-to pages: a fuzzer that finds its crash, a guest that becomes many, and one that moves."""

from pathlib import Path

import fork_guest
import fuzz_guest
import migrate_guest
import pytest
import ring3_kvm
from host import imported

ENGINES = ["kvm", "unicorn"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "kvm" and not Path("/dev/kvm").exists():
        pytest.skip("there is no /dev/kvm")
    if request.param == "unicorn":
        imported("unicorn")
    return str(request.param)


def test_the_fuzzer_finds_the_record_that_is_too_long(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    crash = fuzz_guest.main(["--engine", engine, "--seconds", "60", "--verify"])
    assert crash is not None
    assert crash[:4] == fuzz_guest.MAGIC
    assert crash[4] > 128
    told = capsys.readouterr().out
    assert f"crash: a store to {ring3_kvm.SIZE:#x}" in told
    assert "hot pages" in told


def test_every_guest_goes_on_from_the_boot_with_an_input_of_its_own(engine: str) -> None:
    answers = fork_guest.main(["--engine", engine, "--count", "12"])
    assert answers == [sum(byte * byte for byte in b"guest %d" % number) for number in range(12)]


def test_a_guest_goes_on_in_another_process_where_it_was_stopped(engine: str) -> None:
    here, begun, there = migrate_guest.main(["--engine", engine])
    assert here > 0
    assert here % 256 == 0
    assert begun == here
    assert there == begun + 1000 * 256
