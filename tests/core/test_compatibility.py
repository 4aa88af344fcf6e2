"""Components that do not fit together: one sentence for each misfit, before anything heavy starts."""

from pathlib import Path

import pytest
import tiny
from toy_plugin.networks import Toy

from vco.api import BackboneSetting
from vco.errors import UserError
from vco.run import Run, assemble


def assembled(folder: Path, *options: str) -> Run:
    asked = tiny.invocation(folder, *options)
    return assemble(asked.config, asked.catalog, asked.origin, device="meta")


def misfits(folder: Path, *options: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        assembled(folder, *options)
    return str(caught.value).splitlines()


# ---------------------------------------------------------------------------------------------------- mean velocities


def test_a_solver_of_mean_velocities_wants_a_loss_that_trains_them(tmp_path: Path) -> None:
    (line,) = misfits(tmp_path, *tiny.TOY, "--loss", "none", "--solver", "leap")
    assert line.startswith("solver leap (from --solver) makes steps with mean velocities, which no loss of this run")
    assert "of-the-way" in line.partition("add --loss (")[2].partition(")")[0].split(", ")
    assert "hybrid" not in line
    assert line.endswith("or choose another --solver")


@pytest.mark.parametrize("solver", ["leap", "heun"])
def test_a_loss_of_mean_velocities_wants_a_network_that_can_be_told(tmp_path: Path, solver: str) -> None:
    options = (*tiny.TOY, "--solver", solver, "--loss", "of-the-way")
    assert assembled(tmp_path, *options).objective.backbone.supports_until
    (line,) = misfits(tmp_path, *options, "--backbone", "toy-deaf")
    assert line.startswith(
        "loss of-the-way (from --loss) tells the network where a step goes, which backbone toy-deaf (from --backbone) "
        "cannot be told; choose another backbone ("
    )
    offered = line.rpartition("(")[2].rstrip(")").split(", ")
    assert "toy" in offered
    assert "toy-deaf" not in offered


def test_a_solver_without_its_loss_on_a_network_that_cannot_be_told_has_two_misfits(tmp_path: Path) -> None:
    first, second = misfits(tmp_path, *tiny.TOY, "--loss", "none", "--solver", "leap", "--backbone", "toy-deaf")
    assert "which no loss of this run trains" in first
    assert second.startswith("solver leap (from --solver) tells the network where a step goes")


def test_a_network_is_built_knowing_whether_the_run_tells_it_where_a_step_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    build = Toy.__init__

    def noted(self: Toy, config: Toy.Config, setting: BackboneSetting) -> None:
        told.append(setting.until)
        build(self, config, setting)

    monkeypatch.setattr(Toy, "__init__", noted)
    assembled(tmp_path, *tiny.TOY)
    assembled(tmp_path, *tiny.TOY, "--loss", "of-the-way")
    assert told == [False, True]


# ------------------------------------------------------------------------------------------------------------- streams


def test_a_network_without_the_image_stream_is_refused(tmp_path: Path) -> None:
    lines = misfits(tmp_path, *tiny.TOY, "--backbone", "toy-blind")
    assert lines[0] == (
        "backbone toy-blind (from --backbone) does not denoise the stream 'image': its author has to add it"
    )


def test_weights_of_streams_that_the_run_lacks_are_refused(tmp_path: Path) -> None:
    (line,) = misfits(tmp_path, *tiny.TOY, "--train.stream-weights", "image=1,pixels=2")
    assert line == "train.stream_weights names 'pixels', which is no stream of this run (image)"


# -------------------------------------------------------------------------------------------------------------- losses


def test_a_loss_that_learns_from_the_average_wants_one(tmp_path: Path) -> None:
    assert assembled(tmp_path, *tiny.TOY, "--loss", "asking")
    (line,) = misfits(tmp_path, *tiny.TOY, "--loss", "asking", "--train.ema-decays", "")
    assert line == (
        "loss asking learns from a running average of the network, and this run keeps none; set --train.ema-decays, as "
        "in 0.9999"
    )


def test_only_one_loss_takes_the_place_of_the_denoising_loss(tmp_path: Path) -> None:
    assert assembled(tmp_path, *tiny.TOY, "--loss", "instead,square")
    (line,) = misfits(tmp_path, *tiny.TOY, "--loss", "instead,instead-too")
    assert line == "losses instead and instead-too each take the place of the denoising loss; keep one"


def test_a_name_that_all_modules_have_is_no_name_of_a_loss(tmp_path: Path) -> None:
    lines = misfits(tmp_path, *tiny.TOY, "--loss", "train")
    assert lines == ["a loss cannot be called 'train'; its plugin has to register another name"]


# --------------------------------------------------------------------------------------------------------------- codec


def test_the_noise_scale_of_the_codec_is_that_of_the_image_stream(tmp_path: Path) -> None:
    specs = assembled(tmp_path, "--codec.noise-scale", "2").objective.specs
    assert {name: spec.noise_scale for name, spec in specs.items()} == {"image": 2.0, "features": 1.0}


# ------------------------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    ("option", "metric", "message"),
    [
        ("--metric.fd.encoder", "", "metric fd needs an encoder: write --metric fd=ENCODER"),
        ("--metric", "brightness=digits-cnn", "metric brightness takes no encoder: write --metric brightness"),
    ],
)
def test_a_metric_is_given_an_encoder_if_and_only_if_it_looks_through_one(
    option: str, metric: str, message: str, tmp_path: Path
) -> None:
    assert misfits(tmp_path, *tiny.TOY, option, metric) == [message]


