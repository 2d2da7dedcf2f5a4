"""Debian packages in a folder of their own: downloaded and unpacked, nothing installed, the machine's packages left alone."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Debian:
    """Suites of Debian as apt sees them from `folder`, with a state of their own."""

    folder: Path
    suites: tuple[str, ...]
    architectures: tuple[str, ...] = ("amd64",)

    def unpack(self, packages: Sequence[str], into: Path, *, with_dependencies: bool = False) -> Path:
        """Unpacks packages into a folder, unless just these have been unpacked there before."""
        stamp = into / ".packages"
        wanted = "\n".join([*self.suites, *packages])
        if stamp.exists() and stamp.read_text() == wanted:
            return into
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        for package in self._download(packages, with_dependencies=with_dependencies):
            subprocess.run(["dpkg", "-x", package, into], check=True)
        stamp.write_text(wanted)
        return into

    def source(self, package: str, into: Path) -> Path:
        """The archive of a package's original source."""
        if not (found := sorted(into.glob(f"{package}_*.orig.tar.*"))):
            into.mkdir(parents=True, exist_ok=True)
            self._apt("update")
            self._apt("source", "--download-only", package, folder=into)
            found = sorted(into.glob(f"{package}_*.orig.tar.*"))
        return next(path for path in found if path.suffix != ".asc")

    def _download(self, packages: Sequence[str], *, with_dependencies: bool) -> list[Path]:
        downloads = self.folder / "archives"
        shutil.rmtree(downloads, ignore_errors=True)
        (downloads / "partial").mkdir(parents=True)
        self._apt("update")
        if with_dependencies:
            self._apt("install", "--download-only", "--yes", "--no-install-recommends", *packages)
        else:
            self._apt("download", *packages, folder=downloads)
        return sorted(downloads.glob("*.deb"))

    def _apt(self, *arguments: str, folder: Path | None = None) -> None:
        (self.folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        (self.folder / "sources.list").write_text(self._sources())
        options = {
            "APT::Architecture": self.architectures[0],
            "APT::Architectures": ",".join(self.architectures),
            "APT::Sandbox::User": "root",
            "Dir::Cache": self.folder,
            "Dir::Cache::Archives": self.folder / "archives",
            "Dir::Etc::SourceList": self.folder / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State": self.folder,
            "Dir::State::Lists": self.folder / "lists",
            "Dir::State::Status": self.folder / "status",
        }
        command = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items()), *arguments]
        subprocess.run(command, check=True, cwd=folder or self.folder)

    def _sources(self) -> str:
        site = mirror()
        return "".join(
            f"{kind} [signed-by={KEYS}] {site}{'-security' if suite.endswith('-security') else ''} {suite} main\n"
            for suite in self.suites
            for kind in ("deb", "deb-src")
        )


def mirror() -> str:
    """Where Debian packages come from: DEBIAN_MIRROR, or where this machine gets its own from."""
    if site := os.environ.get("DEBIAN_MIRROR"):
        return site
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Origin: Debian"]
    sites = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    if not sites:
        message = "no Debian mirror is known here: set DEBIAN_MIRROR to the address of one, up to and with /debian"
        raise SystemExit(message)
    return min(sites, key=len)
