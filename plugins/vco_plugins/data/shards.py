"""Shards: a data set of millions of images in a few large files, written by `vco data pack`."""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any, Final, Literal

import attrs
import numpy as np
import torch
from attrs.validators import ge, instance_of, optional
from jaxtyping import UInt8

from vco.api import Blocks, Data, DataSetting, ImageSet, UserError
from vco_plugins.pictures import center_crop, ending_of, read_picture, shown
from vco_plugins.places import Place, open_place

INDEX: Final = "index.json"
"""File that describes the set."""
FORMAT: Final = "vco-shards-1"
"""What it says of itself; docs/data.md describes the format."""
USUAL: Final = (1000, (3, 256, 256))
"""Classes and shape of images where there is no index yet that they could be read from: ImageNet's."""


@attrs.frozen(kw_only=True)
class _Index:
    """What `index.json` says."""

    form: Literal["decoded", "original"]
    """Whether shards hold the pixels, or the files that they were packed from."""
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    shards: Mapping[str, int]
    """File of each shard -> its bytes."""
    content: Mapping[str, str]
    """SHA-256 of what "train" and "test" show, whatever shards it is cut into."""
    table: str
    """File with a row for every image: safetensors."""
    table_hash: str
    """SHA-256 of that file."""


class Shards(Data):
    """Images in WebDataset tar files with an index, as `vco data pack` writes them; local, or where fsspec reaches.

    Packed decoded, an image costs one read and no decoding; packed with --original, shards hold the files as they
    were, which are cropped as image-folder does. Every image that is read is compared with its checksum. The index
    knows all labels, so that no image is read before training.

    Source: the tar files keep the conventions of the webdataset library.
    """

    @attrs.frozen(kw_only=True)
    class Config(Data.Config):
        """What a user may set."""

        root: str = attrs.field(default="", validator=instance_of(str), metadata={"location": True})
        """Folder that `vco data pack` has written, or a location of it such as s3://bucket/folder."""
        size: int | None = attrs.field(default=None, validator=optional(ge(1)))
        """Side of the square images in pixels, at least 1; by default that of packing. Only shards packed with
        --original have any other."""
        flip: bool = attrs.field(default=True, validator=instance_of(bool))
        """Whether half of the training images, drawn at random, are mirrored left to right."""
        window: int = attrs.field(default=0, validator=ge(0))
        """Shards whose images are shuffled together, at least 1, for disks that are slow at random reads: an epoch runs
        through so many at a time. 0 shuffles all images at once."""
        on_bad: Literal["stop", "skip"] = "stop"
        """What an image that cannot be read does: it ends the run, after saving, or the next one of its class is read
        in its place; the run folder lists them in bad-images.txt."""

    def __init__(self, config: Config, setting: DataSetting) -> None:
        self.config = config
        self.place: Place = open_place(config.root, ahead=config.window > 0)
        self.index: _Index | None = None
        self._problem: UserError | None = None
        try:
            self.index = _read_index(self.place) if config.root else None
        except UserError as error:
            self._problem = error  # said by `check`
        self.num_classes = len(self.index.class_names) if self.index else USUAL[0]
        packed = self.index.image_shape if self.index else USUAL[1]
        self.image_shape = (packed[0], config.size or packed[1], config.size or packed[2])

    def class_names(self) -> Sequence[str]:
        return self.index.class_names if self.index else super().class_names()

    def check(self) -> None:
        """Compares every shard's size with the index, and the index with its hash; reads no image."""
        if not self.config.root:
            raise UserError("it needs --data.root: a folder that `vco data pack ROOT --out FOLDER` has written.")
        index = self._known
        if index.form == "decoded" and self.image_shape != index.image_shape:
            raise UserError(
                f"The images in {self._where} were packed with {'x'.join(map(str, index.image_shape))} pixels, but "
                f"--data.size is {self.config.size}; leave it out, or pack them anew with that size or with --original."
            )
        sizes = self.place.sizes()
        bad = [file for file, size in index.shards.items() if sizes.get(file) != size]
        if bad:
            found = "is missing" if bad[0] not in sizes else f"has {sizes[bad[0]]:,} bytes"
            raise UserError(
                f"{len(bad)} of {len(index.shards)} shards in {self._where} are missing or cut, as {bad[0]}, which "
                f"{found} where the index says {index.shards[bad[0]]:,} bytes; copy them again."
            )
        if hashlib.sha256(self._table()).hexdigest() != index.table_hash:
            raise UserError(f"{index.table} in {self._where} is not the one that was written; copy it again.")

    def train(self) -> ImageSet:
        return self._images("train", flip=self.config.flip)

    def test(self) -> ImageSet:
        return self._images("test", flip=False)

    def _images(self, split: str, *, flip: bool) -> ImageSet:
        from safetensors.numpy import load

        rows = load(self._table())
        table = {name.removeprefix(f"{split}."): rows[name] for name in rows if name.startswith(f"{split}.")}
        return _Images(self.place, self._known, table, split, self.config, size=self.image_shape[1], flip=flip)

    def _table(self) -> bytes:
        content = self.place.content(self._known.table)
        if content is None:
            raise UserError(f"{self._known.table} is missing in {self._where}; copy it again.")
        return content

    @property
    def _where(self) -> str:
        return f"{shown(self.config.root)} (from --data.root)"

    @property
    def _known(self) -> _Index:
        if self._problem:
            raise UserError(f"{str(self._problem).rstrip('.')} (from --data.root).") from self._problem
        if self.index is None:
            raise UserError(
                f"There is no {INDEX} in {self._where}; give a folder that `vco data pack ROOT --out FOLDER` "
                "has written."
            )
        return self.index


