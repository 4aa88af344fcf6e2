"""A look at images as they are scored: copies, single colors, levels that cannot be."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import attrs
from jaxtyping import UInt8
from torch import Tensor


@attrs.define
class Checks:
    """What was seen of images so far; every process sees its share, and what they have seen is merged."""

    flat: int = 0
    """Images of a single color."""
    low: int = 255
    high: int = 0
    """Smallest and largest level of any pixel."""
    keys: Counter[str] = attrs.field(factory=Counter[str])
    """Hash of an image -> how often it was seen."""

    def look(self, images: UInt8[Tensor, "b c h w"]) -> None:
        """Takes some more images into account."""
        pixels = images.cpu().contiguous()
        low, high = pixels.flatten(1).amin(1), pixels.flatten(1).amax(1)
        self.flat += int((low == high).sum())
        self.low, self.high = min(self.low, int(low.min())), max(self.high, int(high.max()))
        self.keys.update(hashlib.blake2b(image.numpy().tobytes(), digest_size=16).hexdigest() for image in pixels)

    def merge(self, others: Sequence["Checks"]) -> None:
        """Replaces what was seen by what several have seen."""
        self.flat = sum(other.flat for other in others)
        self.low, self.high = min(other.low for other in others), max(other.high for other in others)
        self.keys = sum((other.keys for other in others), Counter[str]())

    @property
    def count(self) -> int:
        """How many images were seen."""
        return self.keys.total()

    @property
    def hash(self) -> str:
        """SHA-256 of the images, whatever their order."""
        return hashlib.sha256("\n".join(sorted(self.keys.elements())).encode()).hexdigest()

    def notes(self, what: str) -> list[str]:
        """A sentence for everything that should not be; `what` names the images, as in "samples"."""
        copies, count = self.count - len(self.keys), self.count
        notes: list[str] = []
        if copies:
            notes.append(f"{copies:,} of {count:,} {what} are copies of others, pixel by pixel")
        if self.flat:
            notes.append(f"{self.flat:,} of {count:,} {what} have a single color")
        if self.high <= 1 and self.flat < count:
            notes.append(
                f"no pixel of the {what} is above {self.high} of 255: they look like images in [0, 1] saved as bytes"
            )
        return notes
