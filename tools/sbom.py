"""A wheel's list of what is built in (CycloneDX) names its crate by the builder's folder: this takes the folder out of it."""

import base64
import csv
import hashlib
import io
import re
import zipfile
from pathlib import Path

LOCAL = re.compile(rb"path\+file://[^#\"?]*")


def without_paths(wheel: Path, to: Path) -> Path:
    """Copies a wheel, its members in the same order and with the same times, and its RECORD made right again."""
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as target:
        changed = {}
        for member in source.infolist():
            content = source.read(member)
            if "/sboms/" in member.filename:
                content = LOCAL.sub(b"path+file:///src", content)
                changed[member.filename] = _entry(content)
            elif member.filename.endswith(".dist-info/RECORD"):
                content = _record(content, changed)
            target.writestr(member, content)
    return to


def _entry(content: bytes) -> tuple[str, str]:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={digest}", str(len(content))


def _record(content: bytes, changed: dict[str, tuple[str, str]]) -> bytes:
    rows = [(row[0], *changed.get(row[0], row[1:])) for row in csv.reader(io.StringIO(content.decode()))]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
