"""Fits adapters to training images, and keeps each fit, so that other seeds of the same run find it again.

A fit depends on encoders, data and settings, and not on the seed.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from vco import __version__
from vco.api import Features, ImageSet
from vco.config.plain import locations, to_plain
from vco.config.settings import Part
from vco.content import of_images, of_weights
from vco.data.reader import chunks, read, to_float
from vco.randomness import generator
from vco.run import Run
from vco.storage.files import write_atomic


def cache_folder() -> Path:
    """Where fits are kept: $VCO_CACHE, else vco in $XDG_CACHE_HOME or in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("VCO_CACHE") or Path(base) / "vco") / "fits"


@torch.no_grad()
def fit_adapter(run: Run, images: ImageSet, device: torch.device, main: bool) -> None:
    """Fits the run's adapter to training images, or loads an earlier fit to the same images.

    Every process does the same, so nobody waits and nothing is sent. What a fit has changed is kept, and no more: the
    rest of the adapter's weights belong to the seed.

    Args:
        run: its adapter is fitted, if it needs that.
        images: the training set.
        device: where the encoder is.
        main: whether this process reports and keeps the result.
    """
    adapter, sources, codec = run.objective.adapter, run.objective.sources, run.objective.codec
    if not adapter.needs_fit or not sources:
        return
    train = run.config.train
    chosen: list[int] = torch.randperm(len(images), generator=generator("fit"))[: train.fit_samples].tolist()
    name = run.config.part("adapter").name
    path = cache_folder() / f"{name}-{_identity(run, images, chosen)}.safetensors"
    before = {key: tensor.clone() for key, tensor in adapter.state_dict().items()}
    try:
        adapter.load_state_dict({**before, **load_file(path)})
        if main:
            tqdm.write(f"the adapter {name} was fitted before: {path}")
        return
    except (OSError, SafetensorError):  # not there, or cut short by a full disk
        pass
    batches = chunks(chosen, train.batch_size)

    def encoded() -> Iterator[tuple[Tensor, Mapping[str, Features]]]:
        reader = read(images, batches, train)
        for batch in tqdm(reader, "fitting the adapter", len(batches), disable=not main, leave=False):
            pixels = to_float(batch.images.to(device))
            yield codec.encode(pixels, None), {key: source(pixels) for key, source in sources.items()}

    adapter.fit(encoded())
    fitted = {key: x.cpu() for key, x in adapter.state_dict().items() if not torch.equal(x, before[key])}
    if main:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, save(fitted))
        except OSError as error:
            tqdm.write(f"the fit is not kept for other runs: {error}")


def _identity(run: Run, images: ImageSet, chosen: Sequence[int]) -> str:
    """A hash of all that a fit depends on: encoders, codec, their weights, data, adapter, and their code's version."""
    config, frozen = run.config, [*run.objective.sources.values(), run.objective.codec]
    parts = [part for part in config.parts if part.section in ("features", "data", "adapter", "codec")]
    plain = {part.path: [part.name, _settings(part)] for part in parts}
    code = [__version__, inspect.getsource(type(run.objective.adapter))]
    digest = hashlib.sha256(json.dumps([plain, code, len(images), chosen]).encode())
    for content in [*(of_weights(part) for part in frozen), of_images(images)]:
        digest.update(content.encode())
    return digest.hexdigest()[:32]


def _settings(part: Part) -> dict[str, Any]:
    """The settings of a component, but for the places of files: what they hold is hashed."""
    places = locations(type(part.config))
    return {name: value for name, value in to_plain(part.config).items() if name not in places}
