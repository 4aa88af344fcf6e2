"""An adapter's fit stage: run once for an encoder, a data set and settings, and then found again by every seed."""

import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from vco import __version__
from vco.api import Features, ImageSet
from vco.config import to_plain
from vco.data import chunks, read, to_float
from vco.files import write_atomic
from vco.randomness import generator
from vco.run import Run

PEEKED = 16
"""Images that are read to tell a data set from another one in the same place."""


def cache_folder() -> Path:
    """Where fits are kept: $VCO_CACHE, else vco in $XDG_CACHE_HOME or in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("VCO_CACHE") or Path(base) / "vco") / "fits"


@torch.no_grad()
def fit_adapter(run: Run, images: ImageSet, device: torch.device, main: bool) -> None:
    """Fits the adapter to training images, or takes an earlier fit to the same ones.

    Every process does the same, so nobody waits and nothing is sent. What a fit has changed is kept, and no more: the
    rest of the adapter's weights belong to the seed.

    Args:
        run: its adapter is fitted, if it needs that.
        images: the training set.
        device: where the encoder is.
        main: whether this process reports and keeps the result.
    """
    adapter, source = run.objective.adapter, run.objective.source
    if not adapter.needs_fit or source is None:
        return
    train = run.config.train
    chosen: list[int] = torch.randperm(len(images), generator=generator("fit"))[: train.fit_samples].tolist()
    path = cache_folder() / f"{run.config.adapter.name}-{_identity(run, images, chosen)}.safetensors"
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    try:
        adapter.load_state_dict({**before, **load_file(path)})
        if main:
            tqdm.write(f"the adapter {run.config.adapter.name} was fitted before: {path}")
        return
    except (OSError, SafetensorError):  # not there, or cut short by a full disk
        pass
    batches = chunks(chosen, train.batch_size)

    def encoded() -> Iterator[tuple[Tensor, Features]]:
        reader = read(images, batches, train)
        for batch in tqdm(reader, "fitting the adapter", len(batches), disable=not main, leave=False):
            pixels = to_float(batch.to(device))
            yield pixels, source(pixels)

    adapter.fit(encoded())
    fitted = {name: x.cpu() for name, x in adapter.state_dict().items() if not torch.equal(x, before[name])}
    if main:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, save(fitted))
        except OSError as error:
            tqdm.write(f"the fit is not kept for other runs: {error}")


def _identity(run: Run, images: ImageSet, chosen: Sequence[int]) -> str:
    """A hash of all that a fit depends on: encoder and weights, data, adapter, and their code's version."""
    config, source = run.config, run.objective.source
    assert source is not None
    choices = {part: getattr(config, part) for part in ("features", "data", "adapter")}
    plain = {part: [choice.name, to_plain(choice.config)] for part, choice in choices.items()}
    code = [__version__, inspect.getsource(type(run.objective.adapter))]
    digest = hashlib.sha256(json.dumps([plain, code, len(images), chosen]).encode())
    for tensor in [*source.state_dict().values(), *(images.image(i, None) for i in chosen[:PEEKED])]:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
