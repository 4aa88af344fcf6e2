"""What a score depends on beside the images that are scored: two scores are compared only where all of that is equal.

How the images were made (solver, guidance, seed, precision) is not part of it: that is what scores compare.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import attrs

from vco.errors import UserError

PUBLISHED: Final = 50_000
"""Images that a published FID is computed from."""
INCEPTION: Final = "inception"
"""The encoder whose Frechet distance is the FID."""
UNKNOWN: Final = "unknown"
"""Label law of images of which nobody has said it."""


@attrs.frozen(kw_only=True)
class Protocol:
    """How images were measured."""

    score: str
    """Name of the score, with its encoder: "FD (digits-cnn)"."""
    settings: Mapping[str, Any]
    """Options of the metric."""
    encoder: str
    """Name of the encoder; empty where there is none."""
    encoder_settings: Mapping[str, Any]
    """Its options, but for where its weights lie."""
    weights: str
    """SHA-256 of its weights."""
    image_shape: tuple[int, int, int]
    """(c, h, w) of the images."""
    images: int
    """How many are scored."""
    labels: str
    """Law by which their classes were drawn: "balanced", "data", or "unknown"."""
    reference: str
    """SHA-256 of the real images, or of the file with their moments."""
    reference_images: int | None
    """How many they are; None where nobody has noted it."""

    def plain(self) -> dict[str, Any]:
        """As plain data, as in evals.jsonl."""
        return {**attrs.asdict(self), "image_shape": list(self.image_shape)}

    @property
    def hash(self) -> str:
        """A name for all of this: 16 hexadecimal digits."""
        return digest(self.plain())

    @property
    def title(self) -> str:
        """What the score may be called: FID only through Inception, and with the number of images."""
        if not self.score.startswith("FD ("):
            return self.score
        count = f"{self.images // 1000}k" if self.images % 1000 == 0 else str(self.images)
        return f"FID-{count}" if self.encoder == INCEPTION else f"FD-{count} ({self.encoder})"

    def warnings(self) -> list[str]:
        """What a reader of the score has to know."""
        if self.encoder == INCEPTION and self.images < PUBLISHED:
            return [
                f"{self.title if self.score.startswith('FD (') else self.score} of {self.images:,} images is not "
                f"comparable with published scores, which have {PUBLISHED:,}"
            ]
        return []


def digest(plain: Mapping[str, Any]) -> str:
    """A hash of plain data, 16 hexadecimal digits; the order of its keys does not matter."""
    return full_digest(plain)[:16]


def full_digest(plain: Mapping[str, Any]) -> str:
    """The same with all its 64 digits."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two scores were measured alike.

    Args:
        a: a score as plain data, as eval.json and the lines of evals.jsonl hold them in "scores"; a whole line stands
            for its first score.
        b: the other one.
    """
    return not differences(a, b)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What keeps two scores from being compared, a phrase each: "images: 1000 and 50000". Arguments as `comparable`."""
    one, other = a.get("protocol"), b.get("protocol")
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return ["one of them does not say how it was measured"]
    found = _differences(one, other)
    if UNKNOWN in (one.get("labels"), other.get("labels")) and one.get("labels") != other.get("labels"):
        found.append("say by which law the classes were drawn with --labels, if you know it")
    return found


def require_comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raises `UserError` with all that keeps two scores from being compared. Arguments as `comparable`."""
    if found := differences(a, b):
        names = " and ".join(dict.fromkeys(str(one.get("metric", "a score")) for one in (a, b)))
        raise UserError(f"{names} cannot be compared, because they were not measured alike: {'; '.join(found)}")


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], path: str = "") -> list[str]:
    """The values in which two mappings differ; those of mappings in them are named one by one."""
    found: list[str] = []
    for key in {**one, **other}:
        here, there = one.get(key), other.get(key)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            found += _differences(here, there, f"{path}{key}.")
        elif key not in one or key not in other or here != there:
            found.append(f"{path}{key}: {_short(here)} and {_short(there)}")
    return found


def _short(value: Any) -> str:
    """A value in a sentence; of a hash its beginning."""
    text = "nothing" if value in (None, "", {}) else str(value)
    return text[:12] if len(text) == 64 else text
