"""Files with the moments of real images, as published references have them, and a cache of moments once computed.

Ours say which network saw which images: safetensors, or npz with the arrays mu and sigma that other tools read too.
Published npz files hold mu and sigma alone, or with 10,000 images beside them (ADM); their network is Inception.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vco import __version__
from vco.api import Moments
from vco.errors import UserError, one_line
from vco.evaluation.protocol import INCEPTION, digest
from vco.evaluation.stored import array_headers, file_digest, read_arrays
from vco.storage.files import write_atomic

FORMAT: Final = "vco-moments-1"
PUBLISHED: Final = {"3c94ea96": "JiT's statistics of ImageNet-256", "349293d8": "JiT's statistics of ImageNet-512"}
"""Beginning of the hash that git gives to a published file -> what it is."""


@attrs.frozen(kw_only=True, eq=False)
class MomentsFile:
    """A file with moments, and what it says of them."""

    path: Path
    moments: Moments
    hash: str
    """SHA-256 of the file."""
    about: Mapping[str, Any]
    """What ours say: name, images (SHA-256), image_shape, labels, encoder; empty for published files."""

    @property
    def name(self) -> str:
        """What it holds, as part of a sentence."""
        return self.about.get("name") or PUBLISHED.get(_git_hash(self.path)[:8]) or f"moments in {self.path.name}"

    def require(self, encoder: Mapping[str, Any], image_shape: tuple[int, int, int]) -> None:
        """Raises `UserError` unless the moments are of what an encoder sees in images of this shape.

        Args:
            encoder: name, settings and weights of the encoder that looks at the images to be scored.
            image_shape: (c, h, w) of these.
        """
        made, (channels, height, width) = self.about.get("encoder"), image_shape
        if made is None:  # a published file
            if encoder["name"] != INCEPTION or len(self.moments.mean) != 2048:
                raise UserError(
                    f"{self.path} holds {len(self.moments.mean)} means and does not say of which network's features: "
                    f"that is read as Inception's, of 2048, and not as those of {encoder['name']}; make a reference "
                    "of your own with `vco eval reference`"
                )
            return
        if dict(made) != dict(encoder):
            hint = f"{made['name']} (weights {made['weights'][:12]})"
            raise UserError(
                f"{self.path} was made with another extractor, {hint}, than {encoder['name']} (weights "
                f"{encoder['weights'][:12]}, {encoder['settings']}); score with that one, or make the reference anew"
            )
        if tuple(self.about["image_shape"]) != image_shape:
            shape = "x".join(map(str, self.about["image_shape"]))
            raise UserError(
                f"{self.path} was made of images of {shape}, and these are {channels}x{height}x{width}; make a "
                "reference of images of the same size"
            )


def is_moments_file(path: Path) -> bool:
    """Whether a file has moments in it; it is only looked at."""
    return path.is_file() and (
        path.suffix == ".safetensors" or (path.suffix == ".npz" and {"mu", "sigma"} <= array_headers(path).keys())
    )


def read_moments(path: Path) -> MomentsFile:
    """Reads a file with moments.

    Raises:
        UserError: if it cannot be read, or holds something else.
    """
    about: dict[str, Any] = {}
    if path.suffix == ".safetensors":
        mean, covariance, about = _read_safetensors(path)
    else:
        headers = array_headers(path)
        arrays = read_arrays(path, [name for name in ("mu", "sigma", "vco") if name in headers])
        mean, covariance = (torch.from_numpy(np.asarray(arrays[name], np.float64)) for name in ("mu", "sigma"))
        with suppress(ValueError):
            about = json.loads(str(arrays["vco"])) if "vco" in arrays else {}
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"{list(mean.shape)} and {list(covariance.shape)}"
        raise UserError(f"{path} holds no mean of d numbers with a covariance of d x d, but arrays of {shapes}")
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise UserError(f"the moments in {path} are not finite; get the file anew")
    moments = Moments(mean=mean, covariance=covariance, count=about.get("count"))
    return MomentsFile(path=path, moments=moments, hash=file_digest(path), about=about)


def write_moments(path: Path, moments: Moments, about: Mapping[str, Any]) -> None:
    """Writes a file with moments: safetensors or npz, by its ending.

    Raises:
        UserError: if the ending is another one.
    """
    said = json.dumps({"format": FORMAT, "vco": __version__, "torch": str(torch.__version__), **about})
    if path.suffix == ".safetensors":
        tensors = {"mean": moments.mean.contiguous(), "covariance": moments.covariance.contiguous()}
        content = save(tensors, {"vco": said})
    elif path.suffix == ".npz":
        buffer = BytesIO()
        np.savez(buffer, mu=moments.mean.numpy(), sigma=moments.covariance.numpy(), vco=np.array(said))
        content = buffer.getvalue()
    else:
        raise UserError(f"{path}: a reference is written as .safetensors or as .npz; end its name so")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def _read_safetensors(path: Path) -> tuple[Tensor, Tensor, dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})["vco"])
            return file.get_tensor("mean").double(), file.get_tensor("covariance").double(), about
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} holds no moments that `vco eval reference` has written ({one_line(error)})") from error


def _git_hash(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Cache:
    """Moments that were computed before, as files below one folder; the key is made of what they depend on."""

    def __init__(self, folder: Path | None = None) -> None:
        """Chooses the folder: by default $VCO_CACHE, or vco in the user's folder for caches."""
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vco"
        self.folder = folder or Path(os.environ.get("VCO_CACHE") or default) / "moments"

    def get(self, key: Mapping[str, Any]) -> Moments | None:
        """Moments with this key; None if there are none, or the file is damaged."""
        with suppress(UserError):
            found = read_moments(self._path(key))
            if found.about.get("key") == json.loads(json.dumps(key)):
                return found.moments
        return None

    def put(self, key: Mapping[str, Any], moments: Moments) -> None:
        """Keeps moments; where the folder cannot be written, they are computed again next time."""
        with suppress(OSError):
            write_moments(self._path(key), moments, {"key": dict(key), "count": moments.count})

    def _path(self, key: Mapping[str, Any]) -> Path:
        return self.folder / f"{digest(key)}.safetensors"
