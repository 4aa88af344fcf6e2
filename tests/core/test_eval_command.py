"""`vco eval`: a run, images in files, references, seeds, sweeps and neighbours; the same numbers by every way."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import vco
from vco.cli import main_run, main_vco
from vco.data.reader import to_uint8
from vco.evaluation.protocol import comparable
from vco.storage import checkpoint

Capture = pytest.CaptureFixture[str]
MOVES = ("--train.ema-decays", "0.3", "--train.learning-rate", "0.02", "--train.warmup-steps", "0")
METRICS = "fd=digits-cnn,kid=digits-cnn,prc=digits-cnn,is=digits-cnn,mind=digits-cnn"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where moments are kept, apart from the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCO_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with two checkpoints."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main_run(tiny.argv(folder, *MOVES, "--train.checkpoint-every", "3")) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be written to."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def images(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images that the run scores, as a folder of PNG files."""
    folder = tmp_path_factory.mktemp("images")
    made = vco.open_run(finished).sample(torch.arange(20) % 10, seed=0)
    for number, image in enumerate(made):
        Image.fromarray(image[0].numpy()).save(folder / f"{number:03d}.png")
    return folder


def evaluate(*arguments: object) -> int:
    return main_vco(["eval", *map(str, arguments)])


def refused(capsys: Capture, *arguments: object) -> str:
    """The one sentence with which a command is refused."""
    capsys.readouterr()
    assert evaluate(*arguments) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("vco eval: ")]
    assert "Traceback" not in error
    assert len(lines) == 1, error
    return lines[0].removeprefix("vco eval: ")


def newest(folder: Path) -> dict[str, Any]:
    return tiny.lines(folder / "evals.jsonl")[-1]


# -------------------------------------------------------------------------------------------------------------- a run


def test_a_run_has_the_score_that_vco_run_gave_it_and_is_not_measured_twice(run: Path, capsys: Capture) -> None:
    before = (run / "evals.jsonl").read_text()
    assert evaluate(run) == 0
    assert "seed 0 was measured before" in capsys.readouterr().out
    assert (run / "evals.jsonl").read_text() == before
    assert evaluate(run, "--refresh") == 0
    lines = tiny.lines(run / "evals.jsonl")
    assert [line["by"] for line in lines] == ["vco-run", "vco eval"]
    assert lines[0]["key"] == lines[1]["key"]
    assert lines[0]["scores"] == lines[1]["scores"]
    assert json.loads((run / "eval.json").read_text())["value"] == lines[1]["value"]


def test_a_score_says_all_that_it_depends_on(run: Path) -> None:
    evaluate(run, "--refresh")
    found, protocol = newest(run), newest(run)["protocol"]
    assert protocol["encoder"] == "digits-cnn"
    assert len(protocol["weights"]) == len(protocol["reference"]) == len(found["model"]) == 64
    assert (protocol["image_shape"], protocol["images"], protocol["reference_images"]) == ([1, 8, 8], 20, 297)
    assert protocol["labels"] == "balanced"
    assert found["reference"] == "held-out split of digits"
    assert (found["step"], found["ema_decay"], found["seed"]) == (tiny.STEPS, 0.3, 0)
    assert (found["solver"]["name"], found["sample"]["steps"], found["precision"]) == ("heun", 1, "fp32")
    assert found["torch"] == torch.__version__
    assert found["title"] == "FD-20 (digits-cnn)"
    assert comparable(found, newest(run))


def test_all_metrics_at_once_have_a_score_each_and_one_of_real_images(run: Path, capsys: Capture) -> None:
    assert evaluate(run, "--metric", METRICS, "--num", 30) == 0
    found = {score["metric"].split(" ")[0]: score for score in newest(run)["scores"]}
    assert list(found) == ["FD", "KID", "precision", "recall", "IS", "MIND"]
    for name, score in found.items():
        better = (score["value"] - score["real_value"]) * (1 if score["higher_is_better"] else -1)
        assert better < 0, name
    assert found["IS"]["reference"] == found["IS"]["protocol"]["reference"] == ""
    assert found["precision"]["neighbours"] == 3
    out = capsys.readouterr().out
    assert "FD-30 (digits-cnn)" in out
    assert "network: digits-cnn (SHA-256 " in out


