"""Autoguidance: the weak model of another run."""

from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from vco.api import FEATURES, PIXELS, Streams
from vco.errors import UserError
from vco.plugins import load_catalog
from vco.sample import guided_velocity, sample
from vco.weak import load_weak
from vco_plugins.guidance.autoguidance import Autoguidance

LABELS = torch.tensor([0, 3, 9])
JIT = ("--backbone", "jit", "--adapter", "none", "--loss", "none")
TIMES = {PIXELS: 0.5, FEATURES: 0.5}


@pytest.fixture(scope="module")
def weak_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the default recipe."""
    folder = tmp_path_factory.mktemp("weak")
    finish(folder)
    return folder


def finish(folder: Path, *options: str) -> tiny.Training:
    training = tiny.prepare(folder, *options)
    scramble(training, 1)  # heads start at zero: both models would predict the same
    training.ema.averages[0].update({n: v.clone() for n, v in training.objective.state_dict().items()})
    training.train()
    write_config(training, folder)
    return training


def write_config(training: tiny.Training, folder: Path) -> None:
    import yaml

    from vco.resolve import to_plain_run

    (folder / "config.yaml").write_text(yaml.safe_dump(to_plain_run(training.run.config)))


def scramble(training: tiny.Training, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in training.parameters.values():
        torch.nn.init.normal_(parameter, std=0.1)


def guided(folder: Path, weak_run: Path, *options: str) -> tiny.Training:
    training = tiny.prepare(folder, "--guidance", "autoguidance", "--guidance.run", str(weak_run), *options)
    scramble(training, 2)
    load_weak(training.run, load_catalog())
    return training


def state() -> Streams:
    generator = torch.Generator().manual_seed(0)
    return {PIXELS: torch.randn(3, 1, 8, 8, generator=generator), FEATURES: torch.randn(3, 16, 8, generator=generator)}


def velocity(training: tiny.Training, x: Streams, t: dict[str, float]) -> dict[str, Tensor]:
    objective = training.objective.eval()
    with torch.no_grad():
        return guided_velocity(objective.backbone, objective.guidance, LABELS, objective.weak)(x, t)


def test_the_guided_velocity_leads_away_from_the_ema_of_the_weak_run(tmp_path: Path, weak_run: Path) -> None:
    training = guided(tmp_path, weak_run, "--guidance.scale", "2.5")
    assert training.objective.weak is not None
    average = tiny.tensors(weak_run)
    for name, value in training.objective.weak.state_dict().items():
        assert torch.equal(value, average[f"ema-0/{name}"])
    x = state()
    alone = velocity(training, x, dict.fromkeys(x, 0.05))  # below the interval of guidance
    strong = training.objective.backbone
    with torch.no_grad():
        from vco.api import Condition

        t = {name: torch.full((3,), 0.5) for name in x}
        ours, theirs = (net(x, t, Condition(labels=LABELS)).clean for net in (strong, training.objective.weak.backbone))
    both = velocity(training, x, TIMES)
    for name in x:
        v, v_weak = (ours[name] - x[name]) / 0.5, (theirs[name] - x[name]) / 0.5
        torch.testing.assert_close(both[name], v_weak + 2.5 * (v - v_weak), rtol=1e-4, atol=1e-5)
        assert not torch.equal(alone[name], both[name])


def test_samples_of_an_averaged_copy_are_guided_too(tmp_path: Path, weak_run: Path) -> None:
    training = guided(tmp_path, weak_run, "--guidance.scale", "3", "--sample.steps", "3")
    twin = training.objective.with_weights(training.objective.state_dict())
    assert twin.weak is training.objective.weak
    images = [sample(training.run, model, LABELS, range(3)) for model in (training.objective, twin)]
    assert torch.equal(*images)


def test_the_weak_model_is_in_no_checkpoint_and_not_trained(tmp_path: Path, weak_run: Path) -> None:
    training = guided(tmp_path, weak_run)
    plain = tiny.prepare(tmp_path / "plain", "--guidance", "cfg")
    assert training.objective.state_dict().keys() == plain.objective.state_dict().keys()
    assert training.parameters.keys() == plain.parameters.keys()


def test_a_weak_model_of_pixels_alone_leaves_the_features_unguided(tmp_path: Path) -> None:
    finish(tmp_path / "weak", *JIT, "--guidance", "cfg")
    training = guided(tmp_path / "run", tmp_path / "weak", "--guidance.scale", "3")
    unguided = guided(tmp_path / "other", tmp_path / "weak", "--guidance.scale", "1")
    x = state()
    ours, plain = velocity(training, x, TIMES), velocity(unguided, x, TIMES)
    torch.testing.assert_close(ours[FEATURES], plain[FEATURES])
    assert not torch.allclose(ours[PIXELS], plain[PIXELS])


def test_a_weak_model_of_other_streams_is_refused(tmp_path: Path, weak_run: Path) -> None:
    training = tiny.prepare(tmp_path, "--guidance", "autoguidance", "--guidance.run", str(weak_run), *JIT)
    with pytest.raises(UserError, match="'features'"):
        load_weak(training.run, load_catalog())


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    write_config(tiny.prepare(tmp_path / "weak"), tmp_path / "weak")
    training = tiny.prepare(tmp_path / "run", "--guidance", "autoguidance", "--guidance.run", str(tmp_path / "weak"))
    with pytest.raises(UserError, match="no checkpoint"):
        load_weak(training.run, load_catalog())


@pytest.mark.parametrize("options", [(), ("--guidance.run", "nowhere")])
def test_a_missing_run_is_said_before_anything_starts(tmp_path: Path, options: tuple[str, ...]) -> None:
    training = tiny.prepare(tmp_path, "--guidance", "autoguidance", *options)
    assert [sentence for sentence in training.run.missing() if "--guidance.run" in sentence]


def test_the_weak_branch_is_told_the_label_unless_it_is_kept_from_it() -> None:
    def labels(**options: bool) -> list[int]:
        guidance = Autoguidance(Autoguidance.Config(run="weak", **options), streams={}, num_classes=10)
        return guidance.branches(LABELS, {PIXELS: 0.5})["weak"].labels.tolist()

    assert labels() == LABELS.tolist()
    assert labels(label=False) == [10, 10, 10]
