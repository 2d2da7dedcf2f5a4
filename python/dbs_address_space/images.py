"""Images: the memory of a space in a file, with its map and with blobs such as the registers of its processors."""

# ruff: noqa: SLF001  the private verbs of the memory are the package's own

from __future__ import annotations

import os
from pathlib import PurePath

from ._core import (
    AddressSpace,
    AddressSpaceRegion,
    _Image,
    _ImagePart,
    check_function,
    check_type,
    checked_descriptor,
    checked_size,
    checked_timeout,
    guessed,
)
from ._named_tuple import NamedTuple
from .errors import ImageCorrupt, ImageError, InvalidAddressRange, InvalidArgument, UnmappedAddress
from .image_description import BlobPlace, described
from .paths import path_text
from .restoring import closed_on_error, not_populated, over_file, places, space_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import NoReturn, Self, SupportsIndex

    from ._core import AddressSpaceLayout, _File
    from .progress import Progress
    from .reports import RestoreStats
    from .restoring import Made

    Path = str | os.PathLike[str]

__all__ = ["SavedSpace"]

_MOST_PARTS = 1000
_MODES = ("copy", "cow", "lazy")


class _Facts(NamedTuple):
    """The header of an image, which is told of when its file is closed, too."""

    generation: int
    digest: str
    content: str
    parent: str | None
    data_size: int
    is_watched: bool

    @classmethod
    def of(cls, part: _ImagePart) -> Self:
        parent = None if part.parent is None else part.parent.hex()
        return cls(part.generation, part.digest.hex(), part.content.hex(), parent, part.data_size, part.is_watched)


