"""Laws for backbones in training: random numbers that they want, and a whole training step."""

from typing import Any

import torch

from vco.api import IMAGE, FeatureSpec, Loss
from vco.objective import Inputs
from vco.randomness import RowGenerator, noise
from vco.testing.law import does_not_apply, law, require
from vco.testing.laws.backbone_taps import require_valid_tap
from vco.testing.laws.backbones import CLASSES, BackboneCase, predicted
from vco.testing.tensors import clone, distance, leaves, require_same, row_of, with_rows
from vco.testing.toy_run import EndOfStepLoss, PredictedImageLoss, TapLoss, TeacherLoss, training_objective


@law(BackboneCase)
def taps_are_valid_in_training(case: BackboneCase) -> None:
    """In training, where it may drop tokens, taps still say which tokens they hold, and predictions are complete."""
    component = case.build().train()
    inputs = case.inputs(component, 1)
    with torch.random.fork_rng(devices=[]):
        answer = case.run(component, inputs)
    for number, tap in answer.taps.items():
        require_valid_tap(tap, number, case, component)
    shapes = {name: tuple(x.shape) for name, x in inputs["noisy"].items()}
    found = {name: tuple(x.shape) for name, x in predicted(answer).items()}
    require(found == shapes, f"in training mode streams {shapes} became {found}")


def _is_silent(component: Any) -> bool:
    """Whether a backbone wants no random numbers."""
    return not component.draws


@law(BackboneCase)
def draws_decide_in_training(case: BackboneCase) -> None:
    """The random numbers that it declares as `draws` change what it answers in training, each sample's its own alone.

    Where none are handed over, in eval mode and in training, it works too, and nothing random happens to its tokens.
    """
    component = case.build().train()
    if _is_silent(component):
        does_not_apply("it wants no random numbers")
    inputs, other = case.inputs(component, 1), case.inputs(component, 2)
    first, again = _seeded(case, component, inputs), _seeded(case, component, inputs)
    require_same(first, again, "the same draws gave different answers", 0.0)
    redrawn = inputs | {"draws": other["draws"]}
    changed = _seeded(case, component, redrawn)
    moved = [
        name for name, x in leaves(predicted(first)).items() if distance(x, leaves(predicted(changed))[name]) > 1e-6
    ]
    require(moved, "other draws change no prediction, so that it need not declare any")
    batch = case.sizes.batch
    for row in {0, batch - 1}:
        kept = torch.arange(batch) != row
        mixed = inputs | {"draws": with_rows(inputs["draws"], other["draws"], kept)}
        ones, others = row_of(first, row, batch), row_of(_seeded(case, component, mixed), row, batch)
        require_same(ones, others, f"row {row} changes with the draws of other rows", 1e-4)
    for mode in (False, True):
        component.train(mode)
        ones, others = (_seeded(case, component, inputs | {"draws": {}}, seed) for seed in (0, 1))
        positions = [{number: tap.positions for number, tap in answer.taps.items()} for answer in (ones, others)]
        require_same(positions[0], positions[1], "without draws it keeps other tokens each time", 0.0)


def _seeded(case: BackboneCase, component: Any, inputs: Any, seed: int = 0) -> Any:
    """The answer under a fixed ambient random state, which dropout draws from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return clone(case.run(component, inputs))


@law(BackboneCase)
def trains_with_losses(case: BackboneCase) -> None:
    """A training step with losses on taps, predicted images and the average works, and every weight gets a gradient.

    In training mode, with its draws and its dropout, as `vco.objective.Objective` makes the step.
    """
    component = case.build()
    (n, grid) = (component.grid[0] * component.grid[1], component.grid)
    features = {"toy": FeatureSpec(tokens=(n, case.sizes.width), grid=grid)}
    with torch.random.fork_rng(devices=[]):
        losses: dict[str, Loss] = {
            "taps": TapLoss(range(1, component.depth + 1), component.width, features["toy"]),
            "predicted": PredictedImageLoss(),
            "teacher": TeacherLoss((1, component.depth)),
        }
    if case.until:
        losses["end"] = EndOfStepLoss()
    objective = training_objective(component, case.specs, features, CLASSES, losses)
    objective.teach({name: tensor.detach().clone() for name, tensor in objective.state_dict().items()})
    batch, draws = case.sizes.batch, case.generator(51)
    slots = list(range(batch))
    labels = torch.randint(0, CLASSES, (batch,), generator=draws)
    image = case.specs[IMAGE].shape
    inputs = Inputs(
        images=torch.rand(batch, *image, generator=draws) * 2 - 1,
        labels=labels,
        noise=noise({name: spec.shape for name, spec in case.specs.items()}, slots, case.sizes.seed),
        generator=RowGenerator((case.sizes.seed, "kit"), slots),
    )
    objective.train()
    with torch.random.fork_rng(devices=[]):
        found = objective(inputs, objective.draw(labels, seed=case.sizes.seed, step=0))
        for name, value in found.items():
            require(torch.isfinite(value.detach()), f"the loss {name} of a training step is {value.item()}")
        found["loss"].backward()
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            require(gradient is not None, f"in a training step no gradient reaches {name}")
            require(gradient is not None and torch.isfinite(gradient).all(), f"{name} has a gradient not finite")
