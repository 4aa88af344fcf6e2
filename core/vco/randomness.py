"""Counted randomness: every draw is a function of a key such as (seed, "times", step), never of what was drawn before.

So nothing random has to be stored for a resume, and neither the number of readers nor that of processes changes a draw
(docs/concepts.md, "Randomness is counted").
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import attrs
import torch
from torch import Tensor


def seed_of(*key: int | str) -> int:
    """A 62-bit seed from a key; different keys give unrelated seeds."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by a key."""
    return torch.Generator(device).manual_seed(seed_of(*key))


def noise(
    shapes: Mapping[str, Sequence[int]],
    slots: Sequence[int],
    *key: int | str,
    device: torch.device | str = "cpu",
    threads: int = 1,
) -> dict[str, Tensor]:
    """Standard normal noise for every stream; row i depends only on the key and `slots[i]`.

    Consecutive slots get consecutive seeds rather than hashed ones: torch's CPU generator keeps 32 bits of a seed, and
    hashing 50,000 images into 32 bits would give two of them the same noise in one run out of four.

    Args:
        shapes: name of a stream -> shape of one sample.
        slots: number of each row.
        key: what the noise depends on beside that.
        device: where it is drawn; other types of device draw other numbers.
        threads: that share the rows; the numbers are the same.
    """
    first = seed_of(*key)
    streams = {name: torch.empty(len(slots), *shape, device=device) for name, shape in shapes.items()}

    def draw(start: int) -> None:
        source = torch.Generator(device)
        for row in range(start, len(slots), threads):
            source.manual_seed(first + slots[row])
            for rows in streams.values():  # one after the other: a stream that is added changes none before it
                torch.randn(rows.shape[1:], generator=source, out=rows[row])

    if threads == 1:
        draw(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(draw, range(threads)))  # which raises what one of them raises
    return streams


@attrs.define
class RowGenerator:
    """Random numbers for the rows of a batch, where a row's numbers do not depend on who holds it.

    Row i of the k-th draw depends on the key, on `slots[i]` and on k. So a loss draws the same for a sample with one
    process and with many.
    """

    key: tuple[int | str, ...]
    slots: Sequence[int]
    device: torch.device | str = "cpu"
    _draws: int = 0

    def of(self, name: str) -> "RowGenerator":
        """An independent generator for the same rows."""
        return type(self)((*self.key, name), self.slots, self.device)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers [b, *shape], float32."""
        return self._draw(torch.randn, shape)

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), [b, *shape], float32."""
        return self._draw(torch.rand, shape)

    def _draw(self, function: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        first, self._draws = seed_of(*self.key, self._draws), self._draws + 1
        source = torch.Generator(self.device)
        rows = torch.empty(len(self.slots), *shape, device=self.device)
        for row, slot in enumerate(self.slots):
            source.manual_seed(first + slot)
            rows[row] = function(shape, generator=source, device=self.device)
        return rows
