"""One loss or encoder, chosen a second time with options of its own."""

import json
from pathlib import Path

import pytest
import tiny

import vco
from vco.cli import main_run

TWICE = (
    *tiny.ONE_STREAM[:-2], "--loss", "repa=0.25,repa:deep=0.25", "--features", "digits-vit,digits-vit:two",
    "--loss.repa.block", "1", "--loss.repa.hidden", "8", "--loss.repa.layers", "2",
    "--loss.repa:deep.block", "2", "--loss.repa:deep.hidden", "8", "--loss.repa:deep.features", "digits-vit:two",
    "--metric", "none", "--train.samples-per-class", "0",
)  # fmt: skip


def test_two_losses_of_one_kind_read_their_own_block_and_encoder(tmp_path: Path) -> None:
    objective = tiny.prepare(tmp_path, *TWICE).objective
    assert list(objective.sources) == ["digits-vit", "digits-vit:two"]
    assert objective.taps == (1, 2)
    repa, deep = objective.losses.values()
    assert (getattr(repa, "encoder", ""), getattr(deep, "encoder", "")) == ("digits-vit", "digits-vit:two")


def test_such_a_run_is_logged_saved_resumed_and_opened_under_both_names(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert main_run(tiny.argv(folder, *TWICE, "--train.steps", "2")) == 0
    assert main_run([str(folder), "--train.steps", "3"]) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line["loss"] == pytest.approx(line["image"] + 0.25 * line["repa"] + 0.25 * line["repa:deep"], rel=1e-5)
    parts = {name.rpartition(".projector.")[0] for name in vco.open_run(folder).model.state_dict() if "repa" in name}
    assert parts == {"losses.repa", "losses.repa:deep"}
