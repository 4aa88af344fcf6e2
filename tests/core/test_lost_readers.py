"""Reader processes that are killed or hang: a sentence that names the images, and the steps before are saved."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import tiny
import torch
from jaxtyping import UInt8
from test_reader import Squares
from torch import Tensor

from vco.cli import main_run
from vco.config.settings import TrainConfig
from vco.data.reader import chunks, read
from vco.errors import ReaderLostError

Capture = pytest.CaptureFixture[str]
RUN = (
    *tiny.ONE_STREAM, "--plugin", "odd_plugin", "--metric", "none", "--train.workers", "1", "--train.batch-size", "4",
    "--train.samples-per-class", "0", "--train.steps", "40",
)  # fmt: skip


class Endless(Squares):
    """Image 5 takes for ever."""

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        if index == 5:
            time.sleep(600)
        return super().image(index, generator)


def test_a_reader_that_is_killed_is_noticed_at_once_where_images_are_wanted_and_nowhere_else() -> None:
    before = set(multiprocessing.active_children())
    reading = read(Squares(), chunks(list(range(20)), 2), TrainConfig(workers=1))
    next(reading)
    (reader,) = set(multiprocessing.active_children()) - before
    assert reader.pid is not None
    os.kill(reader.pid, signal.SIGKILL)
    time.sleep(0.5)  # a step, or a save: nothing is raised here
    since = time.monotonic()
    with pytest.raises(
        ReaderLostError, match=r"was killed \(DataLoader worker .*; of the training set the images 2, 3 "
    ):
        list(reading)
    assert time.monotonic() - since < 5
    # and it is forgotten: others read on
    assert len(list(read(Squares(), chunks([1, 2], 2), TrainConfig(workers=1)))) == 1


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError("nothing is left")])
def test_a_reader_that_is_killed_while_it_hands_images_over_is_lost_too(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, *given: object, **named: object) -> object:
        (reader,) = set(multiprocessing.active_children()) - before
        assert reader.pid is not None
        os.kill(reader.pid, signal.SIGKILL)
        raise error

    before = set(multiprocessing.active_children())
    with monkeypatch.context() as patch:
        patch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data", broken)
        with pytest.raises(ReaderLostError, match=r"was killed \(.*; of the training set the images 0, 1 were wanted"):
            list(read(Squares(), chunks([0, 1, 2], 2), TrainConfig(workers=1)))
    # and it is forgotten: others read on
    assert len(list(read(Squares(), chunks([1, 2], 2), TrainConfig(workers=1)))) == 1


@pytest.mark.slow  # nine tenths of the shortest timeout
def test_a_reader_that_hangs_is_named_with_the_images_it_has() -> None:
    wanted = chunks(list(range(20)), 10)
    with pytest.raises(ReaderLostError) as caught:
        list(read(Endless(), wanted, TrainConfig(workers=1, timeout=10)))
    (sentence,) = str(caught.value).splitlines()
    assert "reads images hangs (no answer for 9 s, --train.timeout 10)" in sentence
    assert "the images 0, 1, 2, 3, 4, 5, 6, 7, ... were wanted" in sentence


def test_the_steps_before_a_reader_is_killed_are_saved(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path, *RUN, "--data", "deadly")) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("vco-run: training stopped: a process that reads images was killed (")
    steps = [line["step"] for line in tiny.metrics(tmp_path)]
    assert len(steps) > 1
    assert tiny.tensors(tmp_path, steps[-1])
    # without readers the same images can be read
    assert main_run(tiny.argv(tmp_path, *RUN, "--data", "deadly", "--train.workers", "0")) == 0


@pytest.mark.slow  # two processes, and a timeout
def test_a_reader_of_one_of_two_processes_that_hangs_ends_both_with_everything_saved(tmp_path: Path) -> None:
    done = tiny.launch(*tiny.argv(tmp_path, *RUN, "--data", "endless-for-one", "--train.timeout", "10"))
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("vco-run: ")]
    assert line.startswith("vco-run: process 1: training stopped: a process that reads images hangs (no answer for 9 s")
    steps = [line["step"] for line in tiny.metrics(tmp_path)]
    assert len(steps) > 1
    assert tiny.tensors(tmp_path, steps[-1])
