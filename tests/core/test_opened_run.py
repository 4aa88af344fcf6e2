"""The Python door to a run, and the weak model that autoguidance takes from another run's folder."""

import shutil
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from torch import Tensor

import vco
from vco.api import FEATURES, IMAGE, Condition, GuidanceSetting, Streams
from vco.errors import UserError
from vco.folder import RunFolder
from vco.opened_run import OpenedRun, load_weak
from vco.plugins.discovery import load_catalog
from vco.sampling.sample import sample
from vco.sampling.velocity import GuidedVelocity
from vco_plugins.codecs.pixels import Pixels
from vco_plugins.data.digits import Digits
from vco_plugins.features.digits_cnn import DigitsCNN
from vco_plugins.features.digits_vit import DigitsViT
from vco_plugins.guidance.autoguidance import Autoguidance

LABELS = torch.tensor([0, 3, 9])
TIMES = {IMAGE: 0.5, FEATURES: 0.5}
LATER = {IMAGE: 0.6, FEATURES: 0.6}


def record(training: tiny.Training, folder: Path, *options: str) -> None:
    """Writes what describes a run, as `vco-run` does."""
    RunFolder(folder).record(tiny.invocation(folder, *options), training.run.facts)


def finish(folder: Path, *options: str) -> tiny.Training:
    """A finished run, whose average differs from its last weights."""
    training = tiny.prepare(folder, *options)
    tiny.scramble(training, 1)  # heads start at zero: all models would predict the same
    for average in training.ema.averages[:1]:
        average.update({n: v.clone() for n, v in training.objective.state_dict().items()})
    training.train()
    record(training, folder, *options)
    return training


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tiny.Training:
    """A finished run of the default recipe."""
    return finish(tmp_path_factory.mktemp("weak"))


@pytest.fixture(scope="module")
def weak_run(trained: tiny.Training) -> Path:
    """Its folder."""
    return trained.folder.path


@pytest.fixture
def copied(weak_run: Path, tmp_path: Path) -> Path:
    """A copy of its folder, to be spoilt."""
    return Path(shutil.copytree(weak_run, tmp_path / "copy"))


# ------------------------------------------------------------------------------------------------------- vco.open_run


@pytest.fixture(scope="module")
def opened(weak_run: Path) -> OpenedRun:
    return vco.open_run(weak_run)


def test_an_opened_run_knows_its_settings_its_log_and_its_step(opened: OpenedRun, weak_run: Path) -> None:
    assert opened.config.part("backbone").name == "jit-dual"
    assert opened.config.part("backbone").config.width == 16
    assert opened.config.train.steps == opened.step == tiny.STEPS
    assert opened.metrics() == tiny.metrics(weak_run)
    assert opened.folder.path == weak_run


def test_its_model_is_the_frozen_first_average(opened: OpenedRun, weak_run: Path) -> None:
    saved = tiny.tensors(weak_run)
    state = opened.model.state_dict()
    assert len(state) > 20
    assert all(torch.equal(value, saved[f"ema-0/{name}"]) for name, value in state.items())
    assert any(not torch.equal(value, saved[f"model/{name}"]) for name, value in state.items())
    assert not opened.model.training
    assert not any(parameter.requires_grad for parameter in opened.model.parameters())


def test_without_an_average_its_model_has_the_last_weights(tmp_path: Path) -> None:
    finish(tmp_path, *tiny.ONE_STREAM, "--train.ema-decays", "", "--train.steps", "1")
    saved = tiny.tensors(tmp_path, 1)
    state = vco.open_run(tmp_path).model.state_dict()
    assert all(torch.equal(value, saved[f"model/{name}"]) for name, value in state.items())


def test_it_samples_what_the_run_samples(opened: OpenedRun, trained: tiny.Training) -> None:
    images = opened.sample([3, 0, 9])
    assert (images.shape, images.dtype) == ((3, 1, 8, 8), torch.uint8)
    assert torch.equal(images, sample(trained.run, trained.averaged(), torch.tensor([3, 0, 9]), range(3)))


def test_an_image_is_a_function_of_seed_place_and_label(opened: OpenedRun) -> None:
    images = opened.sample([3, 0, 9, 3])
    assert not torch.equal(images[0], images[3])
    assert torch.equal(opened.sample([5, 0]), torch.stack([opened.sample([5])[0], images[1]]))
    assert torch.equal(opened.sample(torch.tensor([3, 0, 9, 3]), seed=0), images)
    assert not torch.equal(opened.sample([3, 0, 9, 3], seed=1), images)


