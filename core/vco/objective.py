"""One training step, readable from top to bottom: codec, features, adapter, noise, backbone, losses."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vco import flow
from vco.api import (
    IMAGE,
    MOMENTS,
    Adapter,
    Backbone,
    Codec,
    Condition,
    Denoised,
    EncoderPrecision,
    FeatureSource,
    Guidance,
    Loss,
    Process,
    Step,
    Streams,
    StreamSpec,
    Times,
    Views,
)
from vco.errors import UserError
from vco.hiding import emptied, shown_to_network
from vco.kinds import KINDS
from vco.loss_schedule import mean_over
from vco.randomness import generator
from vco.step_inputs import Draw, Inputs


def complete(denoised: Denoised, noisy: Streams, times: Times) -> Denoised:
    """A backbone's answer with both the clean prediction and the velocity of every stream.

    Raises:
        UserError: if a stream is missing from the answer, or given in both ways.
    """
    if odd := sorted(stream for stream in noisy if (stream in denoised.clean) == (stream in denoised.velocity)):
        raise UserError(
            f"the backbone has to answer with either the clean prediction or the velocity of the stream {odd[0]!r}, "
            "and gave neither or both: its author has to mend that"
        )
    velocity = {s: flow.velocity(clean, noisy[s], times[s]) for s, clean in denoised.clean.items()}
    clean = {s: flow.clean(v, noisy[s], times[s]).to(noisy[s].dtype) for s, v in denoised.velocity.items()}
    return replace(denoised, clean={**denoised.clean, **clean}, velocity={**denoised.velocity, **velocity})


class Objective(nn.Module):
    """All trained parts of a run, and its loss. State dict, EMA and optimizer cover exactly this module.

    Frozen encoders and the codec take part but are not submodules: they belong in no checkpoint and no average.

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
        codec: Codec,
        sources: Mapping[str, FeatureSource],
        specs: Mapping[str, StreamSpec],
        stream_weights: Mapping[str, float],
        encoder_precision: EncoderPrecision = "auto",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.adapter = adapter
        self.losses: Mapping[str, Loss] = cast(Any, nn.ModuleDict(losses))
        self.guidance = guidance
        self.process = process
        self.specs = dict(specs)
        self.stream_weights = dict(stream_weights)
        self.encoder_precision: EncoderPrecision = encoder_precision
        self.taps = tuple(sorted({tap for loss in losses.values() for tap in loss.taps}))
        # what takes part and is not trained; in a dict, so that nn.Module does not adopt it
        self.beside: dict[str, Any] = {"codec": codec, "sources": dict(sources)}

    @property
    def codec(self) -> Codec:
        """The frozen map between images and the image stream."""
        return self.beside["codec"]

    @property
    def sources(self) -> dict[str, FeatureSource]:
        """The frozen encoders by name; none if neither a stream nor a loss needs one."""
        return self.beside["sources"]

    @property
    def weak(self) -> "Objective | None":
        """The model that evaluates guidance's branch "weak"; None if there is none."""
        return self.beside.get("weak")

    def draw(self, labels: Int[Tensor, " b"], *, seed: int, step: int) -> Draw:
        """Times and conditions of one global step, on the CPU, from the labels of its whole batch."""
        times, weights = self.process.draw(len(labels), generator(seed, "times", step))
        if any(t.ndim > 1 for t in times.values()) and not self.backbone.supports_token_times:
            raise UserError(
                "the process gives every token a time of its own, which the backbone does not understand: choose "
                "another --process, or a backbone that says supports_token_times, such as jit"
            )
        condition = self.guidance.condition(labels, generator(seed, "condition", step))
        weights = dict(weights)
        for stream, kept in condition.supervised.items():
            factor = mean_over(kept)
            weights[stream] = weights[stream] * (factor if weights[stream].ndim == 1 else factor[:, None])
        moment = times[IMAGE] if times[IMAGE].ndim == 1 else times[IMAGE].mean(1)
        of_losses = {name: loss.config.sample_weights(moment) for name, loss in self.losses.items()}
        return Draw(times=times, condition=condition, denoising_weights=weights, loss_weights=of_losses)

    def forward(self, inputs: Inputs, draw: Draw, number: int = 0) -> dict[str, Float[Tensor, ""]]:
        """The losses of (a share of) a batch by name.

        Args:
            inputs: the images, and the noise of each.
            draw: times and conditions of these rows.
            number: optimizer steps done so far.

        Returns:
            The unweighted losses and, as "loss", their weighted total: the one to differentiate.
        """
        with torch.no_grad():
            if MOMENTS in inputs.extras:
                image = self.codec.draw(inputs.extras[MOMENTS], inputs.encoding_noise)
            else:
                image = self.codec.encode(inputs.images, inputs.encoding_noise)
        clean: Streams = {IMAGE: image}
        target: Streams = {IMAGE: image}
        losses: dict[str, Tensor] = {}
        total = inputs.images.new_zeros(())

        views = Views(self.sources, inputs.images, self.encoder_precision)
        if len(self.specs) > 1:
            adapted = self.adapter(views)
            clean |= adapted.value
            target |= adapted.target
            losses |= {f"adapter.{name}": value for name, value in adapted.losses.items()}
            total = total + sum(adapted.losses.values())

        told = draw.condition
        if self.guidance.nulls_clean:
            clean |= {stream: emptied(clean[stream], rows) for stream, rows in told.nulled.items()}
            told = replace(told, nulled={})
        noisy = {
            stream: flow.corrupt(clean[stream], inputs.noise[stream], draw.times[stream], spec.noise_scale)
            for stream, spec in self.specs.items()
        }
        draws = {name: inputs.generator.of(name).rand(*shape) for name, shape in self.backbone.draws.items()}
        extras = {name: value for name, value in inputs.extras.items() if name != MOMENTS}
        context = {**told.context, **extras, **draws}
        step = Step(
            number=number,
            images=inputs.images,
            labels=inputs.labels,
            times=draw.times,
            condition=replace(told, context=context) if context else told,
            clean=clean,
            noise=inputs.noise,
            noisy=noisy,
            target=target,
            specs=self.specs,
            views=views,
            codec=self.codec,
            network=self.network,
            quiet=self.quiet,
            generator=inputs.generator,
            extras=extras,
            denoising_weights={
                stream: self.stream_weights.get(stream, 1.0) * weight
                for stream, weight in draw.denoising_weights.items()
            },
            split_groups=self.beside.get("split_groups", False),
            teacher=self.beside.get("teacher"),
        )
        factors = {name: loss.config.factor(number) for name, loss in self.losses.items()}
        active = {name: loss for name, loss in self.losses.items() if factors[name] is not None}
        for name, loss in active.items():
            step = loss.prepare(step.of_loss(name, "prepare", loss.needs_features))
        denoised = self.backbone(
            shown_to_network(self.guidance, step.noisy, step.condition), step.times, step.condition, self.taps
        )
        completed = complete(denoised, step.noisy, step.times)

        errors: Streams = {}
        if not any(loss.replaces_denoising for loss in active.values()):
            for stream, error in self._errors(denoised, step).items():
                errors[stream] = _weighted(error.square(), draw.denoising_weights[stream])
                losses[stream] = errors[stream].mean()
                total = total + self.stream_weights.get(stream, 1.0) * losses[stream]
        if watch := self.beside.get("watch"):  # the log's, which changes nothing
            watch(step.clean, step.times, errors)
        step = step.answered(completed)
        for name, value in self.process.losses(step.times, step.denoised).items():
            losses[f"process.{name}"] = value
            total = total + value
        # what no loss may read, for data-parallel training waits for a gradient of every parameter
        total = total + 0.0 * sum(value.float().sum() for value in denoised.context.values())

        for name, loss in self.losses.items():
            factor = factors[name]
            if factor is None:  # not computed, but data-parallel training waits for a gradient of every parameter
                total = total + 0.0 * sum(parameter.sum() for parameter in loss.parameters())
                continue
            terms = loss(step.of_loss(name, "forward", loss.needs_features))
            means = {
                term: (_checked(name, term, value, step) * draw.loss_weights[name]).mean()
                for term, value in terms.items()
            }
            own = KINDS["losses"].registered(name)
            losses |= {name if term == own else f"{name}.{term}": value for term, value in means.items()}
            total = total + factor * sum(means.values())
        return {**losses, "loss": total}

    def network(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        """Asks the backbone about any noisy streams; the answer has clean predictions and velocities."""
        return complete(
            self.backbone(shown_to_network(self.guidance, noisy, condition), times, condition, taps), noisy, times
        )

    def quiet(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        """Asks the backbone in eval mode and without gradient; what it draws with in training is kept from it."""
        told = {name: value for name, value in condition.context.items() if name not in self.backbone.draws}
        condition = replace(condition, context=told)
        training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.no_grad():
                return self.network(noisy, times, condition, taps)
        finally:
            self.backbone.train(training)

    def _errors(self, denoised: Denoised, step: Step) -> Streams:
        """Predicted less true velocity of every stream, float32."""
        errors: Streams = {}
        for stream, spec in self.specs.items():
            t, target = step.times[stream], step.target[stream]
            if stream in denoised.velocity:
                truth = target.float() - spec.noise_scale * step.noise[stream].float()
                errors[stream] = denoised.velocity[stream].float() - truth
            else:
                # the difference of both velocities, in which x_t cancels
                errors[stream] = flow.velocity(denoised.clean[stream], target, t)
        return errors

    def with_weights(self, state: Mapping[str, Tensor]) -> "Objective":
        """A frozen twin whose weights *are* the given tensors, such as those of a running average.

        Nothing is copied: what is changed in the tensors later changes the twin. This module is left alone.
        """
        twin = self.twin()
        twin.load_state_dict(state, assign=True)
        return twin.eval().requires_grad_(False)

    def twin(self) -> "Objective":
        """A copy of its modules that has their very weights and buffers, until other ones are put into it."""
        shared = {id(part): part for part in (*self.parameters(), *self.buffers(), *self.beside.values())}
        return copy.deepcopy(self, shared)

    def teach(self, state: Mapping[str, Tensor]) -> None:
        """Makes the network with these weights (the first EMA's tensors) the teacher of losses that ask one."""
        self.beside["teacher"] = self.with_weights(state).quiet

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


def _weighted(square: Tensor, weight: Tensor) -> Float[Tensor, " b"]:
    """The weighted mean of a stream's squared errors for each sample."""
    if weight.ndim == 1:
        return square.flatten(1).mean(1) * weight
    return (square * flow.spread(weight, square)).flatten(1).mean(1)


def _checked(loss: str, term: str, value: Any, step: Step) -> Tensor:
    """A term of a loss, if it is a number, or one number per sample."""
    shapes = ((), (len(step.labels),))
    if not isinstance(value, Tensor) or tuple(value.shape) not in shapes:
        found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UserError(
            f"loss {loss} gave the term {term!r} as {found}, and a term is a tensor with one number per sample "
            f"({shapes[1]}) or a single number (()): its author has to mend that"
        )
    return value
