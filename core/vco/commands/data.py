"""The command `vco data`: looks at a data set before a run depends on it."""

import argparse
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import attrs
from tqdm import tqdm

from vco.config.command_line import parse
from vco.config.resolve import resolve
from vco.errors import UserError
from vco.plugins.discovery import load_catalog

if TYPE_CHECKING:
    from vco.api import Data, ImageSet

SHOWN: Final = 20
"""Findings of a kind that are printed; the rest are counted."""
UNREADABLE: Final = 1
"""Exit status where images cannot be read."""


@attrs.frozen
class _Seen:
    """What was found out about one image."""

    digest: str = ""
    """Hash of its pixels; empty if it cannot be read."""
    flat: bool = False
    """Whether all its pixels are equal."""
    error: str = ""


def main(argv: Sequence[str]) -> int:
    """The verb with its options; exits with 1 if an image cannot be read.

    Raises:
        UserError: if the data set as a whole cannot be used.
    """
    parser = argparse.ArgumentParser(prog="vco data", description="Look at a data set before a run depends on it.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    check = verbs.add_parser(
        "check",
        help="read every image, and name those that cannot be read or are odd",
        epilog="Options of the data set are given as to vco-run, as in --data.size 64.",
    )
    check.add_argument("root", metavar="ROOT", help="folder, or what else the data set reads from")
    check.add_argument("--data", default="image-folder", metavar="NAME", help="the data set [image-folder]")
    check.add_argument("--threads", type=int, default=8, metavar="N", help="images that are read at a time [8]")
    args, rest = parser.parse_known_args(argv)
    return _check(_data(args.data, args.root, rest), args.threads)


def _data(name: str, root: str, options: Sequence[str]) -> "Data":
    """The data set, as a run would build it."""
    from vco.api import DataSetting

    part = resolve(parse(["--data", name, "--data.root", root, *options]), load_catalog()).config.part("data")
    try:
        data: Data = part.component(part.config, DataSetting())
        data.check()
    except UserError as error:
        raise UserError(error.of(part.title, "data")) from error
    return data


def _check(data: "Data", threads: int) -> int:
    names = data.class_names()
    places: dict[str, list[str]] = {}
    errors: list[str] = []
    flat: list[str] = []
    print(f"{data.num_classes} classes, images of {'x'.join(map(str, data.image_shape))}")
    for split, images in (("train", data.train()), ("held-out", data.test())):
        counts = images.labels.bincount(minlength=data.num_classes)
        least, most = int(counts.argmin()), int(counts.argmax())
        rare, frequent = (names[number] or "the only one" for number in (least, most))
        print(
            f"{split}: {len(images):,} images; {counts[least]:,} of the rarest class ({rare}), {counts[most]:,} of the "
            f"most frequent ({frequent})"
        )
        for index, seen in enumerate(_look(images, split, threads)):
            place = f"{split} image {index} ({names[int(images.labels[index])] or 'no class'})"
            errors += [f"{place}: {seen.error}"] if seen.error else []
            flat += [place] if seen.flat else []
            if seen.digest:
                places.setdefault(seen.digest, []).append(place)
    twice = [" = ".join(same) for same in places.values() if len(same) > 1]
    leaked = [same for same in twice if "train image" in same and "held-out image" in same]
    _tell("cannot be read", errors)
    _tell("of the held-out images are training images too (equal pixels), so that scores flatter", leaked)
    _tell("more are there twice (equal pixels)", [same for same in twice if same not in leaked])
    _tell("are flat: all their pixels are equal", flat)
    if not (errors or twice or flat):
        print("nothing is odd")
    return UNREADABLE if errors else 0


def _look(images: "ImageSet", split: str, threads: int) -> Iterator[_Seen]:
    """Reads every image, several at a time, in order."""

    def look(index: int) -> _Seen:
        try:
            image = images.image(index, None)
        except UserError as error:
            return _Seen(error=str(error))
        digest = hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()
        return _Seen(digest=digest, flat=bool((image == image.flatten()[0]).all()))

    with ThreadPoolExecutor(threads) as pool:
        results = _in_order(pool, look, len(images), 4 * threads)
        yield from tqdm(results, f"reading {split}", len(images), unit="image", leave=False)


def _in_order(pool: ThreadPoolExecutor, look: Callable[[int], _Seen], count: int, ahead: int) -> Iterator[_Seen]:
    """The results in order, with a few images read ahead: all at once would hold them all in memory."""
    waiting = [pool.submit(look, index) for index in range(min(ahead, count))]
    for index in range(count):
        yield waiting.pop(0).result()
        if index + ahead < count:
            waiting.append(pool.submit(look, index + ahead))


def _tell(what: str, found: Sequence[str]) -> None:
    """Prints findings of one kind."""
    if not found:
        return
    print(f"{len(found):,} {what}:")
    for sentence in found[:SHOWN]:
        print(f"  {sentence}")
    if len(found) > SHOWN:
        print(f"  and {len(found) - SHOWN:,} more")
