"""The command `vco data check`: reads every image, and names those that cannot be read or are odd."""

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from math import prod
from typing import TYPE_CHECKING, Final

import attrs
from PIL import Image
from tqdm import tqdm

from vco.commands.data_set import open_data
from vco.errors import UserError

if TYPE_CHECKING:
    from vco.api import Data, ImageSet

HELP: Final = "read every image, and name those that cannot be read or are odd"
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
    size: tuple[int, int] | None = None
    """Width and height of the picture file that it is read from; None where there is none."""
    error: str = ""


def add_options(parser: argparse.ArgumentParser) -> set[str]:
    """Adds the options of this verb; their names."""
    return set()


def run(args: argparse.Namespace, options: Sequence[str]) -> int:
    """Looks at the data set; exits with 1 if an image cannot be read."""
    data, _ = open_data(args, options)
    return _check(data, args.threads)


def _check(data: "Data", threads: int) -> int:
    names = data.class_names()
    places: dict[str, list[str]] = {}
    errors: list[str] = []
    flat: list[str] = []
    sizes = Counter[tuple[int, int]]()
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
            sizes.update([seen.size] if seen.size else [])
            if seen.digest:
                places.setdefault(seen.digest, []).append(place)
    _tell_sizes(sizes, data.image_shape[-2:])
    twice = [" = ".join(same) for same in places.values() if len(same) > 1]
    leaked = [same for same in twice if "train image" in same and "held-out image" in same]
    _tell("cannot be read", errors)
    _tell("of the held-out images {is a training image|are training images} too (equal pixels): scores flatter", leaked)
    _tell("more {is|are} there twice (equal pixels)", [same for same in twice if same not in leaked])
    _tell("{is|are} of a single color", flat)
    if not (errors or twice or flat):
        print("nothing is odd")
    return UNREADABLE if errors else 0


def _look(images: "ImageSet", split: str, threads: int) -> Iterator[_Seen]:
    """Reads every image, several at a time, in order."""
    from vco.data.threads import in_threads

    def look(index: int) -> _Seen:
        try:
            image = images.image(index, None)
        except UserError as error:
            return _Seen(error=str(error))
        digest = hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()
        return _Seen(digest=digest, flat=bool((image == image.flatten()[0]).all()), size=_size(images.file(index)))

    results = in_threads(look, range(len(images)), threads)
    yield from tqdm(results, f"reading {split}", len(images), unit="image", leave=False, disable=None)


def _size(file: tuple[str, bytes] | None) -> tuple[int, int] | None:
    """Width and height of a picture file, of which only the beginning is looked at."""
    if file is None:
        return None
    with Image.open(BytesIO(file[1])) as picture:
        return picture.size


def _tell_sizes(sizes: Counter[tuple[int, int]], shape: Sequence[int]) -> None:
    """Says which sizes picture files have, if they are not all as large as the images."""
    height, width = shape
    if set(sizes) <= {(width, height)}:
        return
    least, most = (f"{w}x{h}" for w, h in (min(sizes, key=prod), max(sizes, key=prod)))
    have = f"are all {least}" if len(sizes) == 1 else f"have {len(sizes):,} sizes, from {least} to {most} pixels"
    small = sum(count for (w, h), count in sizes.items() if w < width or h < height)
    enlarged = f"; {small:,} {'is' if small == 1 else 'are'} smaller and enlarged for that" if small else ""
    print(f"the picture files {have}, and are resized and cropped to {width}x{height}{enlarged}")


def _tell(what: str, found: Sequence[str]) -> None:
    """Prints findings of one kind; {is|are} in `what` stands for the form that their number has."""
    if not found:
        return
    form = re.sub(r"\{(.*?)\|(.*?)\}", r"\1" if len(found) == 1 else r"\2", what)
    print(f"{len(found):,} {form}:")
    for sentence in found[:SHOWN]:
        print(f"  {sentence}")
    if len(found) > SHOWN:
        print(f"  and {len(found) - SHOWN:,} more")
