"""`image`: images of memory, made of dumps, looked at, checked, merged and dumped again."""

from __future__ import annotations

from dbs_address_space._core import size_text
from dbs_address_space.errors import ImageError
from dbs_address_space.formats.exchange import dump, load
from dbs_address_space.images import SavedSpace

from .output import print_json, refuse_to_replace, region_json
from .parsing import Parser, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

__all__ = ["HELP", "parser", "run"]

HELP = """\
Look at an image of memory, check it, merge it with its parents, or make one.

usage: dbs-address-space image info [options] IMAGE
       dbs-address-space image verify IMAGE
       dbs-address-space image merge [options] IMAGE NEW
       dbs-address-space image save [options] DUMP NEW
       dbs-address-space image restore [options] IMAGE DUMP

  dbs-address-space image info vm.img
  dbs-address-space image merge tuesday.img both.img
  dbs-address-space image restore vm.img vm.elf

arguments
  IMAGE                a file that space.save() made; its parents lie where they were, beside it
  NEW                  the image to make
  DUMP                 memory in a format that load() reads and dump() writes: ELF, LiME and others
options
  --parent IMAGE       save only what differs from this one
  --format NAME        of the dump, where its name or content does not say
  --force              replace a file that is there
  --json               info as JSON
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          only the exit status
  -h, --help           this text
exit status  0 done, 1 the image is damaged or does not fit, 2 usage, or it could not be done"""


def parser() -> Parser:
    """The options."""
    options = Parser("image")
    options.add_argument("verb")
    options.add_argument("first")
    options.add_argument("second", nargs="?")
    options.add_argument("--parent")
    options.add_argument("--format")
    options.add_argument("--force", action="store_true")
    options.add_argument("--json", action="store_true")
    return options


def run(arguments: list[str]) -> int:
    """Does one of the verbs."""
    options = parser().parse(arguments)
    verbs: dict[str, tuple[Callable[[Namespace], None], int]] = {
        "info": (_info, 1),
        "verify": (_verify, 1),
        "merge": (_merge, 2),
        "save": (_save, 2),
        "restore": (_restore, 2),
    }
    if options.verb not in verbs:
        raise UsageError(f"image knows no {options.verb!r}", f"Use one of {', '.join(verbs)}.")
    verb, files = verbs[options.verb]
    if (options.second is not None) != (files == 2):  # noqa: PLR2004  the first and the second
        raise UsageError(f"image {options.verb} takes {files} file{'s' if files > 1 else ''}", "See --help.")
    if options.second is not None:
        refuse_to_replace(options.second, is_forced=options.force)
    try:
        verb(options)
    except ImageError as error:
        from .problems import tell  # noqa: PLC0415  start-up

        tell(error, is_json=options.json)
        return 1
    return 0


def _info(options: Namespace) -> None:
    with SavedSpace.open(options.first) as saved:
        chain = saved.chain()
        if options.json:
            print_json(
                "image",
                generation=saved.generation,
                digest=saved.digest,
                content=saved.content,
                size=saved.size,
                data_size=saved.data_size,
                is_checked=saved.is_checked,
                chain=[{"path": one.path, "digest": one.digest, "data_size": one.data_size} for one in chain],
                regions=[region_json(region) for region in saved.regions],
                blobs={name: len(blob) for name, blob in saved.blobs.items()},
            )
        elif not options.quiet:
            print("\n".join(_lines(saved, chain)))


def _lines(saved: SavedSpace, chain: tuple[SavedSpace, ...]) -> list[str]:
    noticed = "would have been noticed" if saved.is_checked else "would not have been noticed"
    lines = [
        f"memory     {size_text(saved.size)} in {len(saved.regions)} regions, {size_text(saved.data_size)} in this file",
        f"digest     {saved.digest}",
        f"content    {saved.content}",
        f"writes     {noticed} while it was saved",
    ]
    lines += [f"parent     {ascii(one.path)[1:-1]}, {size_text(one.data_size)}" for one in chain[1:]]
    lines += [f"blob       {ascii(name)[1:-1]}, {size_text(len(blob))}" for name, blob in saved.blobs.items()]
    return lines + [f"region     {ascii(str(region))[1:-1]}" for region in saved.regions]


def _verify(options: Namespace) -> None:
    with SavedSpace.open(options.first) as saved:
        saved.verify()
        if not options.quiet:
            print(f"all {size_text(saved.size)} are as they were saved: {saved.content}")


def _merge(options: Namespace) -> None:
    with SavedSpace.open(options.first) as saved:
        saved.merge(options.second).close()


def _save(options: Namespace) -> None:
    with load(options.first, format=options.format) as space:
        space.save(options.second, parent=options.parent).close()


def _restore(options: Namespace) -> None:
    with SavedSpace.open(options.first) as saved, saved.restore() as space:
        dump(space, options.second, format=options.format)