def _read_index(place: Place) -> _Index | None:
    """What the index says; None if there is none, `UserError` if it is not one."""
    content = place.content(INDEX)
    if content is None:
        return None
    try:
        found: Any = json.loads(content)
        if found["format"] != FORMAT:
            raise UserError(
                f"{place.path(INDEX)} has the format {found['format']!r} and not {FORMAT!r}; another version of vco "
                "has written it."
            )
        channels, height, width = found["image_shape"]
        return _Index(
            form=found["form"],
            image_shape=(channels, height, width),
            class_names=tuple(found["class_names"]),
            shards={shard["file"]: shard["bytes"] for shard in found["shards"]},
            content={split: found["splits"][split]["content"] for split in ("train", "test")},
            table=found["table"]["file"],
            table_hash=found["table"]["sha256"],
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{place.path(INDEX)} is no index of shards, or a damaged one; copy it again.") from error


class _Images(ImageSet):
    """One split. Rows of the table: shard, number in the set it was packed from, first byte, bytes, checksum, label."""

    def __init__(
        self,
        place: Place,
        index: _Index,
        table: Mapping[str, np.ndarray],
        split: str,
        config: Shards.Config,
        *,
        size: int,
        flip: bool,
    ) -> None:
        self.place, self.form, self.shape = place, index.form, index.image_shape
        self.shards = list(index.shards)
        self.table = table
        self.labels = torch.from_numpy(table["label"].astype(np.int64))
        self.content = index.content[split]
        self.size, self.flip, self.on_bad = size, flip, config.on_bad
        if config.window and split == "train":
            counts = np.bincount(table["shard"])
            self.blocks = Blocks(sizes=counts[counts > 0].tolist(), window=config.window)

    def identity(self) -> Iterator[bytes]:
        yield self.content.encode()

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[torch.Tensor, "c h w"]:
        content = self._content(index)
        if self.form == "decoded":
            pixels = content.reshape(self.shape)
        else:
            picture = read_picture(BytesIO(content.data), self._name(index))
            pixels = np.array(center_crop(picture, self.size)).transpose(2, 0, 1)
        if self.flip and generator is not None and torch.rand((), generator=generator) < 0.5:
            pixels = pixels[:, :, ::-1]
        return torch.from_numpy(np.ascontiguousarray(pixels))

    def file(self, index: int) -> tuple[str, bytes] | None:
        if self.form == "decoded":
            return None
        content = self._content(index).tobytes()
        return ending_of(content), content

    def _content(self, index: int) -> UInt8[np.ndarray, " bytes"]:
        """The bytes of an image, which are those that were packed."""
        shard, start, size = (int(self.table[name][index]) for name in ("shard", "start", "bytes"))
        content = np.empty(size, np.uint8)
        found = self.place.fill(self.shards[shard], start, content)
        if found < size:
            raise UserError(f"The image {self._name(index)} cannot be read, as the file ends too early; copy it again.")
        if zlib.crc32(content.data) != self.table["crc32"][index]:
            raise UserError(
                f"The image {self._name(index)} is not what was packed (its checksum differs); copy the file again."
            )
        return content

    def _name(self, index: int) -> str:
        file = self.shards[self.table["shard"][index]]
        return f"{self.table['number'][index]:09d} in {self.place.path(file)}"
