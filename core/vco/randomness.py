"""Counted randomness: every draw is a function of a key such as (seed, "times", step), never of what was drawn before.

So nothing random has to be stored for a resume, and neither the number of readers nor that of processes changes a draw
(docs/concepts.md, "Randomness is counted").
"""

import hashlib
from collections.abc import Mapping, Sequence
from math import prod

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
    sizes = {name: prod(spec.shape) for name, spec in specs.items()}
    rows = torch.empty(len(slots), sum(sizes.values()), device=device)
    for row, slot in zip(rows, slots, strict=True):
        torch.randn(row.shape, generator=source.manual_seed(first + slot), out=row)
    parts = rows.split(list(sizes.values()), dim=1)
    return {name: part.unflatten(1, specs[name].shape) for name, part in zip(sizes, parts, strict=True)}
