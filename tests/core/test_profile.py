"""`vco profile`: figures of a few steps, a trace, and sentences where that cannot be."""

import gzip
import json
from pathlib import Path

import attrs
import pytest
import tiny
import torch

from vco.cli import main_run, main_vco
from vco.training.explaining import described
from vco.training.profiling import Kinds, Profile
from vco.training.split import BACKWARD, DATA, ENCODER, FORWARD, LOSSES, OPTIMIZER, PARTS, REST, Split

Capture = pytest.CaptureFixture[str]


def test_it_measures_a_few_steps_and_writes_nothing_but_what_was_named(tmp_path: Path, capsys: Capture) -> None:
    figures, trace, folder = tmp_path / "figures.json", tmp_path / "trace.json.gz", tmp_path / "run"
    options = tiny.argv(folder, "--loss", "hybrid")
    assert main_vco(["profile", "--steps", "2", "--json", str(figures), "--trace", str(trace), *options]) == 0
    out = capsys.readouterr().out
    assert "images/s" in out
    assert "MFU" in out
    assert "missing" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == [figures.name, trace.name]
    found = json.loads(figures.read_text())
    assert found["images"] == tiny.BATCH
    assert found["steps"] == 2
    assert 0 < found["mfu"] < 1
    assert found["flops_per_image"] > 1000
    assert found["peak_memory"] > 2**20
    assert set(found["parts"]) == set(PARTS)
    assert all(found["parts"][part] > 0 for part in (DATA, ENCODER, FORWARD, LOSSES, BACKWARD, OPTIMIZER, REST))
    assert sum(found["parts"].values()) == pytest.approx(found["seconds"], rel=0.2)
    kinds = found["kinds"]
    assert kinds["matrices"] + kinds["others"] + kinds["between"] == pytest.approx(1, abs=0.1)
    names = {event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert {DATA, ENCODER, FORWARD, LOSSES, BACKWARD, OPTIMIZER, "aten::addmm"} <= names


def test_a_run_s_settings_are_taken_and_its_folder_is_left_alone(tmp_path: Path, capsys: Capture) -> None:
    options = ("--train.steps", "1", "--metric", "none", "--train.batch-size", "10")
    assert main_run(tiny.argv(tmp_path / "run", *options)) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert main_vco(["profile", str(tmp_path / "run"), "--steps", "1"]) == 0
    assert "a step of 10 images" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--trace", "trace.txt"], "a trace ends with .json or .json.gz"),
        (["--json", "nowhere/figures.json"], "there is no folder nowhere"),
        (["--steps", "0"], "'0' is no number from 1 on"),
        (["--nonsense", "1"], "--nonsense: unknown option"),
        (["--data", "image-folder", "--data.root", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_one_sentence(options: list[str], sentence: str, capsys: Capture) -> None:
    assert main_vco(["profile", *options]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_time_belongs_to_the_innermost_part() -> None:
    split = Split(torch.device("cpu"))
    split.cut()
    with split.part(FORWARD), split.part(ENCODER):
        pass
    split.cut()
    names = [name for name, _ in split._cuts]
    assert names == [REST, FORWARD, ENCODER, FORWARD, REST, REST]
    assert all(value >= 0 for value in split.seconds().values())
    assert split.seconds() == dict.fromkeys(PARTS, 0.0)


def test_the_paragraph_says_where_the_rest_of_the_peak_is() -> None:
    kinds = Kinds(matrices=0.5, others=0.3, between=0.2, slowest=[("aten::mul", 0.2)])
    found = Profile(
        device="cpu", precision="fp32", processes=2, images=64, steps=3, seconds=2.0, peak_memory=2**30,
        flops_per_image=1e9, peak_flops=8e10, parts=dict.fromkeys(PARTS, 2 / 7), host_waits=0.5, kinds=kinds,
    )  # fmt: skip
    assert found.images_per_second == 32
    assert found.mfu == 0.2
    text = " ".join(described(found).split())
    for said in ("20.0% of that peak", "80% are missing", "30% are lost within", "aten::mul 20%", "In 20% of the time"):
        assert said in text
    assert "cannot be counted" in described(attrs.evolve(found, flops_per_image=None))
