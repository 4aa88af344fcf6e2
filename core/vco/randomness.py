"""Counted randomness: every draw is a function of a key such as (seed, "times", step), never of what was drawn before.

So nothing random has to be stored for a resume, and neither the number of readers nor that of processes changes a draw
(docs/concepts.md, "Randomness is counted").
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch

from vco.api import Streams, StreamSpec


def seed_of(*key: int | str) -> int:
    """A 62-bit seed from a key; different keys give unrelated seeds."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by a key."""
    return torch.Generator(device).manual_seed(seed_of(*key))


def noise(
    specs: Mapping[str, StreamSpec], slots: Sequence[int], *key: int | str, device: torch.device | str = "cpu"
) -> Streams:
    """Standard normal noise for every stream; row i depends only on the key and `slots[i]`.

    Consecutive slots get consecutive seeds rather than hashed ones: torch's CPU generator keeps 32 bits of a seed, and
    hashing 50,000 images into 32 bits would give two of them the same noise in one run out of four.
    """
    first = seed_of(*key)
    source = torch.Generator(device)
    streams = {name: torch.empty(len(slots), *spec.shape, device=device) for name, spec in specs.items()}
    for row, slot in enumerate(slots):
        source.manual_seed(first + slot)
        for rows in streams.values():  # one after the other: a stream that is added changes none before it
            torch.randn(rows.shape[1:], generator=source, out=rows[row])
    return streams