def test_scale_and_steps_may_be_others_than_those_of_the_run(opened: OpenedRun) -> None:
    usual = opened.sample([1, 2])
    assert torch.equal(opened.sample([1, 2], scale=1.5, steps=1), usual)  # as in the run
    longer = opened.sample([1, 2], steps=3)
    assert not torch.equal(longer, usual)
    assert not torch.equal(opened.sample([1, 2], steps=3, scale=4.0), longer)  # one step has no time to be guided at
    assert torch.equal(opened.sample([1, 2], steps=3, scale=1.5), longer)
    assert torch.equal(opened.sample([1, 2]), usual)  # nothing was changed for good


@pytest.mark.parametrize("labels", [[10], [-1], [], [3, 11], torch.tensor([0.5])])
def test_labels_that_are_no_classes_are_refused(labels: list[int] | torch.Tensor, opened: OpenedRun) -> None:
    with pytest.raises(UserError, match="labels are the numbers of classes, from 0 to 9, and at least one is needed"):
        opened.sample(labels)


def test_a_scale_that_guidance_refuses_is_one_sentence(opened: OpenedRun) -> None:
    with pytest.raises(UserError, match=r"scale -1\.0: .*scale"):
        opened.sample([1], scale=-1.0)


def test_data_set_and_encoders_need_not_be_there(
    weak_run: Path, opened: OpenedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: object, *given: object) -> None:
        raise AssertionError("it is not there")

    for component in (Digits, DigitsViT, DigitsCNN):
        monkeypatch.setattr(component, "__init__", gone)
    assert torch.equal(vco.open_run(weak_run).sample([4, 2]), opened.sample([4, 2]))


def test_a_codec_whose_weights_are_missing_is_named_with_its_option(
    weak_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: Pixels) -> None:
        raise UserError("the weights are missing: give --.weights FOLDER")

    monkeypatch.setattr(Pixels, "load", missing)
    with pytest.raises(UserError, match=r"^codec pixels: the weights are missing: give --codec\.weights FOLDER$"):
        vco.open_run(weak_run).sample([1])


def test_its_encoders_are_there_when_they_are_asked_for(opened: OpenedRun) -> None:
    (encoder,) = opened.encoders.values()
    assert isinstance(encoder, DigitsViT)
    assert encoder(torch.zeros(2, 1, 8, 8)).tokens.shape == (2, 16, 48)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_folder_that_is_none_of_a_run_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not the folder of a run: it has no config\.yaml"):
        vco.open_run(tmp_path)


def test_a_checkpoint_that_does_not_fit_its_settings_is_one_sentence(copied: Path) -> None:
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["backbone"]["width"] = 32
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"step 6 in .* holds other components than its config\.yaml says; restore"):
        _ = vco.open_run(copied).model


@pytest.mark.parametrize("text", [None, "", "{", "image_shape: 3", "num_classes: [", "image_shape: [1, 8]"])
def test_facts_that_are_missing_or_damaged_are_one_sentence(text: str | None, copied: Path) -> None:
    facts = copied / "facts.yaml"
    facts.unlink() if text is None else facts.write_text(text)
    with pytest.raises(UserError, match=r"facts\.yaml cannot be used \(.*\); start the run again") as caught:
        vco.open_run(copied).sample([1])
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------- autoguidance


def guided(folder: Path, weak_run: Path, *options: str) -> tiny.Training:
    training = tiny.prepare(folder, "--guidance", "autoguidance", "--guidance.run", str(weak_run), *options)
    tiny.scramble(training, 2)
    load_weak(training.run, load_catalog())
    return training


def state() -> Streams:
    generator = torch.Generator().manual_seed(0)
    return {IMAGE: torch.randn(3, 1, 8, 8, generator=generator), FEATURES: torch.randn(3, 16, 8, generator=generator)}


def velocity(training: tiny.Training, x: Streams, t: dict[str, float]) -> dict[str, Tensor]:
    with torch.no_grad():
        return GuidedVelocity(training.objective.eval(), LABELS)(x, t, LATER)


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
    training.objective.beside.pop("weak")
    unguided = training.objective.with_weights(training.objective.state_dict())
    assert unguided.weak is None


def test_the_weak_model_is_in_no_checkpoint_and_not_trained(tmp_path: Path, weak_run: Path) -> None:
    training = guided(tmp_path, weak_run)
    plain = tiny.prepare(tmp_path / "plain", "--guidance", "cfg")
    assert training.objective.state_dict().keys() == plain.objective.state_dict().keys()
    assert training.parameters.keys() == plain.parameters.keys()


