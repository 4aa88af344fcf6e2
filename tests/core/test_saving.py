"""Saving while training goes on, and by several processes together."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from accelerate import Accelerator
from test_checkpoint import assert_holds, at, silent
from torch import Tensor

from vco.cli import main_run
from vco.errors import TrainingStoppedError, UserError
from vco.pieces import Piece
from vco.storage import checkpoint, publishing
from vco.storage.checkpoint import Checkpoint, load, load_newest
from vco.storage.publishing import Copied, Writers
from vco.storage.tensor_files import StoredTensors
from vco.training import saving
from vco.training.saving import Saver

Capture = pytest.CaptureFixture[str]


def saver(folder: Path, keep: int = 2, say: Callable[[str], None] = pytest.fail) -> Saver:
    return Saver(folder, keep, Accelerator(cpu=True), say)


class Gate:
    """Lets `save_copied` pass when it is opened, and notes what comes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.begun = threading.Event(), list[int]()
        real = checkpoint.save_copied

        def slow(folder: Path, copied: Copied, *given: Any) -> Path:
            self.begun.append(copied.step)
            assert self.open.wait(30)
            return real(folder, copied, *given)

        monkeypatch.setattr(checkpoint, "save_copied", slow)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


# ------------------------------------------------------------------------------------------------------- one process


def test_a_save_is_begun_and_then_waited_for(tmp_path: Path, gate: Gate) -> None:
    saves = saver(tmp_path)
    saves.save(at(1))
    assert not list(tmp_path.iterdir())
    gate.open.set()
    saves.wait()
    assert_holds(load_newest(tmp_path, pytest.fail), 1)


def test_what_changes_after_a_save_was_begun_is_not_in_it(tmp_path: Path, gate: Gate) -> None:
    saves, saved = saver(tmp_path), at(3)
    saves.save(saved)
    for tensors in saved.tensors.values():
        for tensor in tensors.values():
            tensor.zero_()
    gate.open.set()
    saves.wait()
    assert_holds(load_newest(tmp_path, pytest.fail), 3)


def test_a_second_save_waits_for_the_first(tmp_path: Path, gate: Gate) -> None:
    saves = saver(tmp_path)
    saves.save(at(1))
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(saves.save, at(2))
        time.sleep(0.1)
        assert not second.done()
        assert gate.begun == [1]
        gate.open.set()
        second.result(30)
    saves.wait()
    assert gate.begun == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_the_memory_of_a_copy_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def noted(folder: Path, copied: Copied, *given: object) -> None:
        seen.append([piece.rows.data_ptr() for part in copied.pieces.values() for piece in part.values()])

    monkeypatch.setattr(checkpoint, "save_copied", noted)
    saves = saver(tmp_path)
    for step in (1, 2):
        saves.save(at(step))
    saves.save(at(3, size=7))
    saves.wait()
    assert seen[0] == seen[1]
    assert len(seen[2]) == len(seen[0])


def test_a_poller_never_sees_an_incomplete_one(tmp_path: Path) -> None:
    saves = saver(tmp_path, keep=3)
    saves.save(at(1, 2000))
    saves.wait()
    polled, ended = list[int](), threading.Event()

    def poll() -> None:
        try:
            while len(polled) < 1000:
                found = load_newest(tmp_path, pytest.fail)
                assert found is not None
                assert_holds(found, found.step, 2000)
                polled.append(found.step)
        finally:
            ended.set()

    with ThreadPoolExecutor(1) as pool:
        polling, step = pool.submit(poll), 1
        while not ended.wait(0.002):
            step += 1
            saves.save(at(step, 2000))
        polling.result()
    saves.wait()
    assert polled == sorted(polled)
    assert len(set(polled)) > 10


@pytest.mark.parametrize("keep", [1, 2])
def test_a_kill_while_saving_goes_on_aside_leaves_the_newest_whole_one(tmp_path: Path, keep: int) -> None:
    """Each child saves without waiting, as a run does, until it is killed."""
    moments = random.Random(keep)
    progress, folder = tmp_path / "progress", tmp_path / "checkpoints"
    checkpoint.save(folder, at(1, 2000), keep)
    begun, interrupted, kills = 1, 0, 0
    while kills < 25 or interrupted < 10:
        kills += 1
        assert kills < 300
        child = os.fork()
        if child == 0:
            saves = saver(folder, keep)
            for step in range(begun + 1, begun + 10_000):
                saves.save(at(step, 2000))
                progress.write_text(str(step - 1))  # which was waited for
            os._exit(1)
        time.sleep(moments.uniform(0.01, 0.2))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        interrupted += any(folder.glob(".*.tmp"))
        found = load_newest(folder, pytest.fail)
        assert found is not None
        assert_holds(found, found.step, 2000)
        assert found.step >= int((progress.read_text() if progress.exists() else "") or begun)
        begun = found.step


