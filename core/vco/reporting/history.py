"""What a run has done so far, and what it took: read from the files of its folder, whatever state they are in."""

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

import attrs
import numpy as np

from vco.config.plain import read_plain
from vco.errors import UserError
from vco.folder import RunFolder

AXES: Final = {"step": "step", "images": "images seen", "flops": "training FLOPs", "hours": "hours of training"}
"""What two runs may be compared at equal amounts of, and how it is called."""


@attrs.frozen(slots=False)
class History:
    """The log of a run, and the amounts that each of its steps stands for."""

    folder: RunFolder

    @cached_property
    def records(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl."""
        return self.folder.records()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What config.yaml holds; empty if it cannot be read."""
        with suppress(UserError):
            return read_plain(self.folder.config)
        return {}

    @cached_property
    def cost(self) -> Mapping[str, Any]:
        """What cost.json holds; empty where it is missing."""
        with suppress(OSError, ValueError):
            found = json.loads(self.folder.cost.read_text())
            return found if isinstance(found, dict) else {}
        return {}

    @cached_property
    def sessions(self) -> list[dict[str, Any]]:
        """How it was started, each time."""
        return self.folder.earlier_sessions()

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return int(self.records[-1]["step"]) if self.records else 0

    @property
    def steps(self) -> int | None:
        """How many it is to have."""
        return self._train("steps")

    @property
    def batch_size(self) -> int | None:
        """Images per step."""
        return self._train("batch_size")

    @property
    def flops_per_image(self) -> float | None:
        """Arithmetic of training with one image; None where it was not counted."""
        found = self.cost.get("training_flops_per_image")
        return float(found) if isinstance(found, int | float) else None

    def seconds(self, step: int | float, *parts: str) -> float | None:
        """Time from the first step to this one; None where no time was logged.

        Args:
            step: a step.
            parts: which of the times "data", "step" and "rest"; by default the first two, which training takes.
        """
        names = [f"seconds.{part}" for part in parts or ("data", "step")]
        timed = [record for record in self.records if all(name in record for name in names)]
        if not timed:
            return None
        ends = np.array([record["step"] for record in timed])
        each = np.array([sum(record[name] for name in names) for record in timed])
        passed = np.cumsum(each * np.diff(ends, prepend=0.0))
        return float(np.interp(step, [0.0, *ends], [0.0, *passed]))

    def amount(self, axis: str, step: int | float) -> float | None:
        """How far the run was at a step, on one of `AXES`; None where that is not known."""
        images = None if self.batch_size is None else float(step * self.batch_size)
        if axis == "step":
            return float(step)
        if axis == "images":
            return images
        if axis == "flops":
            return None if images is None or self.flops_per_image is None else images * self.flops_per_image
        seconds = self.seconds(step)
        return None if seconds is None else seconds / 3600

    def _train(self, name: str) -> int | None:
        train = self.settings.get("train")
        value = train.get(name) if isinstance(train, Mapping) else None
        return value if isinstance(value, int) else None
