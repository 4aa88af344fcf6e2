"""Laws for losses."""

from typing import Any

import attrs
import torch
from torch import Tensor

from vco.api import FEATURES, PIXELS, Condition, Denoised, Features, FeatureSource, Loss, Step, StreamSpec, Tap
from vco.testing.case import TrainedCase
from vco.testing.law import does_not_apply, law, require
from vco.testing.tensors import cast, distance, leaves, require_same, rows_of
from vco.testing.toy import PATCH, ToyEncoder

TAP_WIDTH = 10
CLASSES = 50


@attrs.frozen(kw_only=True)
class LossCase(TrainedCase):
    """A loss at a step of whole class groups, with an encoder and taps."""

    kind = "losses"

    def construct(self) -> Loss:
        """The loss for taps and features on one grid."""
        facts = {"width": TAP_WIDTH, "tap_grid": self.grid}
        features = self.spec if self.subject.component.needs_features else None
        return self.subject.component(self.config, **facts, features=features)

    @property
    def grid(self) -> tuple[int, int]:
        """Of the taps and of the features."""
        return self.sizes.rows, self.sizes.columns

    @property
    def spec(self) -> StreamSpec:
        """Of the features."""
        return StreamSpec(shape=(self.grid[0] * self.grid[1], self.sizes.width), grid=self.grid)

    @property
    def group(self) -> int:
        """Samples of one class in the batch."""
        batch = self.sizes.batch
        return 2 if batch < 6 else 3 if batch % 3 == 0 else 4

    @property
    def batch(self) -> int:
        """The batch of whole groups that comes nearest to the size asked for, two groups at least."""
        return max(2, -(-self.sizes.batch // self.group)) * self.group

    def shares(self) -> list[Tensor]:
        """Whole class groups where the loss couples samples, else single ones."""
        return list(torch.arange(self.batch).split(self.group if self.subject.component.couples_batch else 1))

    def inputs(self, component: Any, seed: int) -> dict[str, Any]:
        """The tensors of a step."""
        draws, batch, (n, d) = self.generator(seed), self.batch, self.spec.shape
        image = (self.sizes.channels, self.grid[0] * PATCH, self.grid[1] * PATCH)
        images = torch.rand(batch, *image, generator=draws) * 1.8 - 0.9
        features = torch.randn(batch, n, d, generator=draws)
        encoder = ToyEncoder(FeatureSource.Config(), channels=image[0], spec=self.spec)
        classes = torch.randperm(CLASSES, generator=draws)[: batch // self.group]
        clean = {
            PIXELS: images + 0.5 * torch.randn(images.shape, generator=draws),
            FEATURES: features + 0.5 * torch.randn(features.shape, generator=draws),
        }
        stream, real = encoder(images), encoder.perceive(images)
        return {
            "images": images,
            "labels": classes.repeat_interleave(self.group),
            "times": {name: torch.rand(batch, generator=draws) * 0.98 + 0.01 for name in clean},
            "noisy": {name: torch.randn(x.shape, generator=draws) for name, x in clean.items()},
            "target": {PIXELS: images.clone(), FEATURES: features},
            "clean": clean,
            "taps": {tap: torch.randn(batch, n, TAP_WIDTH, generator=draws) for tap in component.taps},
            "features": {"tokens": stream.tokens, "pooled": stream.pooled},
            "real": {"tokens": real.tokens, "pooled": real.pooled},
        }

    def step(self, inputs: Any) -> Step:
        """A step made of these tensors, with an encoder if the loss declares that it needs one."""
        images, source = inputs["images"], None
        if self.subject.component.needs_features:
            source = ToyEncoder(FeatureSource.Config(), channels=self.sizes.channels, spec=self.spec).to(images.device)
        positions = inputs.get("positions", torch.arange(self.spec.shape[0], device=images.device))
        taps = {number: Tap(tokens=tokens, positions=positions) for number, tokens in inputs["taps"].items()}
        step = Step(
            number=0,
            images=images,
            labels=inputs["labels"],
            times=inputs["times"],
            condition=Condition(labels=inputs["labels"]),
            noisy=inputs["noisy"],
            target=inputs["target"],
            denoised=Denoised(clean=inputs["clean"], taps=taps),
            source=source,
        )
        if source is not None:
            step.features = Features(grid=self.grid, **inputs["features"])
            step.real = Features(grid=self.grid, **inputs["real"])
            step.generated = source.perceive(inputs["clean"][PIXELS])
        return step

    def run(self, component: Any, inputs: Any) -> dict[str, Tensor]:
        """The named losses."""
        return dict(component(self.step(inputs)))

    def total(self, component: Any, inputs: Any) -> Tensor:
        """The sum of the terms' means."""
        return torch.stack([term.mean() for term in self.run(component, inputs).values()]).sum()


def reads_taps(loss: type[Loss]) -> bool:
    """Whether a loss says that it reads taps."""
    return loss.taps is not Loss.taps


@law(LossCase)
def gives_named_terms(case: LossCase) -> None:
    """It returns at least one term, each float32 with one value a sample, or a scalar."""
    component = case.build()
    terms = case.run(component, case.inputs(component, 1))
    require(terms, "it returns no term")
    for name, term in terms.items():
        fits = term.shape in ((), (case.batch,)) and term.dtype == torch.float32
        require(fits, f"{name} is {term.dtype} {tuple(term.shape)} for {case.batch} samples")


@law(LossCase)
def gradient_reaches_prediction(case: LossCase) -> None:
    """A finite gradient reaches the prediction, or each tap that it reads: by default in every sample."""
    component = case.build().train()
    inputs = case.inputs(component, 1)
    predicted = leaves({"the prediction of": inputs["clean"], "tap": inputs["taps"]})
    for x in predicted.values():
        x.requires_grad_()
    case.total(component, inputs).backward()
    gradients = {name: x.grad for name, x in predicted.items() if x.grad is not None}
    for name, gradient in gradients.items():
        require(torch.isfinite(gradient).all(), f"{name} has a gradient that is not finite")
    reached = {name: (g.flatten(1).abs().amax(1) > 0) for name, g in gradients.items()}
    for tap in inputs["taps"]:
        require(f"tap.{tap}" in reached, f"no gradient reaches tap {tap}, which it declares")
    require(reached, "no gradient reaches the prediction or a tap")
    rows = torch.stack(list(reached.values())).any(0)
    if case.config != case.subject.config:  # options may leave some samples out
        rows = rows.any()[None]
    require(rows.all(), f"no gradient reaches row {int((~rows).int().argmax())} of {case.batch}")


@law(LossCase)
def no_gradient_into_targets(case: LossCase) -> None:
    """No gradient flows into what the prediction is compared with: clean images, targets, features of clean images."""
    component = case.build().train()
    inputs = case.inputs(component, 1)
    fixed = leaves({name: inputs[name] for name in ("images", "target", "features", "real")})
    for x in (*leaves(inputs["clean"]).values(), *leaves(inputs["taps"]).values(), *fixed.values()):
        x.requires_grad_()
    case.total(component, inputs).backward()
    for name, x in fixed.items():
        require(x.grad is None or not x.grad.any(), f"a gradient flows into {name}")


@law(LossCase)
def gradients_reach_its_weights(case: LossCase) -> None:
    """Each of its own trainable weights gets a finite gradient that is not zero."""
    component = case.build().train()
    weights = {name: p for name, p in component.named_parameters() if p.requires_grad}
    if not weights:
        return
    case.total(component, case.inputs(component, 1)).backward()
    for name, parameter in weights.items():
        gradient = parameter.grad
        require(gradient is not None and gradient.abs().sum() > 0, f"no gradient reaches {name}")
        require(gradient is not None and torch.isfinite(gradient).all(), f"{name} has a gradient not finite")


@law(LossCase, about=reads_taps)
def taps_are_matched_by_position(case: LossCase) -> None:
    """Tokens of a tap count at the positions that the tap names.

    In another order they give the same loss, or are refused with a `UserError`; at other positions another one.
    """
    component = case.build()
    inputs = case.inputs(component, 1)
    if not inputs["taps"]:
        does_not_apply("it reads no tap at this setting")
    n = case.spec.shape[0]
    order = torch.arange(n).roll(1)
    shuffled = {number: tokens[:, order] for number, tokens in inputs["taps"].items()}
    plain = case.run(component, inputs)
    moved = case.run(component, inputs | {"taps": shuffled})
    require(any(distance(plain[name], moved[name]) > 1e-4 for name in plain), "tokens count alike at any position")
    named = case.run(component, inputs | {"taps": shuffled, "positions": order})
    require_same(plain, named, "tokens in another order")


@law(LossCase)
def order_of_samples_is_irrelevant(case: LossCase) -> None:
    """Exchanging samples within their class groups, and groups, exchanges their values and no more."""
    component = case.build()
    inputs = case.inputs(component, 1)
    groups = torch.arange(case.batch).split(case.group)
    order = torch.cat([group.flip(0) for group in reversed(groups)])
    before = rows_of(case.run(component, inputs), order, case.batch)
    require_same(before, case.run(component, rows_of(inputs, order, case.batch)), "the samples in another order")


@law(LossCase, about=lambda loss: loss.couples_batch)
def couples_what_it_says(case: LossCase) -> None:
    """If it says `couples_batch`, other samples do change a sample's gradient (else it is needlessly restricted)."""
    component = case.build()
    gradients: list[Tensor] = []
    for seed in (1, 2):
        inputs, other = case.inputs(component, 1), case.inputs(component, seed)
        for name in ("images", "clean", "real", "features", "taps"):
            for path, x in leaves(inputs[name]).items():
                x[1:] = leaves(other[name])[path][1:]
        predicted = list(leaves({"clean": inputs["clean"], "taps": inputs["taps"]}).values())
        total = case.total(component, inputs | {"x": [x.requires_grad_() for x in predicted]})
        found = torch.autograd.grad(total, predicted, allow_unused=True)
        given: list[Any] = [gradient for gradient in found if gradient is not None]  # pyright: ignore[reportUnnecessaryComparison]
        gradients.append(torch.cat([gradient[0].flatten() for gradient in given]))
    require(distance(*gradients) > 1e-5, "no other sample changes the gradient of the first")


@law(LossCase)
def is_computed_in_float32(case: LossCase) -> None:
    """Neither autocast nor inputs of bfloat16 make it coarser than float32 arithmetic.

    With weights, which may multiply in bfloat16, it may be 3 % off.
    """
    component = case.build()
    tolerance = 3e-2 if list(component.parameters()) else 2e-5
    rounded = cast(cast(case.inputs(component, 1), torch.bfloat16), torch.float32)
    fine = case.step(rounded)
    coarse = case.step(rounded | {n: cast(rounded[n], torch.bfloat16) for n in ("taps", "clean", "features", "real")})
    if fine.source is not None:  # computed before, so that the encoder's share of the work stays out of autocast
        coarse.generated = cast(fine.generated, torch.bfloat16)
        fine.generated = cast(coarse.generated, torch.float32)
    expected = dict(component(fine))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        require_same(expected, dict(component(fine)), "under bfloat16 autocast", tolerance)
        found = dict(component(coarse))
    for name, term in found.items():
        require(term.dtype == torch.float32, f"{name} is {term.dtype} for inputs of bfloat16")
    require_same(expected, found, "for inputs of bfloat16", tolerance)


@law(LossCase, once=True)
def weight_is_not_applied_twice(case: LossCase) -> None:
    """It returns unweighted terms: the training step multiplies by `config.weight`."""
    other = attrs.evolve(case, config=attrs.evolve(case.config, weight=3 * case.config.weight + 1))
    component = case.build()
    inputs = case.inputs(component, 1)
    require_same(case.run(component, inputs), other.run(other.build(), inputs), "another config.weight", 0.0)
