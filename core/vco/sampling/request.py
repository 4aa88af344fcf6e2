"""Which images are asked for: the number, the law of labels, the seed, and the model with all that acts in sampling."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import torch
from jaxtyping import Int
from torch import Tensor

from vco import __version__
from vco.errors import UserError, one_line
from vco.facts import RunFacts
from vco.sampling.labels import AS_DATA, BALANCED, labels_of

MAY_DIFFER: Final = ("run", "device", "vco", "torch", "num", "complete")
"""What may have changed when a command goes on with images that an earlier one has begun."""


@attrs.frozen(kw_only=True)
class Request:
    """Some images of a run. Image i is a function of i and of all this but `num`."""

    num: int
    """How many images."""
    seed: int
    """Seed of the noise, and of the labels where they are those of the data."""
    labels: str
    """A law of `vco.sampling.labels`."""
    facts: RunFacts
    """Classes of the run."""
    model: Mapping[str, Any]
    """What the images depend on beside: run, step, average, hash of the weights, solver, guidance; plain data."""

    def labels_of(self, indices: Sequence[int]) -> Int[Tensor, " n"]:
        """The class of each image.

        Raises:
            UserError: if the law cannot be used in this run.
        """
        facts = self.facts
        counts = facts.class_counts.get("train", ())
        return labels_of(self.labels, indices, num_classes=facts.num_classes, counts=counts, seed=self.seed)

    def name_of(self, label: int) -> str:
        """The name of a class; its number where nobody has noted names."""
        return self.facts.class_names[label] if self.facts.class_names else str(label)

    @property
    def columns(self) -> int:
        """Columns of a grid of the images: a column is a class, where labels repeat soon enough."""
        periods = {BALANCED: self.facts.num_classes, AS_DATA: 0}
        period = periods.get(self.labels, self.labels.count(",") + 1)
        return period if 2 <= period <= 10 else 10

    def text(self, complete: bool) -> str:
        """All of it as JSON.

        Args:
            complete: whether the images are all there.
        """
        asked = {"num": self.num, "complete": complete, "seed": self.seed, "labels": self.labels}
        made = {"vco": __version__, "torch": str(torch.__version__)}
        return json.dumps({**asked, **self.model, **made}, indent=1) + "\n"

    def require_same(self, text: str, where: Path) -> int:
        """Compares with what an earlier command has begun.

        Args:
            text: what `text` gave then.
            where: where it was found, for the message.

        Returns:
            How many images were asked for then.

        Raises:
            UserError: if other images were asked for; the differences are named.
        """
        try:
            before = json.loads(text)
            num = int(before["num"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{where} does not say which images it holds ({one_line(error)}); choose another --out"
            ) from (error)
        old, new = dict(_flat(before)), dict(_flat(json.loads(self.text(complete=False))))
        changed = [
            f"{key}: {old.get(key, 'nothing')} there, {new.get(key, 'nothing')} here"
            for key in {**new, **old}
            if key not in MAY_DIFFER and old.get(key) != new.get(key)
        ]
        if changed:
            shown = [line for line in changed if not line.startswith("weights")] or ["the run has other weights"]
            raise UserError(f"{where} holds other images than these ({'; '.join(shown)}); choose another --out")
        return num


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """{"solver": {"name": "heun"}} -> ("solver.name", "heun")."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}".lstrip("."))
    else:
        yield path, value
