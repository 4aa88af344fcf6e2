"""Images shown to metrics: every process takes its share, and what was gathered is merged."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from vco import content
from vco.api import Features, Metric, Moments, Score
from vco.config.plain import locations, to_plain
from vco.config.settings import Part
from vco.data.reader import to_float
from vco.distributed import errors_shared
from vco.errors import UserError
from vco.evaluation.checks import Checks
from vco.evaluation.protocol import Protocol
from vco.run import MetricChoice

SAMPLES: Final = "--eval.samples"
"""The option of a run that sets how many images are generated to be scored; metrics name it in their messages."""
State = Mapping[str, Tensor]
"""What a metric has gathered (`Metric.state`)."""


@attrs.frozen(kw_only=True, eq=False)
class Prepared:
    """Real images that all metrics have seen."""

    name: str
    """As part of a sentence: "held-out split of digits"."""
    hash: str
    """SHA-256 that tells them from others."""
    count: int | None
    """How many they are; None where nobody has noted it."""
    seen: Sequence[State | Moments | None]
    """What each metric keeps of them; None for one that needs no real images."""

    @classmethod
    def nothing(cls, metrics: int) -> "Prepared":
        """No real images, for so many metrics that need none."""
        return cls(name="", hash="", count=None, seen=[None] * metrics)


class Measure:
    """The metrics of a run, with their encoders, which are loaded and on their device."""

    def __init__(
        self,
        choices: Sequence[MetricChoice],
        accelerator: Accelerator,
        image_shape: tuple[int, int, int],
        option: str = SAMPLES,
    ) -> None:
        """Remembers what to measure with.

        Args:
            choices: the metrics.
            accelerator: the processes.
            image_shape: (c, h, w) of the images.
            option: what sets the number of generated images, for messages.
        """
        self.choices = choices
        self.accelerator = accelerator
        self.image_shape = image_shape
        self.option = option
        self._encoders: dict[int, str] = {}

    def share(self, count: int) -> range:
        """The places of the images that this process takes, of so many."""
        return range(self.accelerator.process_index, count, self.accelerator.num_processes)

    @torch.no_grad()
    def gather(
        self,
        batches: Iterable[UInt8[Tensor, "b c h w"]],
        count: int,
        title: str,
        *,
        generated: bool,
        checks: Checks | None = None,
        of: Collection[int] | None = None,
    ) -> dict[int, State]:
        """What metrics keep of images.

        Args:
            batches: this process's share of the images.
            count: how many these are.
            title: what the progress bar says.
            generated: whether they are what is scored, or what it is held against.
            checks: looks at them too.
            of: the numbers of the metrics that are shown them; by default all.

        Returns:
            Number of a metric -> what it keeps of the images of all processes.

        Raises:
            UserError: in all processes, if one of them cannot read an image.
        """
        metrics = {number: self.choices[number].make() for number in (range(len(self.choices)) if of is None else of)}
        shown = None if self.accelerator.is_main_process else True  # None: where somebody watches
        bar = tqdm(total=count, desc=title, unit="image", disable=shown, leave=False)
        with errors_shared(), bar:
            for batch in batches:
                if checks is not None:
                    checks.look(batch)
                self._show(batch.to(self.accelerator.device), metrics, generated)
                bar.update(len(batch))
        if checks is not None:
            checks.merge(gather_object([checks]))
        return {number: self._merged(number, metric) for number, metric in metrics.items()}

    def _show(self, images: UInt8[Tensor, "b c h w"], metrics: Mapping[int, Metric], generated: bool) -> None:
        seen: dict[int, Features] = {}  # metrics with the same encoder share its features
        for number, metric in metrics.items():
            source = self.choices[number].source
            if source is not None and id(source) not in seen:
                with torch.autocast(images.device.type, enabled=False):
                    seen[id(source)] = source.perceive(to_float(images))
            metric.update(images, None if source is None else seen[id(source)], generated)

    def _merged(self, number: int, metric: Metric) -> State:
        mine = {name: tensor.cpu() for name, tensor in metric.state().items()}
        whole = self.choices[number].make()
        whole.merge(gather_object([mine]))
        return whole.state()

    def scores(self, generated: Mapping[int, State], reference: Prepared) -> list[list[Score]]:
        """The scores of each metric.

        Raises:
            UserError: if there are too few images for one of them.
        """
        return [list(self._scores(number, generated[number], seen)) for number, seen in enumerate(reference.seen)]

    def _scores(self, number: int, generated: State, real: State | Moments | None) -> Sequence[Score]:
        metric = self.choices[number].make()
        try:
            if isinstance(real, Moments):
                metric.merge([generated])
                metric.hold_against(real)
            else:
                metric.merge([generated] if real is None else [generated, real])
            return metric.scores()
        except UserError as error:
            raise UserError(str(error).replace(SAMPLES, self.option)) from error

    def moments(self, number: int, real: State) -> Moments | None:
        """The moments of real images, where they are all that a metric keeps of them."""
        metric = self.choices[number].make()
        metric.merge([real])
        return metric.moments()

    def takes_moments(self, number: int) -> bool:
        """Whether a metric can be held against moments alone."""
        return self.choices[number].part.component.hold_against is not Metric.hold_against

    # -------------------------------------------------------------------------------------------------- what it says

    def encoder(self, number: int) -> dict[str, Any]:
        """The encoder of a metric as plain data: name, options, and hash of its weights; empty where it has none."""
        choice = self.choices[number]
        if choice.source is None or choice.encoder is None:
            return {}
        if id(choice.source) not in self._encoders:
            self._encoders[id(choice.source)] = content.of_weights(choice.source)
        return {
            "name": choice.encoder.name,
            "settings": settings_of(choice.encoder),
            "weights": self._encoders[id(choice.source)],
        }

    def protocol(self, number: int, score: Score, reference: Prepared, images: int, labels: str) -> Protocol:
        """How a score was measured."""
        choice, encoder = self.choices[number], self.encoder(number)
        seen = reference.seen[number]
        count = seen.count if isinstance(seen, Moments) else reference.count
        return Protocol(
            score=score.name,
            settings=settings_of(choice.part),
            encoder=encoder.get("name", ""),
            encoder_settings=encoder.get("settings", {}),
            weights=encoder.get("weights", ""),
            image_shape=self.image_shape,
            images=images,
            labels=labels,
            reference="" if seen is None else reference.hash,
            reference_images=None if seen is None else count,
        )


def settings_of(part: Part) -> dict[str, Any]:
    """The options of a metric or an encoder, but for places of files and the choice of the encoder itself."""
    places = locations(type(part.config))
    plain: dict[str, Any] = to_plain(part.config)
    return {name: value for name, value in plain.items() if name not in {*places, "encoder"}}
