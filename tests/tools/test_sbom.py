"""The list of what a wheel contains keeps no folder of the builder, and the wheel stays one that pip takes."""

import base64
import csv
import hashlib
import io
import zipfile
from pathlib import Path

from sbom import without_paths

SBOM = "x-1.dist-info/sboms/x.cyclonedx.json"
RECORD = "x-1.dist-info/RECORD"


def wheel(path: Path, folder: str) -> Path:
    """A wheel as built in a folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [
            ("x/__init__.py", "1"),
            (SBOM, f'{{"bom-ref": "path+file://{folder}#x@1", "purl": "pkg:cargo/x@1?download_url=file://."}}'),
            (RECORD, f"x/__init__.py,sha256=a,1\n{SBOM},sha256=b,2\n{RECORD},,\n"),
        ]:
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6)), content, zipfile.ZIP_DEFLATED)
    return path


def test_two_folders_one_wheel(tmp_path: Path) -> None:
    first = without_paths(wheel(tmp_path / "a.whl", "/home/you/one"), tmp_path / "first.whl")
    second = without_paths(wheel(tmp_path / "b.whl", "/builds/another one"), tmp_path / "second.whl")
    assert first.read_bytes() == second.read_bytes()


def test_the_record_tells_the_new_content(tmp_path: Path) -> None:
    with zipfile.ZipFile(without_paths(wheel(tmp_path / "a.whl", "/home/you/one"), tmp_path / "b.whl")) as archive:
        content = archive.read(SBOM)
        rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(archive.read(RECORD).decode()))}
    assert b"/home" not in content
    assert b"path+file:///src#x@1" in content
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    assert rows == {"x/__init__.py": ["sha256=a", "1"], SBOM: [f"sha256={digest}", str(len(content))], RECORD: ["", ""]}