def test_metrics_with_the_same_encoder_share_one(tmp_path: Path) -> None:
    run = assembled(tmp_path, *tiny.TOY, "--metric", "fd=digits-cnn,fd=digits-vit,brightness")
    assert [(choice.part.name, choice.setting.encoder) for choice in run.metrics] == [
        ("fd", "digits-cnn"), ("fd", "digits-vit"), ("brightness", ""),
    ]  # fmt: skip
    assert {path for path in run.frozen if path.startswith("metric")} == {
        "metric.fd.digits-cnn", "metric.fd.digits-vit",
    }  # fmt: skip
    assert run.metrics[2].source is None
    assert run.metrics[2].setting.features is None


# ---------------------------------------------------------------------------------------------------------- encoders


def test_several_encoders_are_known_by_name_and_an_option_says_which_one_is_read(tmp_path: Path) -> None:
    options = ("--features", "digits-cnn,digits-vit", "--loss.features", "digits-vit")
    objective = assembled(tmp_path, *options).objective
    assert list(objective.sources) == ["digits-cnn", "digits-vit"]
    hybrid = objective.losses["hybrid"]
    assert getattr(hybrid, "encoder", "") == "digits-vit"
    assert objective.specs["features"].shape[0] == 16


def test_an_encoder_that_the_run_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    (line,) = misfits(tmp_path, "--loss.features", "dinov2")
    assert line == (
        "loss hybrid (from preset digits): --loss.features dinov2: this run has no such encoder; choose one of "
        "digits-vit"
    )


def test_a_loss_on_what_the_network_predicts_beside_the_streams_wants_a_network_that_does(tmp_path: Path) -> None:
    options = (*tiny.ONE_STREAM[:-2], "--loss", "dino-forcing")
    (line,) = misfits(tmp_path, *options)
    assert line == (
        "loss dino-forcing (from --loss) needs a backbone that predicts features and is told its own prediction, which "
        "backbone jit (from --backbone) does not; choose --backbone (dino-forcing)"
    )
    assert assembled(tmp_path, *options, "--backbone", "dino-forcing")


def test_a_loss_that_trains_streams_at_one_time_wants_them_sampled_along_one_path(tmp_path: Path) -> None:
    options = ("--loss", "meanflow", "--solver", "meanflow", "--train.samples-per-class", "0", "--guidance", "cfg")
    assert assembled(tmp_path, *options)
    (line,) = misfits(tmp_path, *options, "--process", "shifted")
    assert line == (
        "loss meanflow (from --loss) trains all streams at one time, and process shifted (from --process) samples them "
        "at different times; choose --process shared"
    )
