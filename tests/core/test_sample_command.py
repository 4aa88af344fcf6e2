"""`vco sample`: what it writes, how it goes on, and what it says to what cannot be."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import finished
import numpy as np
import pytest
import tiny
import torch
import yaml
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import vco
from vco.cli import main_run, main_vco
from vco.content import of_weights
from vco.sampling import generate
from vco.sampling.npz_file import NpzFile
from vco.sampling.outputs import Output
from vco.sampling.png_folder import PngFolder
from vco.sampling.sample import encode_png, grid_classes, sample_many
from vco.storage.files import lock

Capture = pytest.CaptureFixture[str]
BATCH = 8
"""Images per batch, in `finished`."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tiny.Training:
    return finished.finish(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def run(trained: tiny.Training) -> Path:
    return trained.folder.path


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "copied"))


def vco_sample(*argv: object) -> int:
    return main_vco(["sample", *map(str, argv)])


def pngs(folder: Path) -> Tensor:
    """The images in a folder, [n, h, w, c] of one channel."""
    files = sorted(folder.glob("*.png"))
    return torch.stack([torch.from_numpy(np.array(Image.open(path)))[..., None] for path in files])


def npz(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        return dict(file)


def sentence(capsys: Capture) -> str:
    """The one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


# ----------------------------------------------------------------------------------------------------- what it writes


def test_a_folder_holds_images_labels_and_what_they_are(run: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "images"
    assert vco_sample(run, "--num", 12, "--out", out, "--seed", 3, "--scale", 2) == 0
    assert sorted(path.name for path in out.glob("*.png")) == [f"{i:06d}.png" for i in range(12)]
    table = list(csv.reader((out / "labels.csv").read_text().splitlines()))
    assert table[0] == ["file", "label", "class"]
    assert table[1:] == [[f"{i:06d}.png", str(i % 10), str(i % 10)] for i in range(12)]
    said = json.loads((out / "sample.json").read_text())
    assert {"num": 12, "complete": True, "seed": 3, "labels": "balanced", "step": 2, "ema": 0}.items() <= said.items()
    assert (said["guidance"]["scale"], said["steps"], said["solver"]["name"]) == (2.0, 3, "heun")
    averaged = vco.open_run(run).model
    saved = load_file(run / "checkpoints" / "step-00000002" / "ema-0.safetensors")
    averaged.load_state_dict(saved)
    assert said["weights"] == of_weights(averaged)
    assert said["run"] == str(run)
    out_text = capsys.readouterr().out
    assert "12 images of" in out_text
    assert "guidance structural 2" in out_text
    assert "on cpu, 1 process" in out_text
    assert f"{out}: 12 images (12 made now" in out_text
    with Image.open(tmp_path / "images-grid.png") as grid:
        assert grid.width == 10 * (48 + 2) + 2  # a column is a class


def test_an_npz_file_holds_the_same_images(run: Path, tmp_path: Path) -> None:
    assert vco_sample(run, "--num", 12, "--out", tmp_path / "images") == 0
    assert vco_sample(run, "--num", 12, "--out", tmp_path / "images.npz") == 0
    found = npz(tmp_path / "images.npz")
    assert found.keys() == {"images", "labels", "sample"}
    assert (found["images"].dtype, found["labels"].dtype) == (np.uint8, np.int64)
    assert torch.equal(torch.from_numpy(found["images"]), pngs(tmp_path / "images"))
    assert found["labels"].tolist() == [i % 10 for i in range(12)]
    assert json.loads(str(found["sample"])) == json.loads((tmp_path / "images" / "sample.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "images-grid.png", "images.npz"]


def test_the_images_are_those_of_the_python_door_and_of_vco_run(
    run: Path, trained: tiny.Training, tmp_path: Path
) -> None:
    assert vco_sample(run, "--num", 20, "--out", tmp_path / "images") == 0
    images, labels = pngs(tmp_path / "images").permute(0, 3, 1, 2), torch.arange(20) % 10
    assert torch.equal(vco.open_run(run).sample(labels), images)
    assert torch.equal(torch.cat(list(sample_many(trained.run, trained.averaged(), labels, range(20)))), images)
    assert images.unique(dim=0).shape[0] == 20


def test_the_grid_of_a_run_can_be_sampled_again(tmp_path: Path) -> None:
    assert main_run(tiny.argv(tmp_path, "--metric", "none", "--sample.grid-rows", "2", "--seed", "5")) == 0
    images = vco.open_run(tmp_path).sample(grid_classes(10).repeat(2), seed=5)
    assert encode_png(images, 10) == (tmp_path / "samples" / f"step-{tiny.STEPS:08d}.png").read_bytes()


def test_labels_may_be_listed_or_be_as_the_data(copied: Path, tmp_path: Path) -> None:
    assert vco_sample(copied, "--num", 7, "--out", tmp_path / "listed.npz", "--labels", "0,3,3") == 0
    assert npz(tmp_path / "listed.npz")["labels"].tolist() == [0, 3, 3, 0, 3, 3, 0]
    facts = yaml.safe_load((copied / "facts.yaml").read_text())
    counts = [0, 0, 4, 0, 0, 8, 0, 0, 0, 0]
    (copied / "facts.yaml").write_text(yaml.safe_dump({**facts, "class_counts": {"train": counts}}))
    assert vco_sample(copied, "--num", 24, "--out", tmp_path / "data.npz", "--labels", "data") == 0
    labels = npz(tmp_path / "data.npz")["labels"]
    assert (labels == 2).sum() == 8
    assert (labels == 5).sum() == 16
    with Image.open(tmp_path / "listed-grid.png") as grid:
        assert grid.width == 3 * (48 + 2) + 2


def test_a_listed_label_gives_the_image_that_it_gives_in_python(run: Path, tmp_path: Path) -> None:
    assert vco_sample(run, "--num", 5, "--out", tmp_path / "a", "--labels", "4,1", "--seed", 9, "--ema", "none") == 0
    expected = vco.open_run(run, ema=None).sample([4, 1, 4, 1, 4], seed=9)
    assert torch.equal(pngs(tmp_path / "a"), expected.permute(0, 2, 3, 1))
    assert not torch.equal(expected, vco.open_run(run).sample([4, 1, 4, 1, 4], seed=9))


def test_options_of_vco_run_that_act_in_sampling_are_taken(run: Path, tmp_path: Path) -> None:
    options = ["--solver", "euler", "--sample.steps=4", "--guidance.low", "0.2", "--guidance.feature-scale", "1.2"]
    assert vco_sample(*options, run, "--num", 4, "--out", tmp_path / "a") == 0  # wherever they stand
    expected = vco.open_run(run, options=options).sample([0, 1, 2, 3])
    assert torch.equal(pngs(tmp_path / "a"), expected.permute(0, 2, 3, 1))
    assert not torch.equal(expected, vco.open_run(run).sample([0, 1, 2, 3]))
    said = json.loads((tmp_path / "a" / "sample.json").read_text())
    assert (said["solver"]["name"], said["steps"], said["guidance"]["feature_scale"]) == ("euler", 4, 1.2)


def test_a_plugin_that_is_not_installed_can_be_named(tmp_path: Path) -> None:
    finished.finish(tmp_path / "run", *tiny.TOY, "--loss", "none")
    assert vco_sample(tmp_path / "run", "--num", 2, "--out", tmp_path / "a", "--plugin", "toy_plugin") == 0
    assert len(pngs(tmp_path / "a")) == 2


# --------------------------------------------------------------------------------------- batches, processes, and kills


@pytest.mark.parametrize("size", [1, 7, 30])
def test_images_do_not_depend_on_the_batch_size(size: int, run: Path, tmp_path: Path) -> None:
    assert vco_sample(run, "--num", 20, "--out", tmp_path / "a", "--batch-size", size) == 0
    assert torch.equal(pngs(tmp_path / "a"), vco.open_run(run).sample(torch.arange(20) % 10).permute(0, 2, 3, 1))


def share(index: int, count: int) -> Accelerator:
    """What one of several processes knows of them."""
    device = torch.device("cpu")
    known = {"process_index": index, "num_processes": count, "is_main_process": index == 0, "device": device}
    return Mock(spec=Accelerator, **known)


def test_shares_of_several_processes_make_the_images_of_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vco_sample(run, "--num", 36, "--out", tmp_path / "one") == 0
    blocks: list[Any] = []

    def broadcast(objects: list[Any]) -> list[Any]:
        blocks.extend(objects if not blocks else [])  # the first process is the first that is asked
        return blocks

    monkeypatch.setattr(generate, "broadcast_object_list", broadcast)
    finish, shares = PngFolder.finish, list[int]()

    def counted(self: PngFolder, request: Any) -> None:
        if len(shares) == 2:  # those of all processes are there
            finish(self, request)

    monkeypatch.setattr(PngFolder, "finish", counted)
    monkeypatch.setattr(PngFolder, "first", lambda self, count: torch.zeros(count, 1, 8, 8, dtype=torch.uint8))  # pyright: ignore
    for index in range(3):
        monkeypatch.setattr("vco.distributed.connect_processes", lambda config, i=index: share(i, 3))
        assert vco_sample(run, "--num", 36, "--out", tmp_path / "three") == 0
        shares.append(len(list((tmp_path / "three").glob("*.png"))) - sum(shares))
    assert shares == [16, 12, 8]  # five blocks of 8, 8, 8, 8 and 4 images in turn
    for path in sorted((tmp_path / "one").glob("*.png")):
        assert path.read_bytes() == (tmp_path / "three" / path.name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".npz"])
def test_two_processes_write_what_one_writes(suffix: str, run: Path, tmp_path: Path) -> None:
    """Two launches of about ten seconds."""
    assert vco_sample(run, "--num", 36, "--out", tmp_path / f"one{suffix}") == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "--", "vco", "sample", str(run), "--num", "36"]
    devices = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command += ["--out", str(tmp_path / f"two{suffix}")]
    done = subprocess.run(command, env=os.environ | devices, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "on cpu, 2 processes" in done.stdout
    assert done.stdout.count("36 images (36 made now") == 1
    if suffix:
        one, two = (npz(tmp_path / f"{name}.npz") for name in ("one", "two"))
        assert all(np.array_equal(one[name], two[name]) for name in ("images", "labels"))
    else:
        assert torch.equal(pngs(tmp_path / "one"), pngs(tmp_path / "two"))


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sampling is killed at its third batch."""
    sample, calls = generate.sample, list[int]()

    def until_killed(*given: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(*given)

    with monkeypatch.context() as patch:
        patch.setattr(generate, "sample", until_killed)
        yield


def test_a_killed_command_goes_on_where_it_was(run: Path, tmp_path: Path, interrupted: None, capsys: Capture) -> None:
    out = tmp_path / "a"
    assert vco_sample(run, "--num", 30, "--out", out) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert len(before) == 16
    assert json.loads((out / "sample.json").read_text())["complete"] is False
    (out / ".000003.png.99.tmp").write_bytes(b"half")  # as a kill in the midst of writing leaves it
    (out / "000005.png").unlink()
    assert vco_sample(run, "--num", 30, "--out", out) == 0
    assert "30 images (22 made now" in capsys.readouterr().out  # 14 new ones, and the batch that lacks one
    assert torch.equal(pngs(out), vco.open_run(run).sample(torch.arange(30) % 10).permute(0, 2, 3, 1))
    assert [path.name for path in out.glob(".*")] == [".lock"]
    assert all(path.stat().st_mtime_ns == before[path] for path in sorted(before)[8:])


def test_a_killed_npz_goes_on_with_another_batch_size(
    run: Path, tmp_path: Path, interrupted: None, capsys: Capture
) -> None:
    out = tmp_path / "a.npz"
    assert vco_sample(run, "--num", 30, "--out", out) == 130
    assert not out.exists()
    assert len(list((tmp_path / ".a.npz.parts").glob("*.npy"))) == 2
    capsys.readouterr()
    assert vco_sample(run, "--num", 30, "--out", out, "--batch-size", 10) == 0
    assert "30 images (20 made now" in capsys.readouterr().out  # 0 to 15 were there; 10 to 19 and 20 to 29 are made
    assert torch.equal(
        torch.from_numpy(npz(out)["images"]), vco.open_run(run).sample(torch.arange(30) % 10).permute(0, 2, 3, 1)
    )
    assert not (tmp_path / ".a.npz.parts").exists()


@pytest.mark.parametrize("name", ["a", "a.npz"])
def test_what_is_there_is_not_made_again(name: str, run: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / name
    files: list[dict[Path, int]] = []
    for _ in range(2):
        assert vco_sample(run, "--num", 10, "--out", out) == 0
        found = [path for path in tmp_path.rglob("*") if path.suffix in (".npz", ".png") and "grid" not in path.name]
        files.append({path: path.stat().st_mtime_ns for path in found})
    assert files[0] == files[1]
    assert "10 images (all there before)" in capsys.readouterr().out
    assert not list(tmp_path.glob(".*"))


def test_a_folder_takes_more_images_and_not_fewer(run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert vco_sample(run, "--num", 10, "--out", tmp_path / "a") == 0
    assert vco_sample(run, "--num", 20, "--out", tmp_path / "a") == 0
    assert len((tmp_path / "a" / "labels.csv").read_text().splitlines()) == 21
    assert torch.equal(pngs(tmp_path / "a"), vco.open_run(run).sample(torch.arange(20) % 10).permute(0, 2, 3, 1))
    capsys.readouterr()
    assert vco_sample(run, "--num", 10, "--out", tmp_path / "a") == 2
    assert "was begun with 20 images, and 10 are asked for: set --num 20 or more" in sentence(capsys)


def test_a_file_is_for_its_number_of_images(run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert vco_sample(run, "--num", 4, "--out", tmp_path / "a.npz") == 0
    capsys.readouterr()
    assert vco_sample(run, "--num", 5, "--out", tmp_path / "a.npz") == 2
    assert "is for 4 images, and 5 are asked for: set --num 4, or choose another --out" in sentence(capsys)


@pytest.mark.parametrize("name", ["a", "a.npz"])
@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--scale", "3"], "guidance.scale: 1.5 there, 3.0 here"),
        (["--seed", "1"], "seed: 0 there, 1 here"),
        (["--labels", "3"], "labels: balanced there, 3 here"),
        (["--ema", "1"], "ema: 0 there, 1 here"),
        (["--solver", "euler"], "solver.name: heun there, euler here"),
    ],
)
def test_images_of_another_request_are_not_mixed(
    name: str, options: Sequence[str], difference: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / name
    assert vco_sample(run, "--num", 2, "--out", out) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert vco_sample(run, "--num", 2, "--out", out, *options) == 2
    assert difference in sentence(capsys)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_moved_run_goes_on_with_its_images(run: Path, copied: Path, tmp_path: Path) -> None:
    assert vco_sample(run, "--num", 2, "--out", tmp_path / "a") == 0
    assert vco_sample(copied, "--num", 4, "--out", tmp_path / "a") == 0


def test_other_weights_are_another_request(copied: Path, tmp_path: Path, capsys: Capture) -> None:
    assert vco_sample(copied, "--num", 2, "--out", tmp_path / "a") == 0
    said = json.loads((tmp_path / "a" / "sample.json").read_text())
    (tmp_path / "a" / "sample.json").write_text(json.dumps({**said, "weights": "0" * 64}))
    capsys.readouterr()
    assert vco_sample(copied, "--num", 2, "--out", tmp_path / "a") == 2
    assert "the run has other weights" in sentence(capsys)


# ------------------------------------------------------------------------------------------------------ memory, threads


def test_at_most_two_batches_are_in_memory(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, alive, most = generate.sample, list[weakref.ref[Tensor]](), list[int]()

    def noted(*given: Any) -> Tensor:
        images = sample(*given)
        alive.append(weakref.ref(images))
        most.append(sum(ref() is not None for ref in alive))
        return images

    monkeypatch.setattr(generate, "sample", noted)
    assert vco_sample(run, "--num", 64, "--out", tmp_path / "a") == 0
    assert len(most) == 8
    assert max(most) <= 2


def test_images_are_written_while_the_next_are_made(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, sample = PngFolder._write_one, generate.sample
    spans: list[tuple[str, float, float]] = []

    def slowly(self: PngFolder, index: int, image: Tensor) -> None:
        began = time.perf_counter()
        time.sleep(0.05)
        write(self, index, image)
        spans.append(("write", began, time.perf_counter()))

    def noted(*given: Any) -> Tensor:
        began = time.perf_counter()
        images = sample(*given)
        spans.append(("sample", began, time.perf_counter()))
        return images

    monkeypatch.setattr(PngFolder, "_write_one", slowly)
    monkeypatch.setattr(generate, "sample", noted)
    assert vco_sample(run, "--num", 24, "--out", tmp_path / "a") == 0
    writes, samples = ([s for s in spans if s[0] == name] for name in ("write", "sample"))
    assert any(w[1] < s[2] and s[1] < w[2] for w in writes for s in samples[1:])
    assert len(writes) == 24


def test_what_a_writing_thread_meets_ends_the_command(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: PngFolder, index: int, image: Tensor) -> None:
        raise OSError(28, "No space left on device", str(self.image(index)))

    with monkeypatch.context() as patch:
        patch.setattr(PngFolder, "_write_one", full)
        assert vco_sample(run, "--num", 4, "--out", tmp_path / "a") == 1
    assert "No space left on device" in sentence(capsys)
    assert vco_sample(run, "--num", 4, "--out", tmp_path / "a") == 0


def test_a_large_file_is_one_that_numpy_reads(tmp_path: Path) -> None:
    """The parts of a file need not be in memory together, whatever they hold."""
    from vco.facts import RunFacts
    from vco.sampling.request import Request

    facts = RunFacts(image_shape=(3, 5, 4), num_classes=2, features={})
    request = Request(num=7, seed=0, labels="1,0", facts=facts, model={"step": 1})
    output, images = NpzFile(tmp_path / "a.npz"), torch.randint(0, 256, (7, 3, 5, 4), dtype=torch.uint8)
    held = output.begin(request)
    output._write_part(4, images[4:])
    assert output.missing(request) == [True] * 4 + [False] * 3
    output._write_part(0, images[:5])  # overlaps, as after another batch size
    assert not any(output.missing(request))
    output.finish(request)
    held.close()
    found = npz(tmp_path / "a.npz")
    assert torch.equal(torch.from_numpy(found["images"]).permute(0, 3, 1, 2), images)
    assert found["labels"].tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert torch.equal(output.first(3), images[:3])


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[Path]:
    """A folder that another process samples to."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        held = lock(tmp_path / "a")
        os.write(writes, b"locked")
        time.sleep(60)
        held.close()
        os._exit(0)
    os.read(reads, 6)
    yield tmp_path / "a"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reads)
    os.close(writes)


def test_a_folder_that_another_command_writes_to_is_refused(taken: Path, run: Path, capsys: Capture) -> None:
    assert vco_sample(run, "--num", 2, "--out", taken) == 2
    line = sentence(capsys)
    assert f"another vco sample is writing to {taken}" in line
    assert "wait for it or choose another folder with --out" in line


# ----------------------------------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--num", "0"], "argument --num: '0' is no number from 1 on"),
        (["--num", "x"], "argument --num: 'x' is no number from 1 on"),
        (["--num", "99999999999"], "argument --num: '99999999999' is more than 10,000,000, the most at a time"),
        (["--seed", "x"], "argument --seed: 'x' is no whole number from 0 on"),
        (["--seed", "-1"], "argument --seed: '-1' is no whole number from 0 on"),
        (["--batch-size", "0"], "argument --batch-size: '0' is no number from 1 on"),
        (["--ema", "5"], "has no running average number 5; it has 0 (decay "),
        (["--ema", "raw"], "argument --ema: 'raw' is neither the number of an average, as in 0 or 1, nor none"),
        (["--step", "7"], "there is no checkpoint of step 7"),
        (["--labels", "3,10"], "there is no class 10; classes are numbered from 0 to 9"),
        (["--labels", "all"], "'all' is no law of labels; write balanced, data, or classes with commas"),
        (["--scale", "-1"], "guidance.scale: 'scale' must be >= 0.0: -1.0 (from --guidance.scale)"),
        (["--scale", "big"], "guidance.scale: expected float, got 'big' (from --guidance.scale)"),
        (["--backbone.width", "32"], "backbone.width cannot be changed after training"),
        (["--train.steps", "20"], "train.steps cannot be changed after training"),
        (["--eval.samples", "20"], "eval.samples cannot be changed after training"),
        (["--preset", "digits"], "preset cannot be changed after training"),
        (["--guidance.nope", "1"], "guidance.nope: unknown option"),
        (["--nums", "1"], "--nums: unknown option; did you mean '--num'?"),
        (["--divide", "1"], "--divide: unknown option"),
        (["--plugin", "no_such_plugin"], "no_such_plugin cannot be used"),
        (["--solver"], "--solver needs a value"),
        (["--device", "nowhere"], "the device nowhere cannot be used here: "),
        (["--trajectory", "way.jpg"], "a trajectory is drawn as .png, .gif, .webp, and way.jpg ends with none of"),
        (["--trajectory", "no/way.png"], "--trajectory no/way.png: there is no folder no; make it first"),
        (["more"], "unrecognized arguments: more"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    options: Sequence[str], said: str, run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert vco_sample(run, "--num", "2", "--out", "a", *options) == 2
    line = sentence(capsys)
    assert line.startswith("vco sample: ")
    assert said in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trajectory", "closed/way.png"), "--trajectory closed/way.png: nothing can be written to "),
        (("--trajectory", "closed.png"), "--trajectory closed.png: that is a folder; name a file"),
        (("--out", "closed"), "cannot write to closed: closed is not writable; choose another --out"),
        (("--out", "closed/a"), "is not writable; choose another --out"),
        (("--out", "closed/a.npz"), "is not writable; choose another --out"),
    ],
)
def test_a_place_that_is_closed_is_seen_before_anything_is_sampled(
    options: Sequence[str], said: str, run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access

    def unless_closed(path: Path, mode: int) -> bool:  # whoever runs the tests may be allowed everything
        return Path(path).name != "closed" and access(path, mode)

    monkeypatch.chdir(tmp_path)
    for name in ("closed", "closed.png"):
        Path(name).mkdir()
    monkeypatch.setattr(os, "access", unless_closed)
    monkeypatch.setattr("vco.opened_run.open_run", Mock(side_effect=AssertionError("the run was opened")))
    assert vco_sample(run, "--num", "2", *options) == 2
    assert said in sentence(capsys)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["closed", "closed.png"]


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("images.zip", "--out images.zip: images go to a folder or to FILE.npz; write images.zip/ if that is to be"),
        ("file", "cannot write to file: it is a file, and no folder; choose another --out"),
        ("file/a", "cannot write to file/a: file is a file; choose another --out"),
        ("file/a/b.npz", "cannot write to file/a/b.npz: file is a file; choose another --out"),
        ("folder.npz", "cannot write to folder.npz: it is a folder; choose another --out"),
        ("full", "full holds other files; choose a new or empty folder with --out"),
        ("other.npz", "other.npz is there and not a file of vco sample; choose another --out"),
        ("broken.npz", "broken.npz is there and not a file of vco sample; choose another --out"),
        ("odd", "odd does not say which images it holds (JSONDecodeError"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_sentence(
    out: str, said: str, run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    for folder in ("folder.npz", "full", "odd"):
        Path(folder).mkdir()
    Path("full/photo.png").write_bytes(b"")
    Path("odd/sample.json").write_text("{")
    np.savez("other.npz", images=np.zeros(3))
    Path("broken.npz").write_bytes(b"PK nonsense")
    before = sorted(tmp_path.rglob("*"))
    assert vco_sample(run, "--num", 2, "--out", out) == 2
    assert said in sentence(capsys).replace(f"{tmp_path}/", "")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_may_have_a_dot_in_its_name(run: Path, tmp_path: Path) -> None:
    assert vco_sample(run, "--num", 2, "--out", tmp_path / "scale-1.5") == 0
    assert vco_sample(run, "--num", 2, "--out", f"{tmp_path}/my.images/") == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"scale-1.5", "scale-1.5-grid.png", "my.images", "my.images-grid.png"}


def test_somewhere_to_put_the_images_is_needed(run: Path, capsys: Capture) -> None:
    assert vco_sample(run, "--num", 2) == 2
    assert "say where the images go: --out FOLDER, --out FILE.npz, or --trajectory FILE.png" in sentence(capsys)
    assert vco_sample("--num", 2) == 2
    assert "the following arguments are required: RUN (`vco sample --help` lists the options)" in sentence(capsys)


@pytest.mark.parametrize("what", ["nothing", "no checkpoint"])
def test_a_folder_that_cannot_be_sampled_from_is_one_sentence(
    what: str, copied: Path, tmp_path: Path, capsys: Capture
) -> None:
    said = {"nothing": "is not the folder of a run: it has no config.yaml", "no checkpoint": "has no checkpoint yet"}
    shutil.rmtree(copied if what == "nothing" else copied / "checkpoints")
    assert vco_sample(copied, "--num", 2, "--out", tmp_path / "a") == 2
    assert said[what] in sentence(capsys)
    assert not (tmp_path / "a").exists()


def test_guidance_without_a_scale_is_one_sentence(tmp_path: Path, capsys: Capture) -> None:
    finished.finish(tmp_path / "run", *tiny.TOY, "--loss", "none", "--guidance", "toy-branches")
    argv = (tmp_path / "run", "--num", "2", "--out", tmp_path / "a", "--plugin", "toy_plugin")
    assert vco_sample(*argv, "--scale", "2") == 2
    assert "guidance toy-branches of this run has no scale" in sentence(capsys)


def test_labels_as_the_data_need_its_counts(copied: Path, tmp_path: Path, capsys: Capture) -> None:
    facts = yaml.safe_load((copied / "facts.yaml").read_text())
    (copied / "facts.yaml").write_text(yaml.safe_dump({**facts, "class_counts": {}}))
    assert vco_sample(copied, "--num", 2, "--out", tmp_path / "a", "--labels", "data") == 2
    assert "labels as in the data need the data set's images per class" in sentence(capsys)


def test_several_processes_choose_their_devices(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert vco_sample(run, "--out", tmp_path / "a", "--device", "cpu") == 2
    assert "several processes have a device each; leave --device out" in sentence(capsys)


def test_an_output_says_where_its_grid_lies() -> None:
    class Place(PngFolder): ...

    outputs: list[tuple[Output, str]] = [
        (Place(Path("a/b")), "a/b-grid.png"),
        (NpzFile(Path("a/b.npz")), "a/b-grid.png"),
        (Place(Path("scale-1.5")), "scale-1.5-grid.png"),
    ]
    assert [str(output.grid) for output, _ in outputs] == [expected for _, expected in outputs]
    assert Place(Path(".")).grid == Path.cwd().with_name(f"{Path.cwd().name}-grid.png")
