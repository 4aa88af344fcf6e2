"""Sampling through the Python door: precision, devices, weak models, progress, and options that act in sampling."""

import re
from pathlib import Path

import finished
import pytest
import tiny
import torch

import vco
from vco.distributed import autocast_of, connect_processes, precision_of
from vco.errors import UserError
from vco.opened_run import OpenedRun, load_weak
from vco.plugins.discovery import load_catalog
from vco.sampling.progress import Progress
from vco.sampling.sample import sample
from vco.sampling.trajectory import trajectory

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tiny.Training:
    return finished.finish(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def opened(trained: tiny.Training) -> OpenedRun:
    return vco.open_run(trained.folder.path)


# ------------------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_run_computes_as_accelerate_has_it_compute(precision: str, tmp_path: Path) -> None:
    config = tiny.invocation(tmp_path, "--mixed-precision", precision).config
    matrix = torch.randn(4, 4)
    with connect_processes(config).autocast():
        expected = (matrix @ matrix).dtype
    with autocast_of(config, "cpu"):
        assert (matrix @ matrix).dtype == expected == torch.float32
    assert precision_of(config, "cpu") == "fp32"


def test_a_run_of_bf16_is_sampled_in_bf16(opened: OpenedRun) -> None:
    half = vco.open_run(opened.folder.path, options=["--mixed-precision", "bf16"])
    assert half.describe()["precision"] == "bf16"
    images = half.sample([1, 2], steps=6)
    exact = opened.sample([1, 2], steps=6)
    assert not torch.equal(images, exact)
    assert (images.int() - exact.int()).abs().float().mean() < 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = sample(half.run, half.model, torch.tensor([1, 2]), range(2), seed=0)
    assert torch.equal(again, half.sample([1, 2]))


@pytest.mark.gpu
def test_a_run_is_sampled_on_a_gpu_as_it_was_trained(opened: OpenedRun) -> None:
    there = vco.open_run(opened.folder.path, device="cuda")
    assert there.describe()["precision"] == "bf16"
    images = there.sample(range(10))
    assert images.device.type == "cpu"
    assert (images.int() - opened.sample(range(10)).int()).abs().float().mean() < 4
    assert torch.equal(there.sample(range(10)), images)
    assert there.trajectory([1, 2]).images.shape[1:] == (2, 1, 8, 8)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", ""])
def test_a_device_that_is_not_there_is_one_sentence(device: str, opened: OpenedRun) -> None:
    with pytest.raises(UserError, match=rf"^the device {device} cannot be used here: [^\n]+$"):
        vco.open_run(opened.folder.path, device=device)


# --------------------------------------------------------------------------------------------------------- the weak run


@pytest.fixture(scope="module")
def guided_by_weak(tmp_path_factory: pytest.TempPathFactory, trained: tiny.Training) -> tiny.Training:
    """A run whose guidance names the other one, and that is guided from the first step on."""
    weak = ("--guidance", "autoguidance", "--guidance.run", str(trained.folder.path), "--guidance.low", "0")
    return finished.finish(tmp_path_factory.mktemp("strong"), *weak, "--guidance.scale", "3", seed=2)


def test_an_opened_run_is_guided_by_the_weak_run_that_it_names(guided_by_weak: tiny.Training) -> None:
    load_weak(guided_by_weak.run, load_catalog())
    labels = torch.tensor([3, 1])
    expected = sample(guided_by_weak.run, guided_by_weak.averaged(), labels, range(2), seed=0)
    opened = vco.open_run(guided_by_weak.folder.path)
    assert torch.equal(opened.sample([3, 1]), expected)
    assert torch.equal(opened.trajectory([3, 1]).images[-1], expected)
    assert torch.equal(opened.sample([3, 1], scale=3.0), expected)
    assert not torch.equal(opened.sample([3, 1], scale=1.0), expected)


def test_the_weights_of_the_weak_run_are_noted(guided_by_weak: tiny.Training, opened: OpenedRun) -> None:
    said = vco.open_run(guided_by_weak.folder.path).describe()
    assert said["weak_weights"] == opened.weights_sha256 != said["weights"]
    assert "weak_weights" not in opened.describe()


def test_a_weak_run_that_is_gone_is_one_sentence(guided_by_weak: tiny.Training) -> None:
    lost = vco.open_run(guided_by_weak.folder.path, options=["--guidance.run", "nowhere"])
    with pytest.raises(
        UserError, match=r"guidance autoguidance needs the folder .* \(--guidance.run\); there is none in"
    ):
        lost.sample([1])


# -------------------------------------------------------------------------------------------------- trajectories, steps


def test_a_trajectory_is_that_of_the_model_with_scale_and_steps(opened: OpenedRun) -> None:
    way = opened.trajectory([1, 2], scale=4.0, steps=5, seed=3)
    assert torch.equal(way.images[-1], opened.sample([1, 2], scale=4.0, steps=5, seed=3))
    assert torch.equal(trajectory(opened.run, opened.model, torch.tensor([1])).images[-1], opened.sample([1]))


@pytest.mark.parametrize("steps", [0, -3])
def test_steps_that_are_none_are_one_sentence(steps: int, opened: OpenedRun) -> None:
    with pytest.raises(UserError, match=f"^steps are the steps of the solver, at least 1, and not {steps}$"):
        opened.sample([1], steps=steps)


def test_many_images_are_made_in_batches(opened: OpenedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def noted(run: object, model: object, labels: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append(len(labels))
        return sample(run, model, labels, *rest)  # pyright: ignore

    monkeypatch.setattr("vco.opened_run.sample", noted)
    assert len(opened.sample(torch.arange(20) % 10)) == 20
    assert sizes == [8, 8, 4]


# -------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options",
    [
        ["--train.steps", "9"], ["--eval.samples", "9"], ["--metric", "none"], ["--output-dir", "x"], ["--refresh"],
        ["--preset", "digits"], ["--config", "a.yaml"], ["--guidance.drop", "0.5"], ["--train.workers", "2"],
    ],
)  # fmt: skip
def test_options_that_do_nothing_in_sampling_are_refused(
    options: list[str], opened: OpenedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("")
    key = options[0][2:].replace("-", "_")
    with pytest.raises(UserError, match=rf"^{re.escape(key).replace('_', '[-_]')} cannot be changed after training; "):
        _ = vco.open_run(opened.folder.path, options=options).config


def test_a_plugin_can_be_named_in_python_too(tmp_path: Path) -> None:
    finished.finish(tmp_path, *tiny.TOY, "--loss", "none")
    assert len(vco.open_run(tmp_path, options=["--plugin", "toy_plugin"]).sample([1, 2])) == 2


def test_it_says_what_its_images_depend_on(opened: OpenedRun) -> None:
    said = opened.describe()
    assert (said["step"], said["ema"], said["image_shape"], said["steps"]) == (2, 0, [1, 8, 8], 3)
    assert said["process"] == {"name": "shared"}
    assert said["codec"] == {"name": "pixels"}
    assert "drop" not in said["guidance"]
    last = vco.open_run(opened.folder.path, ema=None).describe()
    assert (last["ema"], last["ema_decay"]) == (None, None)
    assert last["weights"] != said["weights"]


# ------------------------------------------------------------------------------------------------------------- progress


def times(k: int) -> dict[str, float]:
    return {"image": k / 4}


def test_progress_counts_solver_steps_and_not_evaluations() -> None:
    progress = Progress(30, 4, shown=False)
    progress.begin(20)
    for k in (0, 1, 1, 2, 2, 3, 3):  # as Heun asks
        progress.step(times(k), {}, {})
    assert (progress.count, progress.done) == (4, 0)
    progress.begin(10)
    assert (progress.count, progress.done) == (0, 20)
    progress.step(times(0), {}, {})
    assert progress.count == 1


def test_progress_is_lines_where_nobody_watches(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vco.sampling.progress.SECONDS_BETWEEN_LINES", 0.0)
    progress = Progress(20, 4, title="1 of 2 processes")
    progress.begin(20)
    progress.step(times(0), {}, {})
    progress.close()
    told = capsys.readouterr()
    assert re.fullmatch(r"1 of 2 processes: 0/20 images, step 1/4 of the next, 00:00 left\n", told.out)
    assert told.err == ""


def test_progress_is_a_bar_in_a_terminal(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress(20, 4)
    progress.begin(20)
    for k in range(4):
        progress.step(times(k), {}, {})
    progress.close()
    told = capsys.readouterr()
    assert "100% |" in told.err
    assert "20/20 images" in told.err
    assert "step 4/4" in told.err
    assert told.out == ""


def test_what_is_done_at_once_shows_nothing(
    opened: OpenedRun, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    opened.sample([1, 2])
    told = capsys.readouterr()
    assert told.out == told.err == ""