def test_another_step_average_scale_or_solver_is_another_score(run: Path) -> None:
    ways = [(), ("--step", 3), ("--ema", "none"), ("--scale", 4), ("--sample.steps", 3), ("--guidance.low", 0.9),
            ("--solver", "euler"), ("--seed", 5), ("--num", 21), ("--labels", "data")]  # fmt: skip
    for way in ways:
        assert evaluate(run, *way, "--refresh", "--sample.steps", 2, *way) == 0
    lines = tiny.lines(run / "evals.jsonl")[1:]
    assert len({line["key"] for line in lines}) == len(ways)
    assert len({line["value"] for line in lines}) >= len(ways) - 1  # one Heun step is one Euler step, two are not
    assert lines[1]["step"] == 3
    assert lines[2]["ema_decay"] is None


def test_several_seeds_have_a_line_each_and_mean_and_spread(run: Path, capsys: Capture) -> None:
    assert evaluate(run, "--seeds", "3,4,5") == 0
    values = [line["value"] for line in tiny.lines(run / "evals.jsonl")[1:]]
    assert len(set(values)) == 3
    out = capsys.readouterr().out
    assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" in out
    assert "over the seeds 3, 4, 5" in out
    assert evaluate(run, "--seeds", "5,6") == 0
    assert "seed 5 was measured before" in capsys.readouterr().out
    assert len(tiny.lines(run / "evals.jsonl")) == 5


def test_neither_the_batch_size_nor_a_full_cache_changes_a_score(run: Path, cache: Path) -> None:
    evaluate(run, "--refresh", "--no-cache")
    evaluate(run, "--refresh")
    assert list((cache / "moments").iterdir())
    evaluate(run, "--refresh", "--sample.batch-size", 7)
    values = [line["value"] for line in tiny.lines(run / "evals.jsonl")]
    assert values == pytest.approx([values[0]] * 4, rel=1e-4)  # float32 features in other batches


def test_what_is_odd_is_noted(run: Path, capsys: Capture) -> None:
    evaluate(run, "--metric", "fd=digits-vit", "--num", 12)
    (aligned,) = newest(run)["notes"]
    assert "trained with the features of digits-vit, which score it too" in aligned
    assert f"note: {aligned}" in capsys.readouterr().out
    saved = checkpoint.load(run / "checkpoints" / f"step-{tiny.STEPS:08d}")
    same = {**saved.tensors, "ema-0": saved.tensors["model"]}
    shutil.rmtree(run / "checkpoints" / f"step-{tiny.STEPS:08d}")
    checkpoint.save(run / "checkpoints", checkpoint.Checkpoint(step=saved.step, tensors=same, state=saved.state), 9)
    evaluate(run, "--num", 12)
    assert newest(run)["notes"][0].startswith("average 0 of the weights is the last weights, bit by bit")


def test_samples_that_are_copies_are_noted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vco.sampling.sample.to_uint8", lambda images: torch.zeros_like(to_uint8(images)))
    evaluate(run, "--num", 12)
    assert newest(run)["notes"] == [
        "11 of 12 samples are copies of others, pixel by pixel", "12 of 12 samples have a single color"
    ]  # fmt: skip


def test_a_run_without_data_at_hand_is_scored_against_a_file(run: Path, tmp_path: Path, capsys: Capture) -> None:
    reference = tmp_path / "reference.safetensors"
    assert evaluate("reference", run, "--split", "test", "--out", reference) == 0
    with pytest.MonkeyPatch.context() as patch:

        def gone(self: object) -> None:
            raise vco.errors.UserError("the images are gone; set --data.root")

        patch.setattr("vco_plugins.data.digits.Digits.check", gone, raising=False)
        assert "the images are gone; set --data.root; or say with --against" in refused(capsys, run, "--refresh")
        assert evaluate(run, "--against", reference) == 0
    found, before = newest(run), tiny.lines(run / "evals.jsonl")[0]
    assert found["value"] == before["value"]
    assert found["real_value"] is None
    assert comparable(found, before)


# ----------------------------------------------------------------------------------------------------------- references


