"""The command `vco data pack`: writes a data set into a few large files, from which any image is read at once."""

import argparse
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
from tqdm import tqdm

from vco.commands.arguments import count
from vco.commands.data_set import open_data
from vco.config.plain import locations
from vco.errors import UserError

if TYPE_CHECKING:
    from vco.api import Data, ImageSet
    from vco.config.settings import Part
    from vco.storage.shards import Packing, Record

HELP: Final = "write the data set into a few large files (shards), from which any image is read at once"
MB: Final = 10**6


def add_options(parser: argparse.ArgumentParser) -> set[str]:
    """Adds the options of this verb; their names."""
    parser.add_argument("--out", required=True, metavar="FOLDER", help="what to write; it must not exist yet")
    parser.add_argument(
        "--shard-size", type=count, default=256, metavar="MB", help="million bytes after which a shard is closed [256]"
    )
    parser.add_argument(
        "--original",
        action="store_true",
        help="keep the files as they are, instead of decoded images of the data set's size: smaller, slower to read",
    )
    return {"--out", "--shard-size", "--original"}


def run(args: argparse.Namespace, options: Sequence[str]) -> int:
    """Packs the data set, or goes on where packing was stopped."""
    from vco import __version__
    from vco.content import of_data
    from vco.storage.shards import Packing

    data, part = open_data(args, options)
    sets = {"train": data.train(), "test": data.test()}
    if args.original and sets["train"].file(0) is None:
        raise UserError(f"data {part.name} has no picture files that could be kept; leave --original out")
    form = "original" if args.original else "decoded"
    about = {"form": form, "image_shape": list(data.image_shape), "class_names": list(data.class_names())}
    source = {"data": part.name, "content": of_data(data)}
    packing = Packing(Path(args.out).absolute(), {**about, **source, "shard_size": args.shard_size})
    try:
        for split, images in sets.items():
            _pack(packing, split, images, args, data)
        index = packing.finish({**about, "packed_from": {**source, "options": _options(part), "vco": __version__}})
    finally:
        packing.close()
    _tell(index, packing.bad(), args.out)
    return 0


def _pack(packing: "Packing", split: str, images: "ImageSet", args: argparse.Namespace, data: "Data") -> None:
    """Writes the shards of one split."""
    from vco.data.threads import in_threads
    from vco.storage.shards import packed_size

    order = _order(split, len(images))
    done = packing.resume(split)
    if not args.original:
        channels, height, width = data.image_shape
        _require_space(packing.aside, (len(images) - done) * packed_size(channels * height * width + 128))
    records = in_threads(partial(_record, images, args.original), order[done:], args.threads)
    bar = tqdm(records, f"packing {split}", len(images), initial=done, unit="image", leave=False, disable=None)
    packing.write(split, iter(bar), args.shard_size * MB, done)


def _order(split: str, size: int) -> list[int]:
    """The images in the order of packing: training images shuffled, so that every shard has all classes."""
    import torch

    from vco.randomness import generator

    return torch.randperm(size, generator=generator(0, "pack")).tolist() if split == "train" else list(range(size))


def _record(images: "ImageSet", original: bool, index: int) -> "Record":
    """One image, read; where it cannot be and the data set skips such images, what is wrong with it."""
    from vco.storage.shards import Record, decoded

    label = int(images.labels[index])
    try:
        image = images.image(index, None)  # of an original too: a shard should hold none that cannot be read
    except UserError as error:
        if images.on_bad == "stop":
            raise UserError(f"{error} (--data.on-bad skip leaves such images out; the same command goes on)") from error
        return Record(number=index, label=label, ending="", fault=str(error))
    if original and (file := images.file(index)):
        return Record(number=index, label=label, ending=file[0], content=file[1])
    return decoded(index, label, image.contiguous().numpy())


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the shards take another {needed / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free for {folder.parent}; "
            "choose another --out, a smaller --data.size, or --original"
        )


def _options(part: "Part") -> dict[str, Any]:
    """The options of the data set, without those that say where it lies."""
    found = attrs.asdict(part.config)
    return {name: found[name] for name in found if name not in locations(type(part.config))}


def _tell(index: dict[str, Any], bad: Sequence[str], out: str) -> None:
    """Prints what was written."""
    for split, facts in index["splits"].items():
        shards = [shard for shard in index["shards"] if shard["file"].startswith(split)]
        size = sum(shard["bytes"] for shard in shards)
        many = "shard" if len(shards) == 1 else "shards"
        print(f"{split}: {facts['images']:,} images in {len(shards):,} {many}, {tqdm.format_sizeof(size)}B")
    if bad:
        print(f"{len(bad):,} that could not be read are left out; {out}/bad-images.txt lists them")
    print(f"to train on them: vco-run --data shards --data.root {out}")