# --------------------------------------------------------------------------------------------------------- failures


def full(*given: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_failure_is_raised_where_it_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = saver(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "write_pieces", full)
        for act in (saves.wait, lambda: saves.save(at(5))):
            saves.save(at(4))
            while saves._thread is not None and saves._thread.is_alive():
                time.sleep(0.001)
            assert saves.failed
            with pytest.raises(TrainingStoppedError, match=r"cannot write checkpoint .*step-00000004: .*No space left"):
                act()
            assert not saves.failed
    assert not list(tmp_path.iterdir())
    saves.save(at(6))
    saves.wait()
    assert_holds(load_newest(tmp_path, pytest.fail), 6)


def test_whoever_ends_early_hears_of_the_failure_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    saves = saver(tmp_path, say=said.append)
    monkeypatch.setattr(publishing, "write_pieces", full)
    saves.save(at(4))
    saves.close()
    assert len(said) == 1
    assert "No space left on device" in said[0]


def test_a_mistake_of_ours_is_raised_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*given: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(checkpoint, "save_copied", mistaken)
    saves = saver(tmp_path)
    saves.save(at(4))
    with pytest.raises(ZeroDivisionError):
        saves.wait()


def test_a_save_that_fails_ends_the_run_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(publishing, "write_pieces", full)
    options = (*tiny.ONE_STREAM, "--metric", "none", "--train.checkpoint-every", "2", "--train.steps", "300")
    assert main_run(tiny.argv(tmp_path, *options)) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("vco-run: training stopped: cannot write checkpoint ")
    assert said.endswith("put that right, then the same command goes on from the newest")
    assert 2 <= tiny.metrics(tmp_path)[-1]["step"] < 300


def test_a_last_save_that_fails_is_raised_before_the_run_is_called_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(publishing, "write_pieces", full)
    assert main_run(tiny.argv(tmp_path, *tiny.ONE_STREAM, "--metric", "none")) == 1
    assert "cannot write checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "samples" / "trajectory.png").exists()  # which is drawn when all is done


def test_a_run_that_goes_back_waits_for_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that fails is the one after the save, which is still under way then."""
    real = checkpoint.save_copied

    def slow(*given: Any) -> Path:
        time.sleep(0.3)
        return real(*given)

    monkeypatch.setattr(checkpoint, "save_copied", slow)
    options = ("--plugin", "odd_plugin", "--loss", "nan-once", "--metric", "none", "--train.on-nan", "rollback")
    assert main_run(tiny.argv(tmp_path, *options, "--train.checkpoint-every", "3")) == 0
    newest = load_newest(tmp_path / "checkpoints", pytest.fail)
    assert newest is not None
    assert newest.state["ahead"] == 1  # from step 3, with one batch passed over


# ------------------------------------------------------------------------------------ several processes (here: threads)


def exchanges(count: int) -> list[Callable[[str], Sequence[str]]]:
    """What `Writers.exchange` is for each of so many threads."""
    meeting, said = threading.Barrier(count, timeout=30), [""] * count

    def of(rank: int) -> Callable[[str], Sequence[str]]:
        def exchange(mine: str) -> Sequence[str]:
            said[rank] = mine
            meeting.wait()
            everything = list(said)
            meeting.wait()
            return everything

        return exchange

    return [of(rank) for rank in range(count)]


def shares(step: int, count: int = 2, rows: int = 5) -> list[Copied]:
    """A checkpoint of one tensor in pieces, and of one that the first process writes whole."""
    weight, most = torch.arange(3.0 * rows).view(rows, 3) + step, -(-rows // count)
    found: list[Copied] = []
    for rank in range(count):
        start = min(rank * most, rows)
        part = {"weight": Piece(rows=weight[start : start + most].clone(), start=start, shape=(rows, 3))}
        part |= {} if rank else {"scale": Piece(rows=torch.tensor(2.0), shape=())}
        found.append(Copied(step=step, pieces={"model": part}, state={"seed": 0}, bytes=weight.nbytes))
    return found


def save_together(folder: Path, copies: Sequence[Copied], keep: int = 2) -> list[Path | Exception]:
    """What each thread gets from saving its share."""
    writers = [
        Writers(rank=rank, count=len(copies), exchange=exchange, name="session")
        for rank, exchange in enumerate(exchanges(len(copies)))
    ]

    def one(rank: int) -> Path | Exception:
        try:
            return checkpoint.save_copied(folder, copies[rank], keep, writers[rank], pytest.fail)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(copies)) as pool:
        return list(pool.map(one, range(len(copies))))


def weight(step: int, rows: int = 5) -> Tensor:
    return torch.arange(3.0 * rows).view(rows, 3) + step


@pytest.mark.parametrize("count", [2, 3, 4])
def test_pieces_make_the_whole_and_any_rows_can_be_read(tmp_path: Path, count: int) -> None:
    assert save_together(tmp_path, shares(7, count)) == [tmp_path / "step-00000007"] * count
    found = load(tmp_path / "step-00000007").tensors["model"]
    assert torch.equal(found["weight"], weight(7))
    assert found["scale"] == 2
    assert isinstance(found, StoredTensors)
    assert found.shapes == {"weight": (5, 3), "scale": ()}
    for start in range(6):
        for stop in range(start, 6):
            assert torch.equal(found.rows("weight", start, stop), weight(7)[start:stop])


def test_who_has_no_rows_writes_none(tmp_path: Path) -> None:
    save_together(tmp_path, shares(7, count=4, rows=2))
    assert torch.equal(load(tmp_path / "step-00000007").tensors["model"]["weight"], weight(7, rows=2))


def test_a_tensor_whose_rows_are_not_all_there_is_refused(tmp_path: Path) -> None:
    lacking = shares(7, 3)
    lacking[1] = Copied(step=7, pieces={"model": {}}, state={}, bytes=0)
    save_together(tmp_path, lacking)
    with pytest.raises(UserError, match=r"damaged .the pieces of weight do not make a whole"):
        load(tmp_path / "step-00000007")


def test_rows_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    first, _ = shares(7)
    save_together(tmp_path, [first, first])
    with pytest.raises(UserError, match=r"the pieces of \w+ do not make a whole"):
        load(tmp_path / "step-00000007")


def test_pieces_of_tensors_of_other_shapes_are_refused(tmp_path: Path) -> None:
    first, _ = shares(7)
    save_together(tmp_path, [first, shares(7, rows=6)[1]])
    with pytest.raises(UserError, match="the pieces of weight are of tensors of several shapes"):
        load(tmp_path / "step-00000007")


@pytest.mark.parametrize("rank", [0, 1])
def test_if_one_cannot_write_all_hear_of_it_and_nothing_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    save_together(tmp_path, shares(4))
    real = publishing.write_pieces

    def failing(folder: Path, pieces: Any, here: int, count: int) -> Any:
        return full() if here == rank else real(folder, pieces, here, count)

    monkeypatch.setattr(publishing, "write_pieces", failing)
    outcomes = save_together(tmp_path, shares(6))
    assert all(isinstance(outcome, TrainingStoppedError) for outcome in outcomes)
    assert f"process {rank}: [Errno 28] No space left on device" in str(outcomes[1 - rank])
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_a_disk_of_its_own_is_refused_and_nothing_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = publishing.write_pieces

    def elsewhere(folder: Path, pieces: Any, rank: int, count: int) -> Any:
        place = tmp_path / "other" if rank else folder
        place.mkdir(exist_ok=True)
        return real(place, pieces, rank, count)

    monkeypatch.setattr(publishing, "write_pieces", elsewhere)
    monkeypatch.setattr(publishing, "PATIENCE", 0.2)
    outcomes = save_together(tmp_path / "run", shares(6))
    sentence = "process 0 does not see model.00001-of-00002.safetensors of process 1: every process must see the same"
    assert all(sentence in str(outcome) for outcome in outcomes)
    assert not list((tmp_path / "run").iterdir())


def test_a_folder_that_a_process_does_not_see_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "PATIENCE", 0.2)
    with pytest.raises(UserError, match=r"the run folder .* is not that of process 0; with --train.sharding fsdp"):
        saving._require_seen(tmp_path / ".mark.seen")


def test_kills_of_those_who_write_together_leave_the_newest_whole_one(tmp_path: Path) -> None:
    moments, folder, begun, interrupted = random.Random(0), tmp_path / "run", 1, 0
    save_together(folder, shares(1))
    for _ in range(60):
        child = os.fork()
        if child == 0:
            for step in range(begun + 1, begun + 10_000):
                save_together(folder, shares(step))
            os._exit(1)
        time.sleep(moments.uniform(0.01, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        interrupted += any(folder.glob(".*.tmp"))
        found = load_newest(folder, pytest.fail)
        assert found is not None
        assert found.step >= begun
        assert torch.equal(found.tensors["model"]["weight"], weight(found.step))
        begun = found.step
    assert interrupted > 10


def test_a_plain_checkpoint_needs_no_exchange(tmp_path: Path) -> None:
    tied: dict[str, Tensor] = {"a": torch.ones(2)}
    checkpoint.write(tmp_path, Checkpoint(step=1, tensors={"model": {**tied, "b": tied["a"]}}, state={}))
    assert load_newest(tmp_path, silent) is not None