def test_a_weak_model_of_the_image_alone_leaves_the_features_unguided(tmp_path: Path) -> None:
    finish(tmp_path / "weak", *tiny.ONE_STREAM)
    training = guided(tmp_path / "run", tmp_path / "weak", "--guidance.scale", "3")
    unguided = guided(tmp_path / "other", tmp_path / "weak", "--guidance.scale", "1")
    x = state()
    ours, plain = velocity(training, x, TIMES), velocity(unguided, x, TIMES)
    torch.testing.assert_close(ours[FEATURES], plain[FEATURES])
    assert not torch.allclose(ours[IMAGE], plain[IMAGE])


def test_a_weak_model_of_other_streams_is_refused(tmp_path: Path, weak_run: Path) -> None:
    one_stream = (*tiny.ONE_STREAM, "--guidance", "autoguidance", "--guidance.run", str(weak_run))
    training = tiny.prepare(tmp_path, *one_stream)
    with pytest.raises(UserError, match=r"guidance autoguidance: the run in .* has another stream 'features'"):
        load_weak(training.run, load_catalog())


def test_a_weak_model_of_other_classes_is_refused(tmp_path: Path, copied: Path) -> None:
    facts = yaml.safe_load((copied / "facts.yaml").read_text())
    (copied / "facts.yaml").write_text(yaml.safe_dump({**facts, "num_classes": 11}))
    training = tiny.prepare(tmp_path / "run", "--guidance", "autoguidance", "--guidance.run", str(copied))
    with pytest.raises(UserError, match="knows 11 classes, and this run 10"):
        load_weak(training.run, load_catalog())


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    record(tiny.not_begun(tmp_path / "weak"), tmp_path / "weak")
    training = tiny.prepare(tmp_path / "run", "--guidance", "autoguidance", "--guidance.run", str(tmp_path / "weak"))
    with pytest.raises(UserError, match="has no checkpoint yet"):
        load_weak(training.run, load_catalog())


@pytest.mark.parametrize("options", [(), ("--guidance.run", "nowhere")])
def test_a_missing_run_is_said_before_anything_starts(tmp_path: Path, options: tuple[str, ...]) -> None:
    training = tiny.prepare(tmp_path, "--guidance", "autoguidance", *options)
    (sentence,) = training.run.missing()
    assert "guidance autoguidance needs the folder of a finished run of a weaker model (--guidance.run)" in sentence


def test_the_weak_branch_is_told_the_label_unless_it_is_kept_from_it() -> None:
    def labels(label: bool) -> list[int]:
        setting = GuidanceSetting(streams={}, num_classes=10)
        guidance = Autoguidance(Autoguidance.Config(run="weak", label=label), setting)
        return guidance.branches(LABELS, {IMAGE: 0.5})["weak"].labels.tolist()

    assert labels(Autoguidance.Config().label) == LABELS.tolist()
    assert labels(False) == [10, 10, 10]


# ------------------------------------------------------------------------------- another checkpoint, average or option


def test_another_average_or_the_last_weights_can_be_opened(weak_run: Path) -> None:
    saved = tiny.tensors(weak_run)
    for ema, stem in ((1, "ema-1"), (None, "model")):
        opened = vco.open_run(weak_run, ema=ema)
        assert all(torch.equal(value, saved[f"{stem}/{name}"]) for name, value in opened.model.state_dict().items())
    assert vco.open_run(weak_run, ema=1).ema_decay == vco.open_run(weak_run).config.train.ema_decays[1]
    assert vco.open_run(weak_run, ema=None).ema_decay is None
    with pytest.raises(UserError, match=r"has no running average number 2; it has 0 \(decay .*\), 1 \(decay "):
        _ = vco.open_run(weak_run, ema=2).model


def test_an_earlier_checkpoint_can_be_opened(tmp_path: Path) -> None:
    finish(tmp_path, *tiny.ONE_STREAM, "--train.checkpoint-every", "2", "--train.steps", "4")
    earlier = vco.open_run(tmp_path, step=2)
    assert earlier.step == 2
    saved = tiny.tensors(tmp_path, 2)
    assert all(torch.equal(value, saved[f"ema-0/{name}"]) for name, value in earlier.model.state_dict().items())
    with pytest.raises(UserError, match=r"there is no checkpoint of step 3 in .*; there are those of steps 2, 4"):
        _ = vco.open_run(tmp_path, step=3).model


def test_options_of_sampling_can_be_set_anew_and_no_others(weak_run: Path, opened: OpenedRun) -> None:
    other = vco.open_run(weak_run, options=["--sample.steps", "3", "--guidance.scale", "4"])
    assert torch.equal(other.sample([1, 2]), opened.sample([1, 2], steps=3, scale=4.0))
    with pytest.raises(UserError, match=r"backbone\.mlp_ratio, seed cannot be changed after training"):
        _ = vco.open_run(weak_run, options=["--backbone.mlp-ratio", "2", "--seed", "5"]).config
