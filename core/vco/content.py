"""What a run was trained on, as hashes of content: a data set or weights may lie elsewhere tomorrow, but not differ."""

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from vco.api import Data, ImageSet
from vco.errors import UserError
from vco.pieces import whole

SHOWN = 12
"""Digits of a hash that messages show."""


def of_images(images: ImageSet) -> str:
    """SHA-256 of the labels of a set and of what it says identifies its images."""
    digest = hashlib.sha256(images.labels.numpy().tobytes())
    for piece in images.identity():
        digest.update(hashlib.sha256(piece).digest())
    return digest.hexdigest()


def of_data(data: Data) -> str:
    """SHA-256 of a data set: both its sets and the shape of its images."""
    return _joined([str(data.image_shape), of_images(data.train()), of_images(data.test())])


def of_weights(network: nn.Module) -> str:
    """SHA-256 of all parameters and saved buffers of a network, whatever they are called and in whatever order.

    Where processes share weights out, every one of them calls this.
    """
    digests: list[str] = []
    for tensor in network.state_dict().values():
        content = whole(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        digests.append(f"{tuple(tensor.shape)} {hashlib.sha256(content).hexdigest()}")
    return _joined(sorted(digests))


def require_equal(before: Mapping[str, str], now: Mapping[str, str], folder: str) -> None:
    """Raises `UserError` if a run would go on with other data or other frozen weights than it was trained on.

    Args:
        before: `RunFacts.contents` of the run folder; what it does not name is not compared.
        now: the same of what is at hand.
        folder: the run folder, for the message.
    """
    lines = [
        f"{place}: its content is not what the run in {folder} was trained on (SHA-256 {before[place][:SHOWN]} then, "
        f"{digest[:SHOWN]} now); put that back, or begin a new run from these weights with --from {folder}"
        for place, digest in now.items()
        if before.get(place, digest) != digest
    ]
    if lines:
        raise UserError("\n".join(lines))


def _joined(pieces: list[str]) -> str:
    return hashlib.sha256("\n".join(pieces).encode()).hexdigest()
