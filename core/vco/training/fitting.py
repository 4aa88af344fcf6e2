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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from vco import __version__
from vco.api import Features, ImageSet, Views
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
    if path.exists():
        try:
            adapter.load_state_dict({**before, **_read(path, before)})
            if main:
                tqdm.write(f"the adapter {name} was fitted before: {path}")
            return
        except (OSError, SafetensorError, ValueError) as error:
            if main:
                tqdm.write(f"the fit that was kept in {path} is damaged ({error}); fitting anew")
    batches = chunks(chosen, train.batch_size)

    def encoded() -> Iterator[tuple[Tensor, Mapping[str, Features]]]:
        reader = read(images, batches, train)
        for batch in tqdm(reader, "fitting the adapter", len(batches), disable=None if main else True, leave=False):
            pixels = to_float(batch.images.to(device))
            yield codec.encode(pixels, None), Views(sources, pixels, train.encoder_precision)

    adapter.fit(encoded())
    fitted = {key: x.cpu() for key, x in adapter.state_dict().items() if not torch.equal(x, before[key])}
    if main:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, save(fitted, {"sha256": _hash(fitted)}))
        except OSError as error:
            tqdm.write(f"the fit is not kept for other runs: {error}")


def _read(path: Path, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a fit that was kept.

    Args:
        path: where it is.
        before: the adapter's tensors, some of which the fit has changed.

    Raises:
        OSError, SafetensorError: if it cannot be read.
        ValueError: if it is not what was written, or the fit of another adapter.
    """
    with safe_open(path, framework="pt") as file:
        written: Mapping[str, str] = file.metadata() or {}
        fitted: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    if written.get("sha256") != _hash(fitted):
        raise ValueError("it differs from what was written")
    for key, value in fitted.items():
        if key not in before or value.shape != before[key].shape or value.dtype != before[key].dtype:
            raise ValueError(f"its tensor {key} does not fit the adapter")
    return fitted


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _identity(run: Run, images: ImageSet, chosen: Sequence[int]) -> str:
    """A hash of all that a fit depends on: encoders, codec, their weights, data, adapter, and their code's version."""
    config, frozen = run.config, [*run.objective.sources.values(), run.objective.codec]
    parts = [part for part in config.parts if part.section in ("features", "data", "adapter", "codec")]
    plain = {part.path: [part.name, _settings(part)] for part in parts}
    bf16 = config.train.encoder_precision == "bf16"
    code = [__version__, bf16, inspect.getsource(type(run.objective.adapter))]
    digest = hashlib.sha256(json.dumps([plain, code, len(images), chosen]).encode())
    for content in [*(of_weights(part) for part in frozen), of_images(images)]:
        digest.update(content.encode())
    return digest.hexdigest()[:32]


def _settings(part: Part) -> dict[str, Any]:
    """The settings of a component, but for the places of files: what they hold is hashed."""
    places = locations(type(part.config))
    return {name: value for name, value in to_plain(part.config).items() if name not in places}
