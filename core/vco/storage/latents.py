"""Stored latents: what a codec makes of the images of a data set, computed once and read in place of the images.

A store is a folder with `manifest.json` and shards `train-00000.safetensors`, ... of `SHARD` images each, in the order
of the training set: `moments` [k, *moments_shape], float32, and `flipped`, the same of the mirrored images, if the
store has them. The manifest says of which images and by which weights they were made.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import attrs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vco.errors import UserError, one_line
from vco.storage.files import write_atomic

FORMAT: Final = 1
SHARD: Final = 1024
"""Images of a shard."""
MANIFEST: Final = "manifest.json"
BEGUN: Final = "begun.json"
"""What a store will be that is not yet complete."""
MOMENTS: Final = "moments"
FLIPPED: Final = "flipped"
OPEN: Final = 64
"""Shards that a process keeps open."""


@attrs.frozen(kw_only=True)
class Identity:
    """What latents were made of, and by what."""

    codec: str
    """Name of the codec."""
    weights: str
    """Hash of its weights (`vco.content.of_weights`)."""
    data: str
    """Hash of the training images (`vco.content.of_images`)."""
    images: int
    """How many images there are."""
    image_shape: tuple[int, ...] = attrs.field(converter=tuple)
    moments_shape: tuple[int, ...] = attrs.field(converter=tuple)
    flips: bool
    """Whether the mirrored images are there too."""

    def difference(self, other: "Identity") -> str:
        """The first difference as part of a sentence; empty if there is none."""
        words = {
            "codec": "another codec",
            "weights": "other weights of the codec (or another precision)",
            "data": "other images",
            "images": "another number of images",
            "image_shape": "another size of images",
            "moments_shape": "other latents",
            "flips": "mirrored images, which only one of both has",
        }
        for name, word in words.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{word} ({_short(mine)} there, {_short(theirs)} here)"
        return ""


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"train-{number:05d}.safetensors"


def shards_of(images: int) -> list[range]:
    """The images of each shard."""
    return [range(start, min(start + SHARD, images)) for start in range(0, images, SHARD)]


def begin(folder: Path, identity: Identity) -> None:
    """Makes the folder of a store, or finds that one of the same images by the same weights was begun there.

    Raises:
        UserError: if there is something else.
    """
    if (folder / MANIFEST).is_file():
        before = _read_identity(folder / MANIFEST)
        if different := before.difference(identity):
            raise UserError(f"{folder} holds latents of {different}; choose another --out")
        return
    if (folder / BEGUN).is_file():
        if different := _read_identity(folder / BEGUN).difference(identity):
            raise UserError(f"in {folder} a store of {different} was begun; choose another --out, or remove it")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and holds no latents; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / BEGUN, _as_json(identity))


def missing(folder: Path, identity: Identity) -> list[int]:
    """The shards that are still to be written; those that are there are whole."""
    return [number for number in range(len(shards_of(identity.images))) if not (folder / shard_name(number)).is_file()]


def write_shard(folder: Path, number: int, moments: Mapping[str, Tensor]) -> None:
    """Writes a shard, which is then whole."""
    write_atomic(folder / shard_name(number), save({name: x.contiguous() for name, x in moments.items()}))


def finish(folder: Path, identity: Identity) -> None:
    """Says that the store is complete."""
    write_atomic(folder / MANIFEST, _as_json(identity))
    (folder / BEGUN).unlink(missing_ok=True)


class LatentStore:
    """A store that is read from; it can be sent to reader processes, which open the files for themselves."""

    def __init__(self, folder: Path) -> None:
        """Reads the manifest.

        Raises:
            UserError: if there is no complete store.
        """
        self.folder = folder
        if not (folder / MANIFEST).is_file():
            begun = (folder / BEGUN).is_file()
            why = "is not complete: the same command of `vco latents` goes on" if begun else "holds no store of latents"
            raise UserError(f"--train.latents {folder}: it {why}")
        self.identity = _read_identity(folder / MANIFEST)
        if lost := missing(folder, self.identity):
            raise UserError(f"--train.latents {folder}: {shard_name(lost[0])} is missing; write the store anew")
        self._forget()

    def require_same(self, identity: Identity) -> None:
        """Raises `UserError` if a run would read latents of other images, or by other weights."""
        here = attrs.evolve(identity, flips=self.identity.flips)
        if different := self.identity.difference(here):
            raise UserError(
                f"--train.latents {self.folder}: the store was made of {different}; write one with `vco latents` and "
                "the options of this run, or leave the option out"
            )

    def moments(self, index: int, flipped: bool = False) -> Tensor:
        """What is stored of an image; raises `UserError` if the file cannot be read."""
        shard, row = divmod(index, SHARD)
        try:
            return self._opened(shard).get_slice(FLIPPED if flipped else MOMENTS)[row]
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.folder / shard_name(shard)} cannot be read ({one_line(error)}).") from error

    def _forget(self) -> None:
        self._opened = lru_cache(OPEN)(self._open)

    def _open(self, shard: int) -> Any:
        return safe_open(self.folder / shard_name(shard), "pt")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def _as_json(identity: Identity) -> str:
    return json.dumps({"format": FORMAT, "dtype": "float32", "shard": SHARD, **attrs.asdict(identity)}, indent=1) + "\n"


def _read_identity(path: Path) -> Identity:
    try:
        content = json.loads(path.read_text())
        if (content["format"], content["shard"]) != (FORMAT, SHARD):
            raise ValueError("it is of another version of vco")
        return Identity(**{name: content[name] for name in attrs.fields_dict(Identity)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no manifest of stored latents ({one_line(error)}); write the store anew") from error


def _short(value: str | int | Sequence[int]) -> str:
    if isinstance(value, str | int):
        return str(value)[:12]
    return "x".join(map(str, value))


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Batches of moments as one tensor on the CPU."""
    return torch.cat([part.float().cpu() for part in parts])
