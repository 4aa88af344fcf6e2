"""Processes that are killed: the others end, and fewer ones go on with the same images and the same noise."""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import tiny
import torch
from accelerate import Accelerator
from test_stopping import ranks, start, wait_for_nobody

from vco.training.batches import Batches

TOLERANCE = 1e-6
"""Relative difference of losses: float32 sums in another order."""


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_any_number_of_processes_shares_out_the_same_images_and_noise(
    count: int, accumulation: int, tmp_path: Path
) -> None:
    """Every bit that is drawn for a sample, by its place in the global batch."""
    options = (*tiny.ONE_STREAM, "--train.samples-per-class", "0", "--train.batch-size", "24")
    training = tiny.not_begun(tmp_path, *options, "--train.accumulation", str(accumulation))

    def given(count: int, steps: range) -> tuple[list[Any], list[torch.Tensor]]:
        """What the processes read, and the noise they add, put together in the order of the global batch."""
        keys: dict[tuple[int, int], Any] = {}
        noise: dict[tuple[int, int], torch.Tensor] = {}
        for index in range(count):
            place = {"num_processes": count, "process_index": index, "device": torch.device("cpu")}
            process = Mock(spec=Accelerator, **place)
            batches = Batches(training.run, training.images, process, tmp_path / "bad")
            read = batches.read(steps.start, steps.stop)
            for step in steps:
                for part in range(accumulation):
                    batch, first = next(read), batches.rows(part).start
                    inputs = batches.inputs(batch, part, step)
                    keys[step, first] = (list(batch.keys), batch.images)
                    drawn = inputs.generator.of("hybrid/forward").randn(2)
                    noise[step, first] = torch.cat([x.flatten(1) for x in (*inputs.noise.values(), drawn)], dim=1)
        places = sorted(keys)
        assert sorted(noise) == places
        return [key for place in places for key in keys[place][0]], [
            torch.cat([keys[place][1].flatten(1) for place in places]),
            torch.cat([noise[place] for place in places]),
        ]

    one, several = given(1, range(5, 8)), given(count, range(5, 8))
    assert one[0] == several[0]
    assert len(one[0]) == 3 * 24
    for alone, together in zip(one[1], several[1], strict=True):
        assert torch.equal(alone, together)


@pytest.mark.slow  # two processes, twice
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_others(rank: int, tmp_path: Path) -> None:
    run = start(tmp_path, "--train.checkpoint-every", "1", processes=2)
    since = time.monotonic()
    os.kill(ranks(tmp_path)[rank], signal.SIGKILL)
    _, error = run.communicate(timeout=120)
    wait_for_nobody(tmp_path, 10)
    assert time.monotonic() - since < 25  # a few seconds; the machine may be busy, and the launcher kills after 30
    assert run.returncode != 0
    assert "SIGKILL" in error  # the launcher's reason
    assert f"process {rank} is stopped, lost or hung" in error
    assert any((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow  # four processes, then two
def test_where_four_processes_have_died_two_go_on_with_the_same_run(tmp_path: Path) -> None:
    options = ("--train.batch-size", "24", "--train.samples-per-class", "3")
    died = start(tmp_path / "died", *options, "--train.checkpoint-every", "1", processes=4)
    until = time.monotonic() + 60
    while not list((tmp_path / "died").glob("checkpoints/step-*")) and time.monotonic() < until:
        time.sleep(0.02)  # it is written while training goes on
    for process in (died.pid, *ranks(tmp_path / "died").values()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    died.communicate(timeout=60)
    wait_for_nobody(tmp_path / "died", 30)
    reached = len(tiny.metrics(tmp_path / "died"))
    steps = str(reached + 6)
    done = tiny.launch(*tiny.argv(tmp_path / "died", *options, "--metric", "none", "--train.steps", steps))
    assert done.returncode == 0, done.stderr
    sessions = tiny.lines(tmp_path / "died" / "sessions.jsonl")
    assert [session["processes"] for session in sessions] == [4, 2]
    assert sessions[1]["step"] >= 1
    tiny.train(tmp_path / "whole", *options, "--train.steps", steps)
    found, expected = (tiny.metrics(tmp_path / name) for name in ("died", "whole"))
    assert [line["step"] for line in found] == list(range(1, reached + 7))
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], rel=50 * TOLERANCE)
