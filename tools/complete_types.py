"""Checks that every public name has a type that is known without guessing, whichever type checker looks."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "dbs_address_space"
# Built on a package that has no types.
FOREIGN = f"{PACKAGE}.adapters.volatility3."


def report() -> dict[str, Any]:
    """The report of basedpyright, which is pyright without a download at run time."""
    command = [str(Path(sys.executable).parent / "basedpyright"), "--pythonpath", sys.executable, "--ignoreexternal"]
    # It looks where the interpreter looks, but takes no package of the folder that it runs in, nor one from a .pth file.
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    with tempfile.TemporaryDirectory() as folder:
        options = ["--verifytypes", PACKAGE, "--outputjson"]
        done = subprocess.run(
            [*command, *options], check=False, capture_output=True, text=True, cwd=folder, env=environment
        )
    found: dict[str, Any] = json.loads(done.stdout)["typeCompleteness"]
    return found


def main() -> None:
    """Exits with the names whose type is not known."""
    symbols = [symbol for symbol in report()["symbols"] if symbol["name"].startswith(PACKAGE)]
    if not symbols:
        raise SystemExit("no public name was found")
    unknown = [s["name"] for s in symbols if not s["isTypeKnown"] or s["isTypeAmbiguous"]]
    problems = [name for name in unknown if not name.startswith(FOREIGN)]
    if problems:
        raise SystemExit("\n".join(["no certain type:", *problems]))
    sys.stdout.write(f"{len(symbols)} names of {PACKAGE} have a known type\n")


if __name__ == "__main__":
    main()
