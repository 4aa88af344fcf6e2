"""One training step, readable from top to bottom: features, adapter, noise, backbone, losses."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vco import flow
from vco.api import (
    PIXELS,
    Adapter,
    Backbone,
    Condition,
    FeatureSource,
    Guidance,
    Loss,
    Process,
    Step,
    Streams,
    StreamSpec,
    Times,
)
from vco.randomness import generator
from vco.schedule import over


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The random part of a step, drawn for the whole global batch so that it does not depend on the process count."""

    times: Times
    condition: Condition
    weights: Times
    """Factor of each sample's denoising loss per stream, [b]. Its mean over the *global* batch makes a mean over the
    supervised samples, so that equal shares of a batch may simply be averaged over processes."""
    counts: Mapping[str, Tensor]
    """Likewise the factor of each sample in each alignment loss, [b]."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Draw":
        """The same with `function` applied to every tensor (slicing rows, moving to a device)."""
        return replace(
            self,
            times={stream: function(t) for stream, t in self.times.items()},
            condition=self.condition.map(function),
            weights={stream: function(weight) for stream, weight in self.weights.items()},
            counts={loss: function(factor) for loss, factor in self.counts.items()},
        )


def show(guidance: Guidance, noisy: Streams, condition: Condition) -> Streams:
    """What the network is shown: the noisy streams, guidance's null in the rows that the condition names."""
    shown = dict(noisy)
    for stream, rows in condition.nulled.items():
        x_t = noisy[stream]
        shown[stream] = torch.where(rows.view(-1, *[1] * (x_t.ndim - 1)), guidance.null(stream, x_t), x_t)
    return shown


class Objective(nn.Module):
    """All trained parts of a run, and its loss. State dict, EMA and optimizer cover exactly this module.

    The frozen feature source takes part but is not a submodule: it belongs in no checkpoint and no average.

    Source: V-Co (arXiv 2603.16792); docs/concepts.md, "One training step".
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        adapter: Adapter,
        losses: Mapping[str, Loss],
        guidance: Guidance,
        process: Process,
        source: FeatureSource | None,
        specs: Mapping[str, StreamSpec],
        stream_weights: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.adapter = adapter
        self.losses: Mapping[str, Loss] = cast(Any, nn.ModuleDict(losses))
        self.guidance = guidance
        self.process = process
        self.specs = dict(specs)
        self.stream_weights = dict(stream_weights)
        self.taps = tuple(sorted({tap for loss in losses.values() for tap in loss.taps}))
        self.aside: dict[str, Any] = {"source": source}  # in a dict, so that nn.Module does not adopt them

    @property
    def source(self) -> FeatureSource | None:
        """The frozen encoder; None if neither a stream nor a loss needs one."""
        return self.aside["source"]

    @property
    def weak(self) -> "Objective | None":
        """The model that evaluates guidance's branch "weak"; None if there is none."""
        return self.aside.get("weak")

    def draw(self, labels: Int[Tensor, " b"], *, seed: int, step: int) -> Draw:
        """Times and conditions of one global step, on the CPU, from the labels of its whole batch."""
        times = self.process.sample(len(labels), generator(seed, "times", step))
        condition = self.guidance.condition(labels, generator(seed, "condition", step))
        weights = self.process.weight(times)
        for stream, kept in condition.supervised.items():
            weights[stream] = weights[stream] * over(kept)
        counts = {name: loss.config.counts(times[PIXELS]) for name, loss in self.losses.items()}
        return Draw(times=times, condition=condition, weights=weights, counts=counts)

    def forward(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], draw: Draw, noise: Streams, number: int = 0
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses of (a share of) a batch by name.

        Args:
            images: the clean images, in [-1, 1].
            labels: their true classes.
            draw: times and conditions of these rows.
            noise: standard normal, one tensor per stream.
            number: optimizer steps done so far.

        Returns:
            The unweighted losses and, as "loss", their weighted total: the one to differentiate.
        """
        clean: Streams = {PIXELS: images}
        target: Streams = {PIXELS: images}
        losses: dict[str, Tensor] = {}
        total = images.new_zeros(())

        features = None
        if len(self.specs) > 1:
            assert self.source is not None
            with torch.no_grad():
                features = self.source(images)
            adapted = self.adapter(features)
            clean |= adapted.value
            target |= adapted.target
            losses |= {f"adapter.{name}": value for name, value in adapted.losses.items()}
            total = total + sum(adapted.losses.values())

        noisy = {
            stream: flow.corrupt(clean[stream], noise[stream], draw.times[stream], spec.noise_scale)
            for stream, spec in self.specs.items()
        }
        shown = show(self.guidance, noisy, draw.condition)
        denoised = self.backbone(shown, draw.times, draw.condition, self.taps)

        for stream in self.specs:
            # the difference of both velocities, in which x_t cancels
            error = flow.velocity(denoised.clean[stream], target[stream], draw.times[stream])
            losses[stream] = (error.square().flatten(1).mean(1) * draw.weights[stream]).mean()
            total = total + self.stream_weights.get(stream, 1.0) * losses[stream]

        step = Step(
            number=number,
            images=images,
            labels=labels,
            times=draw.times,
            condition=draw.condition,
            noisy=noisy,
            target=target,
            denoised=denoised,
            source=self.source,
        )
        if features is not None:
            step.features = features
        for name, loss in self.losses.items():
            factor = loss.config.factor(number)
            if factor is None:  # not computed, but data-parallel training waits for a gradient of every parameter
                total = total + 0.0 * sum(parameter.sum() for parameter in loss.parameters())
                continue
            means = {term: (value * draw.counts[name]).mean() for term, value in loss(step).items()}
            losses |= {name if term == name else f"{name}.{term}": value for term, value in means.items()}
            total = total + factor * sum(means.values())
        return {**losses, "loss": total}

    def with_weights(self, state: Mapping[str, Tensor]) -> "Objective":
        """A copy with other weights (an EMA's); it shares what is frozen. This module is left alone."""
        twin = copy.deepcopy(self, {id(part): part for part in self.aside.values()})
        twin.load_state_dict(state)
        return twin.eval().requires_grad_(False)

    @property
    def components(self) -> dict[str, Backbone | Adapter | Loss | Guidance | Process]:
        """Its parts, by the prefix of the names of their parameters and in the order of these."""
        losses = {f"losses.{name}": loss for name, loss in self.losses.items()}
        first, last = {"backbone": self.backbone, "adapter": self.adapter}, {"guidance": self.guidance}
        return {**first, **losses, **last, "process": self.process}

    def metrics(self) -> dict[str, Tensor]:
        """What the components measure for the log, as "adapter.metric" or, of a loss, "hybrid.metric"."""
        parts = {name.removeprefix("losses."): part for name, part in self.components.items()}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.metrics().items()}
