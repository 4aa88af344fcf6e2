"""What moves the weights: learning rates, clipping, and a state that goes by names."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import tiny
import torch
from torch import Tensor
from toy_plugin.optimizers import Backwards, Forgetful

from vco.api import OptimizerSetting, ParameterGroup
from vco.config.settings import TrainConfig
from vco.errors import UserError
from vco.training.optimizer import build_optimizer, learning_rate, restore_state, set_learning_rate, state_by_name

TOY = ("--plugin", "toy_plugin")
EVERY_STEP = ("--train.checkpoint-every", "1", "--train.keep-checkpoints", "10")


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> tiny.Training:
    return tiny.prepare(tmp_path_factory.mktemp("run"), *TOY)


# -------------------------------------------------------------------------------------------------------- learning rate


def rates(steps: int, **settings: object) -> list[float]:
    """The learning rate of every update; its peak is 2."""
    config = TrainConfig(steps=steps, learning_rate=2.0, **settings)  # pyright: ignore[reportArgumentType]
    return [learning_rate(config, step) for step in range(steps)]


def test_it_grows_linearly_and_then_stays() -> None:
    assert rates(6, warmup_steps=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_without_a_warmup_the_first_update_has_the_peak() -> None:
    assert rates(3) == [2.0, 2.0, 2.0]


def test_it_falls_linearly_from_the_peak_to_the_floor_at_the_last_update() -> None:
    found = rates(7, warmup_steps=2, schedule="linear", learning_rate_floor=0.25)
    # warm-up; then 2 * (0.25 + 0.75 * what is left), of which 4/4, 3/4, ... 0/4 is left
    assert found == pytest.approx([1.0, 2.0, 2.0, 1.625, 1.25, 0.875, 0.5])


def test_it_falls_along_half_a_cosine_from_the_peak_to_the_floor_at_the_last_update() -> None:
    found = rates(7, warmup_steps=2, schedule="cosine", learning_rate_floor=0.25)
    # what is left is (1 + cos(pi k / 4)) / 2: 1, 0.8536, 0.5, 0.1464, 0
    assert found == pytest.approx([1.0, 2.0, 2.0, 1.78033, 1.25, 0.71967, 0.5], abs=1e-5)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_without_a_floor_it_falls_to_zero(schedule: str) -> None:
    found = rates(5, schedule=schedule)
    assert found[0] == 2.0
    assert found[-1] == pytest.approx(0.0, abs=1e-12)
    assert all(one > two for one, two in pairwise(found))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_no_longer_than_its_warmup_has_rates_too(steps: int) -> None:
    assert rates(steps, warmup_steps=2, schedule="cosine") == [1.0, 2.0, 2.0][:steps]


def test_the_rates_of_a_run_are_those_of_its_schedule(tmp_path: Path) -> None:
    options = ("--train.warmup-steps", "2", "--train.learning-rate", "0.001", "--train.schedule", "linear")
    tiny.train(tmp_path, *options, "--train.learning-rate-floor", "0.1")
    found = [line["learning_rate"] for line in tiny.metrics(tmp_path)]
    assert found == pytest.approx([0.0005, 0.001, 0.001, 0.0007, 0.0004, 0.0001])


def test_a_group_has_the_rate_times_what_its_component_and_the_group_ask_for(training: tiny.Training) -> None:
    groups = training.optimizer.param_groups
    assert {group["component"] for group in groups} >= {"backbone", "adapter"}
    adapter = training.objective.adapter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter, "learning_rate_scale", lambda step: 0.5 if step == 3 else 1.0)
        patch.setitem(groups[0], "lr_scale", 0.1)
        set_learning_rate(training.optimizer, training.objective, 2.0, 3)
        found = {group["component"]: group["lr"] for group in groups}
    assert found["adapter"] == 1.0
    assert found[groups[0]["component"]] == pytest.approx(0.2)
    assert groups[0]["component"] == "backbone"


def test_a_frozen_component_stays_as_it_is_to_the_bit_while_the_others_learn(tmp_path: Path) -> None:
    tiny.train(tmp_path, "--adapter.freeze-after", "3", *EVERY_STEP, "--optimizer.weight-decay", "0.1")
    name, other = "model/adapter.projection", "model/backbone.embeds.image.reduce.weight"
    steps = [tiny.tensors(tmp_path, step) for step in range(1, tiny.STEPS + 1)]
    moved = [not torch.equal(one[name], two[name]) for one, two in pairwise(steps)]
    assert moved == [True, True, False, False, False]
    assert not torch.equal(steps[-2][other], steps[-1][other])


def test_a_component_learns_at_its_own_rate(tmp_path: Path) -> None:
    plain, slow = (
        tiny.prepare(tmp_path / scale, "--adapter.learning-rate-scale", scale, "--train.steps", "1") for scale in "12"
    )
    before = plain.objective.adapter.state_dict()["projection"].clone()
    assert plain.train() == slow.train() == 0
    one, two = (run.objective.adapter.state_dict()["projection"] - before for run in (plain, slow))
    torch.testing.assert_close(two, 2 * one, rtol=1e-3, atol=1e-6)  # float32 differences of numbers around 0.1


# ------------------------------------------------------------------------------------------------------------- clipping


def gradients(folder: Path, *options: str) -> Tensor:
    """The gradient of all parameters with which the first update is made."""
    training = tiny.prepare(folder, "--train.steps", "1", *options)
    seen: list[Tensor] = []
    step = training.optimizer.step

    def noted() -> None:
        seen.append(torch.cat([p.grad.flatten().clone() for p in training.parameters.values() if p.grad is not None]))
        step()

    training.optimizer.step = noted  # pyright: ignore[reportAttributeAccessIssue]
    assert training.train() == 0
    (found,) = seen
    return found


def test_a_gradient_that_is_too_long_is_scaled_down_and_another_one_left_alone(tmp_path: Path) -> None:
    plain = gradients(tmp_path / "never")
    norm = plain.norm().item()
    assert norm > 0
    clipped = gradients(tmp_path / "half", "--train.clip-gradients", str(norm / 2))
    torch.testing.assert_close(clipped, plain / 2, rtol=1e-4, atol=1e-8)
    assert torch.equal(gradients(tmp_path / "far", "--train.clip-gradients", str(2 * norm)), plain)


# ---------------------------------------------------------------------------------------------------------------- state


def test_a_run_goes_on_bit_by_bit_with_an_optimizer_that_orders_its_groups_in_another_way(tmp_path: Path) -> None:
    """Only names say whose state is whose."""
    tiny.train(tmp_path, *TOY, *EVERY_STEP)
    whole = tiny.tensors(tmp_path)
    (tmp_path / "checkpoints" / "step-00000003").rename(tmp_path / "kept")
    other = tmp_path / "other" / "checkpoints"
    other.mkdir(parents=True)
    (tmp_path / "kept").rename(other / "step-00000003")
    backwards = tiny.train(tmp_path / "other", *TOY, "--optimizer", "backwards")
    assert backwards.optimizer.param_groups[-1]["component"] == "backbone"
    tiny.assert_same(tiny.tensors(tmp_path / "other"), whole)


def test_the_state_is_named_after_parameters(tmp_path: Path) -> None:
    training = tiny.train(tmp_path, "--train.steps", "1")
    state = state_by_name(training.optimizer, training.parameters)
    assert state.keys() == {f"{n}/{key}" for n in training.parameters for key in ("step", "exp_avg", "exp_avg_sq")}
    for name, parameter in training.parameters.items():
        assert torch.equal(state[f"{name}/exp_avg"], training.optimizer.state[parameter]["exp_avg"])


def test_the_state_of_a_parameter_that_is_not_trained_is_refused(training: tiny.Training) -> None:
    with pytest.raises(UserError, match=r"the optimizer's state of losses\.gone\.weight, which this run does not"):
        restore_state(training.optimizer, training.parameters, {"losses.gone.weight/step": torch.tensor(1.0)})


# -------------------------------------------------------------------------------------------------------- what is built


def test_every_group_holds_the_parameters_of_its_component_in_their_order(training: tiny.Training) -> None:
    components = training.objective.components
    held: list[int] = []
    for group in training.optimizer.param_groups:
        own = [id(p) for p in components[group["component"]].parameters() if p.requires_grad]
        assert [id(p) for p in group["params"]] == own
        held += own
    assert sorted(held) == sorted(id(p) for p in training.parameters.values())


def nameless(self: Backwards, groups: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
    return [{"params": list(group.parameters.values())} for group in groups]


def raises(self: Backwards, groups: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (Forgetful.parts, "optimizer adamw does not hold every trained parameter exactly once"),
        (nameless, "optimizer adamw dropped the key 'component' of a parameter group"),
        (raises, "optimizer adamw cannot be built: ValueError: no such thing"),
    ],
)
def test_an_optimizer_that_breaks_its_contract_is_one_sentence(
    parts: Any, message: str, training: tiny.Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backwards, "parts", parts)
    odd = Backwards(Backwards.Config(), OptimizerSetting(learning_rate=1.0))
    with pytest.raises(UserError, match=message):
        build_optimizer(attrs.evolve(training.run, optimizer=odd))