def test_one_set_of_images_is_held_against_several_references(run: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "test.safetensors", tmp_path / "train.npz"
    assert evaluate("reference", run, "--split", "test", "--out", ours) == 0
    assert evaluate("reference", run, "--out", theirs) == 0
    against = [part for what in ("test", ours, "train", theirs) for part in ("--against", what)]
    assert evaluate(run, *against) == 0
    test, file, train, npz = newest(run)["scores"]
    assert test["value"] == pytest.approx(file["value"], rel=1e-9)
    assert train["value"] == pytest.approx(npz["value"], rel=1e-9)
    assert test["protocol_hash"] == file["protocol_hash"] != train["protocol_hash"] == npz["protocol_hash"]
    assert test["real_value"] == pytest.approx(file["real_value"], rel=1e-9)
    assert train["real_value"] != test["real_value"]
    assert [score["protocol"]["reference_images"] for score in (test, npz)] == [297, 1500]


def test_a_published_file_with_images_gives_moments_to_fd_and_images_to_others(
    run: Path, images: Path, tmp_path: Path
) -> None:
    """As ADM's: FD is held against the moments of the whole set, precision and recall against the images beside it."""
    evaluate("reference", run, "--out", tmp_path / "train.npz")
    with np.load(tmp_path / "train.npz") as file:
        stored = {name: file[name] for name in file}
    pictures = np.stack([np.array(Image.open(path)) for path in sorted(images.glob("*.png"))])[..., None]
    np.savez(tmp_path / "both.npz", arr_0=pictures, **stored)
    assert evaluate(run, "--against", tmp_path / "both.npz", "--metric", "fd=digits-cnn,prc=digits-cnn") == 0
    fd, precision, recall = newest(run)["scores"]
    assert (fd["protocol"]["reference_images"], precision["protocol"]["reference_images"]) == (1500, 20)
    assert precision["value"] == recall["value"] == 1.0  # these are the very samples
    assert evaluate(run, "--against", "train") == 0
    assert newest(run)["value"] == pytest.approx(fd["value"], rel=1e-9)


def test_a_reference_may_be_balanced_or_of_fewer_images_and_says_so(run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert evaluate("reference", run, "--labels", "balanced", "--out", tmp_path / "a.npz") == 0
    assert "part of the training split of digits, 1,420 images of 1x8x8, labels balanced" in capsys.readouterr().out
    assert evaluate("reference", run, "--num", "50", "--out", tmp_path / "b.npz") == 0
    assert "moments of part of the training split of digits, 50 images" in capsys.readouterr().out
    assert evaluate(run, "--against", tmp_path / "a.npz", "--against", tmp_path / "b.npz") == 0
    hashes = {score["protocol"]["reference"] for score in newest(run)["scores"]}
    assert len(hashes) == 2


def test_a_reference_of_images_in_files_serves_images_in_files(images: Path, tmp_path: Path) -> None:
    reference, found = tmp_path / "reference.npz", tmp_path / "found.jsonl"
    assert evaluate("reference", images, "--metric", "fd=digits-cnn", "--out", reference) == 0
    # the metric is that of the reference
    assert evaluate(images, "--against", reference, "--against", images, "--evals", found) == 0
    file, folder = tiny.lines(found)[-1]["scores"]
    assert file["value"] == pytest.approx(0, abs=1e-5)  # roots of rounding: 20 images span 19 of 64 dimensions
    assert folder["protocol_hash"] == file["protocol_hash"]
    assert file["metric"] == "FD (digits-cnn)"


# --------------------------------------------------------------------------------------------------------------- images


def test_images_in_a_folder_or_an_npz_file_have_the_score_of_the_run(
    run: Path, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    pictures = np.stack([np.array(Image.open(path)) for path in sorted(images.glob("*.png"))])[..., None]
    np.savez(tmp_path / "some.npz", images=pictures, labels=np.arange(20) % 10)
    expected = tiny.lines(run / "evals.jsonl")[0]
    for what, law in ((images, ("--labels", "balanced")), (tmp_path / "some.npz", ())):
        found = tmp_path / "found.jsonl"
        assert evaluate(what, "--against", run, *law, "--evals", found) == 0
        line = tiny.lines(found)[-1]
        assert line["value"] == pytest.approx(expected["value"], rel=1e-9)
        assert line["real_value"] == pytest.approx(expected["real_value"], rel=1e-9)
        assert comparable(line, expected)
        assert line["images_sha256"] == expected["images_sha256"]
    assert evaluate(images, "--against", run) == 0
    assert "note: nobody says which classes the images have" in capsys.readouterr().out


def test_a_score_that_looks_at_no_real_images_needs_none(images: Path, tmp_path: Path) -> None:
    assert evaluate(images, "--metric", "is=digits-cnn", "--evals", tmp_path / "found.jsonl") == 0
    (line,) = tiny.lines(tmp_path / "found.jsonl")
    assert line["value"] > 1
    assert line["real_value"] is None


# --------------------------------------------------------------------------------------------------------------- sweeps


def test_a_sweep_keeps_all_and_reports_the_best_on_fresh_seeds(run: Path, capsys: Capture) -> None:
    command = ("sweep", run, "--scales", "0,1,3", "--emas", "0,none", "--steps", "1,2", "--seeds", "0,1")
    assert evaluate(*command, "--sweep-seeds", "100,101", "--sweep-num", "12") == 0
    lines = tiny.lines(run / "evals.jsonl")[1:]
    swept, reported = lines[:24], lines[24:]
    assert {line["by"] for line in swept} == {"vco eval sweep"}
    assert {line["by"] for line in reported} == {"vco eval"}
    assert {line["seed"] for line in swept} == {100, 101}
    assert [line["seed"] for line in reported] == [0, 1]
    assert {line["samples"] for line in swept} == {12}
    means: dict[str, list[float]] = {}
    for line in swept:
        means.setdefault(json.dumps(line["sweep"]), []).append(line["value"])
    assert len(means) == 12
    best = json.loads(min(means, key=lambda setting: np.mean(means[setting])))
    for line in reported:
        assert line["guidance"]["scale"] == float(best["scale"])
        assert line["sample"]["steps"] == int(best["steps"])
        assert (line["ema_decay"] is None) == (best["ema"] is None)
        assert line["samples"] == 20
        assert line["real_value"] is not None
    out = capsys.readouterr().out
    assert f"best: scale {best['scale']}, steps {best['steps']}, ema {'none' if best['ema'] is None else 0}" in out
    assert "none of which is reported" in out


def test_a_sweep_goes_on_where_it_was_stopped(run: Path, capsys: Capture) -> None:
    command = ("sweep", run, "--scales", "1,2,3", "--sweep-num", "12")
    assert evaluate(*command) == 0
    whole = tiny.lines(run / "evals.jsonl")
    (run / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in whole[:3]))
    capsys.readouterr()
    assert evaluate(*command) == 0
    assert capsys.readouterr().out.count("was measured before") == 2
    again = tiny.lines(run / "evals.jsonl")
    assert [line["value"] for line in again] == [line["value"] for line in whole]


def test_a_seed_for_choosing_is_never_reported(run: Path, capsys: Capture) -> None:
    said = refused(capsys, "sweep", run, "--scales", "1,2", "--seeds", "1000")
    assert "seed 1000 is both for choosing and for reporting" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to try: name values with --scales"),
        (("--scales", "1,x"), "'1,x' are not different numbers"),
        (("--scales", "1,1.0"), "not different numbers"),
        (("--lows", "0.9", "--highs", "1,0.5"), "guidance"),
        (("--emas", "0,7"), "no running average number 7"),
        (("--steps", "1,0"), "sample.steps"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_measured(
    arguments: tuple[str, ...], said: str, run: Path, capsys: Capture
) -> None:
    before = (run / "evals.jsonl").read_text()
    assert said in refused(capsys, "sweep", run, *arguments)
    assert (run / "evals.jsonl").read_text() == before


# ----------------------------------------------------------------------------------------------------------- neighbours


def test_neighbours_are_drawn_and_copies_are_found(run: Path, tmp_path: Path, capsys: Capture) -> None:
    picture = tmp_path / "neighbours.png"
    assert evaluate(run, "--neighbours", "6", "--out", picture) == 0
    with Image.open(picture) as found:
        assert found.size[0] > 5 * 48
    assert "of 6 samples are nearer than" in capsys.readouterr().out

    data = vco_data()
    learned = torch.stack([data.image(index, None) for index in range(6)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vco.commands.eval_neighbours.sample_many", lambda *_: iter([learned]))
        assert evaluate(run, "--neighbours", "6", "--out", picture) == 0
    out = capsys.readouterr().out
    assert "6 of 6 samples are nearer than" in out
    assert "more than chance" in out
    assert "6 of 6 samples have the features of a training image: they are copies" in out


def vco_data() -> Any:
    from vco.api import Data, DataSetting
    from vco_plugins.data.digits import Digits

    return Digits(Data.Config(), DataSetting()).train()


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--num", "1"), "argument --num: '1' is no number from 2 on"),
        (("--num", "3", "--metric", "prc=digits-cnn"), "and there are 3 and 297: set --num to at least 4"),
        (("--scale", "x"), "guidance.scale: expected float, got 'x'"),
        (("--step", "4"), "there is no checkpoint of step 4"),
        (("--ema", "7"), "no running average number 7"),
        (("--metric", "none"), "there is no metric to score with; name one"),
        (("--metric", "kid"), "kid needs an encoder: write --metric kid=ENCODER"),
        (("--train.steps", "9"), "train.steps cannot be changed after training"),
        (("--against", "nowhere"), "--against nowhere: there is no such file or folder"),
        (("--seeds", "1,1"), "'1,1' are not different whole numbers"),
        (("--labels", "mine"), "invalid choice: 'mine'"),
        (("--nonsense", "3"), "--nonsense: unknown option"),
        (("--neighbours", "3"), "say where the picture of the neighbours goes"),
        (("--metric", "fd=inception"), "weights are missing"),
    ],
)
def test_what_cannot_be_is_refused_with_one_sentence(
    arguments: tuple[str, ...], said: str, finished: Path, capsys: Capture
) -> None:
    assert said in refused(capsys, finished, *arguments)


def test_images_are_refused_with_one_sentence(finished: Path, images: Path, tmp_path: Path, capsys: Capture) -> None:
    assert "holds 20 images, and --num asks for 21" in refused(capsys, images, "--num", 21, "--against", finished)
    assert "there are no PNG or JPEG images" in refused(capsys, tmp_path, "--against", finished)
    assert "--scale can be said of a run" in refused(capsys, images, "--scale", 2, "--against", finished)
    assert "fd holds images against real ones" in refused(capsys, images)
    assert "these images are of no run" in refused(capsys, images, "--against", "test")
    assert "--solver acts in sampling" in refused(capsys, images, "--solver", "euler", "--against", finished)
    told = refused(capsys, images, "--against", images)  # through Inception, which is not here
    assert "give --metric.fd.inception.weights FILE; or score through another network, as in --metric fd=dinov2" in told
    assert "another network" not in refused(capsys, images, "--against", images, "--metric", "fd=inception")
    np.savez(tmp_path / "large.npz", images=np.zeros((3, 16, 16, 1), np.uint8))
    said = refused(capsys, images, "--against", tmp_path / "large.npz", "--metric", "fd=digits-cnn")
    assert "are 1x8x8, and those of the images in large.npz 1x16x16" in said


def test_a_reference_is_refused_with_one_sentence(
    finished: Path, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    reference = tmp_path / "reference.npz"
    assert "end its name so" in refused(capsys, "reference", finished, "--out", tmp_path / "reference.txt")
    assert "has 1,500 images, and --num asks for 1,501" in refused(
        capsys, "reference", finished, "--num", 1501, "--out", reference
    )
    assert "one metric that moments are enough for" in refused(
        capsys, "reference", finished, "--metric", "kid=digits-cnn", "--out", reference
    )
    evaluate("reference", finished, "--out", reference)
    assert "was made with another extractor, digits-cnn" in refused(
        capsys, finished, "--metric", "fd=digits-vit", "--against", reference
    )
    assert "metric kid needs real images, and of the training split of digits only the moments are known" in refused(
        capsys, images, "--metric", "kid=digits-cnn", "--against", reference
    )


def test_data_of_other_classes_are_refused(run: Path, tmp_path: Path, capsys: Capture) -> None:
    facts = run / "facts.yaml"
    other = Path(shutil.copytree(run, tmp_path / "other"))
    (other / "facts.yaml").write_text(facts.read_text().replace("num_classes: 10", "num_classes: 12"))
    assert "knows 12 classes, and the data set that it is held against has 10" in refused(capsys, other)


def test_help_is_instant_and_names_all_that_may_be_done(capsys: Capture) -> None:
    for verb, words in (((), "--neighbours"), (("sweep",), "--sweep-seeds"), (("reference",), "--split")):
        with pytest.raises(SystemExit):
            evaluate(*verb, "--help")
        assert words in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_measure_what_one_does(run: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    command = ["eval", str(run), "--metric", METRICS, "--num", "31", "--against", "test", "--against", "train"]
    assert main_vco([*command, "--evals", str(tmp_path / "one.jsonl")]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    program = [sys.executable, "-c", "import sys; from vco.cli import main_vco; sys.exit(main_vco(sys.argv[1:]))"]
    devices = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    more = ["--evals", str(tmp_path / "two.jsonl"), "--sample.batch-size", "9"]
    done = subprocess.run(
        [*launcher, "--", *program, *command, *more],
        env=os.environ | devices, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (one,), (two,) = (tiny.lines(tmp_path / f"{name}.jsonl") for name in ("one", "two"))
    assert one["images_sha256"] == two["images_sha256"]
    assert one["key"] == two["key"]
    for ours, theirs in zip(one["scores"], two["scores"], strict=True):
        assert ours["protocol_hash"] == theirs["protocol_hash"]
        assert theirs["value"] == pytest.approx(ours["value"], rel=1e-6)
        assert theirs["real_value"] == pytest.approx(ours["real_value"], rel=1e-6)


@pytest.mark.slow
def test_an_image_that_one_of_two_processes_cannot_read_is_one_sentence(
    run: Path, images: Path, tmp_path: Path
) -> None:
    import subprocess
    import sys

    spoilt = Path(shutil.copytree(images, tmp_path / "spoilt")) / "001.png"  # the second process reads it
    spoilt.write_bytes(spoilt.read_bytes()[:-30])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    devices = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = ["vco", "eval", str(spoilt.parent), "--against", str(run), "--no-baseline"]
    done = subprocess.run([*launcher, *command], env=os.environ | devices, capture_output=True, text=True, timeout=240)
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("vco eval: "))
    assert said.startswith(f"vco eval: process 1: the image {spoilt} cannot be read (")


def test_a_run_folder_without_its_settings_is_no_folder_of_images(run: Path, capsys: Capture) -> None:
    (run / "config.yaml").unlink()
    assert "holds checkpoints, but it is not the folder of a run: it has no config.yaml" in refused(capsys, run)


def test_labels_that_the_data_have_not_are_one_sentence(run: Path, tmp_path: Path, capsys: Capture) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "odd.npz", images=images, labels=np.full(12, 55))
    said = refused(capsys, tmp_path / "odd.npz", "--against", run)
    assert "the images have the label 55, and what they are held against has 10 classes" in said
    assert evaluate(tmp_path / "odd.npz", "--against", run, "--labels", "balanced") == 0


def test_scores_that_could_not_be_written_are_not_measured(run: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "folder").mkdir()
    assert "name another file: --evals FILE" in refused(capsys, run, "--evals", tmp_path / "folder")


def test_a_part_of_a_folder_is_noted(images: Path, run: Path, capsys: Capture) -> None:
    assert evaluate(images, "--against", run, "--num", "12") == 0
    assert "12 of 20 images are scored: drawn at random, always the same ones" in capsys.readouterr().out


def test_a_part_of_sampled_images_has_the_score_of_fewer_samples(run: Path, tmp_path: Path, capsys: Capture) -> None:
    for count in (20, 12):
        assert main_vco(["sample", str(run), "--num", str(count), "--out", str(tmp_path / f"{count}.npz")]) == 0
        command = (tmp_path / f"{count}.npz", "--against", run, "--num", "12", "--evals", tmp_path / "found.jsonl")
        assert evaluate(*command) == 0
    one, other = tiny.lines(tmp_path / "found.jsonl")
    assert one["images_sha256"] == other["images_sha256"]
    assert one["value"] == other["value"]
    assert "12 of 20 images are scored: the first, as `vco sample` has made them" in capsys.readouterr().out