@guessed
class SavedSpace:
    """An image that was saved: a map, the bytes of its memory, and blobs. Made by `AddressSpace.save` and `SavedSpace.open`.

    A full image holds all memory that is not zero. A difference holds what changed since its parent, which it names by its
    digest: the parent, and the parents of that, have to be there. It keeps its files open until it is closed, or its `with`
    block ends.
    `docs/image-format.md` describes the file.

    >>> import tempfile
    >>> from dbs_address_space import AddressSpaceBuilder, SavedSpace
    >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    >>> space.memory.write(0x1000, b"hello")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with space.save(f"{folder}/vm.img", blobs={"vcpu0": b"registers"}) as saved:
    ...         saved.size, saved.data_size, saved.blobs["vcpu0"]
    ...     SavedSpace.open(f"{folder}/vm.img").restore().memory.read(0x1000, 5)
    (4194304, 4096, b'registers')
    b'hello'
    """

    def __init__(self, path: Path, *, resolve: Callable[[str], Path] | None = None) -> None:
        """Opens an image as `open` does."""
        check_function(resolve, "resolve", "a digest")
        paths = [path_text(path, "path")]
        parts = [_ImagePart(paths[0])]
        while (digest := parts[-1].parent) is not None:
            if len(parts) == _MOST_PARTS:
                raise parts[0].mismatch(f"it has more than {_MOST_PARTS} parents: merge() them now and then")
            paths.append(_parent_path(parts[-1], paths[-1], digest, resolve))
            parts.append(_open_parent(parts[-1], paths[-1]))
            if parts[-1].digest != digest:
                raise parts[-2].mismatch(f"{paths[-1]} is not the parent that it names")
        self._begin(parts, paths)

    def _begin(self, parts: list[_ImagePart], paths: list[str]) -> Self:
        """Takes open files, the newest first."""
        self._parts = parts
        self._paths = paths
        self._facts = _Facts.of(parts[0])
        self._image: _Image | None = _Image(parts[0], parts[1:])
        self._description = described(parts[0])
        return self

    @classmethod
    def _of(cls, parts: list[_ImagePart], paths: list[str]) -> Self:
        return cls.__new__(cls)._begin(parts, paths)

    @staticmethod
    def open(path: Path, *, resolve: Callable[[str], Path] | None = None) -> SavedSpace:
        """Opens an image and those that it is a difference from, and checks all but the bytes of memory and of blobs.

        A parent is looked for under the name that it had beside the image; `resolve(digest)` gives the path of one that moved.
        Raises `ImageCorrupt` for a file that is damaged or not an image, `ImageTooNew`, `ImageMismatch` for a parent that is
        missing or another one, `OSError` as opening does.

        >>> import tempfile
        >>> from dbs_address_space import AddressSpaceBuilder, SavedSpace
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     AddressSpaceBuilder(numa_regions=["4MiB"]).build().save(f"{folder}/vm.img").close()
        ...     SavedSpace.open(f"{folder}/vm.img").regions
        (AddressSpaceRegion('ram0' DEFAULT_MEMORY [0x0, 0x40_0000) 4 MiB rw- shmem),)
        """
        return SavedSpace(path, resolve=resolve)

    @property
    def path(self) -> str:
        """The path, as it was given."""
        return self._paths[0]

    @property
    def layout(self) -> AddressSpaceLayout:
        """The layout of the map."""
        return self._description.layout

    @property
    def regions(self) -> tuple[AddressSpaceRegion, ...]:
        """The regions, by ascending base. Those over a user's file or buffer have memory of their own when they are restored."""
        return self._description.regions

    @property
    def generation(self) -> int:
        """The generation of the map that was saved."""
        return self._facts.generation

    @property
    def digest(self) -> str:
        """The digest in hex by which a difference names it, of everything in it (BLAKE3)."""
        return self._facts.digest

    @property
    def content(self) -> str:
        """The digest in hex of what memory is: the same for a difference as for what it is merged to."""
        return self._facts.content

    @property
    def parent(self) -> str | None:
        """The digest of the parent, or `None` of a full image."""
        return self._facts.parent

    @property
    def size(self) -> int:
        """The bytes of memory."""
        return sum(region.size for region in self.regions if region.base in self._description.places)

    @property
    def data_size(self) -> int:
        """The bytes of memory that this file holds; the others are zero, or the parent's."""
        return self._facts.data_size

    @property
    def is_checked(self) -> bool:
        """Whether writes of this process and its guests would have been noticed while it was saved.

        Others who have the memory mapped, as a vhost-user back-end or a QEMU whose memory it is, write unseen.
        """
        return self._facts.is_watched

    @property
    def blobs(self) -> dict[str, bytes]:
        """The blobs by their names, read and checked now; raises `ImageCorrupt`."""
        self._opened()
        return {name: self._blob(name, place) for name, place in self._description.blobs.items()}

    def _blob(self, name: str, place: BlobPlace) -> bytes:
        content = self._newest().blob(place.offset, place.size)
        if content is None or _Image.digest(content) != place.digest:
            raise self._newest().corrupt(f"the blob {name!a} is not what was written")
        return content

    def _opened(self) -> _Image:
        image = self._image
        return self._closed() if image is None else image

    def _newest(self) -> _ImagePart:
        parts = self._parts
        return parts[0] if parts else self._closed()

    def _closed(self) -> NoReturn:
        raise ImageError(f"{self.path}: this image was closed: open it again", path=self.path)

    def chain(self) -> tuple[SavedSpace, ...]:
        """This image, its parent, the parent of that and so on to the full image."""
        self._opened()
        return tuple(SavedSpace._of(self._parts[at:], self._paths[at:]) for at in range(len(self._parts)))

    def verify(
        self, *, threads: SupportsIndex | None = None, progress: Callable[[Progress], object] | None = None
    ) -> None:
        """Reads all of it and its parents, by `threads` threads, by default as many as help.

        Raises `ImageCorrupt` with `.path`, `.chunk`, `.region` and `.address` for the first damage.

        >>> import tempfile
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     AddressSpaceBuilder(numa_regions=["4MiB"]).build().save(f"{folder}/vm.img").verify()
        """
        image = self._opened()
        check_function(progress, "progress", "a Progress")
        try:
            image.verify(threads, progress)
        except ImageCorrupt as error:
            raise self._located(error) from None
        for saved in self.chain():
            _ = saved.blobs

    def merge(
        self,
        path: Path,
        *,
        sync: bool = True,
        threads: SupportsIndex | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> SavedSpace:
        """Writes a full image of the same memory, map and blobs, which needs no parent; its `content` is this one's.

        `threads` threads, by default as many as help, check every chunk on the way. Raises `ImageCorrupt`, `ImageError` for a
        path that is part of the chain, `OSError`; then nothing has changed.

        >>> import tempfile
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     full = space.save(f"{folder}/0.img")
        ...     space.memory.write_u8(0x5000, 1)
        ...     difference = space.save(f"{folder}/1.img", parent=full)
        ...     merged = difference.merge(f"{folder}/all.img")
        ...     merged.parent, merged.content == difference.content
        (None, True)
        """
        check_function(progress, "progress", "a Progress")
        try:
            self._opened().merge(path_text(path, "path"), sync, threads, progress)
        except ImageCorrupt as error:
            raise self._located(error) from None
        return SavedSpace.open(path)

    def restore(
        self,
        mode: str = "copy",
        *,
        rate: SupportsIndex | str | None = None,
        timeout: float | None = 10.0,
        threads: SupportsIndex | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> AddressSpace:
        r"""A new space with its map and memory; `AddressSpace.restore` says how.

        With `mode="lazy"`, `rate` bytes a second come in in the background, as many as can by default; 0 for none. A file that is
        not read within `timeout` seconds (`None`: for ever) is `MemoryFault` where it was touched, now and later; the background
        ends then, and the rest comes in when it is touched. `threads` and `progress(p)` go with `mode="copy"` alone, where
        `threads` threads work, by default as many as help, and `progress` is called at most 20 times a second.

        >>> import tempfile
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = space.save(f"{folder}/vm.img")
        ...     saved.restore("cow").memory.read(0, 2)
        b'\x00\x00'
        """
        image = self._opened()
        check_type(mode, str, "mode")
        check_function(progress, "progress", "a Progress")
        if mode not in _MODES:
            raise InvalidArgument(f"mode={mode!a} is not one of {', '.join(map(repr, _MODES))}")
        if not self._newest().is_of_this_machine:
            message = f"it was saved on another architecture (ELF machine {self._newest().machine})"
            raise self._newest().mismatch(message)
        _ = self.blobs
        speed, seconds = None if rate is None else checked_size(rate, "rate"), checked_timeout(timeout)
        for name, option in (("threads", threads), ("progress", progress)):
            if option is not None and mode != "copy":
                raise InvalidArgument(f"{name}= goes with mode='copy', for {mode!a} returns at once")
        if mode == "lazy":
            return self._filled_later(image, speed, seconds)
        if rate is not None:
            raise InvalidArgument(f"rate= goes with mode='lazy', not with {mode!a}")
        return self._copied(image, threads, progress) if mode == "copy" else self._mapped()

    def serve_uffd(
        self, sock: _File, *, rate: SupportsIndex | str | None = None, timeout: float | None = 5.0
    ) -> RestoreStats:
        """Fills the memory of a VMM in another process while that uses it, and returns when the VMM has ended.

        `sock` is its connection, over which it sends what Firecracker sends where a snapshot is loaded with `mem_backend` of type
        `Uffd`: its mappings as JSON and its userfaultfd, within `timeout` seconds; a read of the image may take as long. Offsets
        count through the memory of the image, region behind region by ascending base. `rate` is that of `restore`. Pages that the
        VMM gives up, as a balloon does, are zero from then on. Where the image turns out to be damaged, or this call is ended by
        Ctrl-C, what is missing is poisoned: a touch is SIGBUS for the VMM, never a zero and never a wait for ever. It takes no
        privilege here, and Linux 6.6.

        Raises `BackingError` for a handshake that is not one or does not come, `ImageMismatch` for memory that the image has not,
        and at the end the first `ImageCorrupt`, or `TimeoutError` where the image was not read in time.

        >>> import socket, tempfile
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> ours, vmm = socket.socketpair()
        >>> with tempfile.TemporaryDirectory() as folder, ours:
        ...     saved = AddressSpaceBuilder(numa_regions=["4MiB"]).build().save(f"{folder}/vm.img")
        ...     vmm.close()
        ...     saved.serve_uffd(ours)
        Traceback (most recent call last):
        dbs_address_space.errors.BackingError: the VMM's handshake: the connection ended before its mappings had come
        """
        from .uffd_handshake import received  # noqa: PLC0415  few want it

        image, speed = self._opened(), None if rate is None else checked_size(rate, "rate")
        own = [region for region in self.regions if region.base in self._description.places]
        row = [(region.size, self._description.place(region)) for region in own]
        seconds = checked_timeout(timeout)
        userfault, mappings = received(checked_descriptor(sock, "sock"), seconds, self.size)
        try:
            return image.serve(userfault, row, mappings, speed, seconds)
        except ImageCorrupt as error:
            raise self._located(error) from None
        finally:
            os.close(userfault)

    def _space(self, made: Made) -> AddressSpace:
        try:
            return space_of(self._description, made)
        except (InvalidAddressRange, UnmappedAddress) as error:
            raise self._newest().corrupt(f"its JSON: {error}") from error

    def _copied(
        self, image: _Image, threads: SupportsIndex | None, progress: Callable[[Progress], object] | None
    ) -> AddressSpace:
        with closed_on_error(self._space(lambda region, _: region)) as space:
            memory = space.map_memory(progress=progress)
            try:
                memory._fill(image, places(self._description), threads, progress)
            except ImageCorrupt as error:
                raise self._located(error) from None
            return space

    def _filled_later(self, image: _Image, rate: int | None, timeout: float | None) -> AddressSpace:
        with closed_on_error(self._space(not_populated)) as space:
            space.map_memory()
            space._restore_lazily(image, places(self._description), rate, timeout)
            return space

    def _mapped(self) -> AddressSpace:
        if self.parent is not None:
            message = (
                "a difference can't be mapped: restore a full image, which merge() makes, or restore by mode='copy'"
            )
            raise ImageError(f"{self.path}: {message}", path=self.path)
        with closed_on_error(self._space(over_file(self._newest()))) as space:
            space.map_memory()._fill(None, places(self._description), None, None)
            return space

    def _located(self, error: ImageCorrupt) -> ImageCorrupt:
        """The error of a chunk with the region that it is of."""
        if error.chunk is None:
            return error
        start, size = error.chunk << 16, 1 << 16
        for region in self.regions:
            if region.base in self._description.places:
                place = self._description.place(region)
                if place < start + size and start < place + region.size:
                    address = region.base + max(0, start - place)
                    what = str(error).removeprefix(f"{error.path}: ")
                    message = f"{error.path}: {region}, at {address:#_x}: {what}"
                    return ImageCorrupt(
                        message, path=error.path, chunk=error.chunk, address=address, size=size, region=region
                    )
        return error

    def close(self) -> None:
        """Closes its files; a second time does nothing. Spaces that were restored keep what they need."""
        self._image = None
        self._parts = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        kind = "full" if self.parent is None else f"a difference in a chain of {len(self._paths)}"
        return f"SavedSpace({self.path!a}, {len(self.regions)} regions, {kind})"


def _parent_path(part: _ImagePart, path: str, digest: bytes, resolve: Callable[[str], Path] | None) -> str:
    if resolve is not None:
        return path_text(resolve(digest.hex()), "the path that resolve() returns")
    name = described(part).parent
    if not isinstance(name, str):
        raise part.mismatch("it does not say where its parent is: give resolve=")
    return str(PurePath(path).parent / name)


def _open_parent(part: _ImagePart, path: str) -> _ImagePart:
    try:
        return _ImagePart(path)
    except FileNotFoundError as error:
        raise part.mismatch(f"its parent is not at {path}: put it there, or give resolve=") from error


def _restored(
    path: Path,
    mode: str,
    resolve: Callable[[str], Path] | None,
    threads: SupportsIndex | None,
    progress: Callable[[Progress], object] | None,
) -> AddressSpace:
    """Restores an image: `AddressSpace.restore`."""
    with SavedSpace.open(path, resolve=resolve) as saved:
        return saved.restore(mode, threads=threads, progress=progress)
