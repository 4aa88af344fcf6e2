import json
import os
import pickle
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vco.errors import TrainingStoppedError, UserError
from vco.storage import checkpoint, publishing
from vco.storage.checkpoint import Checkpoint, load, load_newest, save


def at(step: int, size: int = 5) -> Checkpoint:
    """A checkpoint whose content says which step it is."""
    model = {
        "weight": torch.arange(size, dtype=torch.float32) + step + 0.1,
        "half": torch.full((2, 3), step, dtype=torch.bfloat16),
        "count": torch.tensor(step),
        "flags": torch.tensor([True, False]),
    }
    tensors = {
        "model": model,
        "ema-0": {"weight": model["weight"] / 3},
        "optimizer": {"weight/step": torch.tensor(1.0)},
    }
    return Checkpoint(step=step, tensors=tensors, state={"ema_decays": [0.9], "seed": 0})


def silent(sentence: str) -> None:
    """For reports that do not matter."""


def assert_holds(found: Checkpoint | None, step: int, size: int = 5) -> None:
    assert found is not None
    assert found.step == step
    expected = at(step, size)
    assert found.tensors.keys() == expected.tensors.keys()
    for stem, tensors in expected.tensors.items():
        assert found.tensors[stem].keys() == tensors.keys()
        for name, value in tensors.items():
            other = found.tensors[stem][name]
            assert other.dtype == value.dtype
            assert torch.equal(other, value)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 4 and 6."""
    for step in (4, 6):
        save(tmp_path / "two", at(step), keep=2)
    return tmp_path / "two"


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    path = save(tmp_path, at(1000), keep=2)
    assert path == tmp_path / "step-00001000"
    found = load(path)
    assert_holds(found, 1000)
    assert found.state["ema_decays"] == [0.9]


def test_tied_and_strided_tensors_can_be_saved(tmp_path: Path) -> None:
    table = torch.arange(12.0).view(3, 4)
    tied: dict[str, Tensor] = {"embed": table, "head": table, "turned": table.T}
    found = load(save(tmp_path, Checkpoint(step=1, tensors={"model": tied}, state={}), keep=1))
    assert all(torch.equal(found.tensors["model"][name], value) for name, value in tied.items())


def test_a_folder_holds_only_safetensors_and_json(two: Path) -> None:
    assert {path.suffix for path in (two / "step-00000006").iterdir()} == {".safetensors", ".json"}


def test_without_checkpoints_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "none", silent) is None


# -------------------------------------------------------------------------------------------------------------- pruning


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    for step in range(1, 6):
        save(tmp_path, at(step), keep=keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:08d}" for step in range(6 - keep, 6)]


def test_a_damaged_later_checkpoint_never_pushes_out_the_one_just_written(tmp_path: Path) -> None:
    save(tmp_path, at(8), keep=1)
    (tmp_path / "step-00000008" / "model.safetensors").write_bytes(b"")
    save(tmp_path, at(7), keep=1)  # the run went back to step 6 and was stopped at 7
    assert_holds(load_newest(tmp_path, silent), 7)


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(two: Path) -> None:
    (two / "step-00000006" / "state.json").write_text("{}")
    save(two, at(6), keep=2)
    assert_holds(load_newest(two, silent), 6)


def test_steps_are_ordered_as_numbers_and_other_folders_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step-00000001-mine").mkdir()
    for step in (99_999_999, 100_000_000):
        save(tmp_path, at(step), keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001-mine", "step-100000000"]


# ---------------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("keep", [1, 2])
def test_a_kill_at_any_moment_leaves_the_newest_whole_checkpoint(tmp_path: Path, keep: int) -> None:
    """Each child saves one step after the other until it is killed, nearly always in the midst of saving."""
    moments = random.Random(keep)
    progress, folder = tmp_path / "progress", tmp_path / "checkpoints"
    since = time.perf_counter()
    save(folder, at(1, 2000), keep)
    duration = time.perf_counter() - since
    begun, interrupted, kills = 1, 0, 0
    while kills < 30 or begun <= 10 or interrupted <= 10:  # enough saves finished, enough cut short
        kills += 1
        assert kills < 300
        child = os.fork()
        if child == 0:
            for step in range(begun + 1, begun + 10_000):
                save(folder, at(step, 2000), keep)
                progress.write_text(str(step))
            os._exit(1)
        time.sleep(moments.uniform(0, 5 * duration))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        interrupted += any(folder.glob(".*.tmp"))
        found = load_newest(folder, silent)
        assert found is not None
        assert_holds(found, found.step, 2000)
        assert found.step >= int((progress.read_text() if progress.exists() else "") or begun)
        begun = found.step


def test_what_a_kill_left_is_gone_after_the_next_save(two: Path) -> None:
    (two / ".step-00000008.123.tmp").mkdir()
    (two / ".step-00000008.123.tmp" / "model.safetensors").write_bytes(b"half")
    save(two, at(8), keep=2)
    assert sorted(path.name for path in two.iterdir()) == ["step-00000006", "step-00000008"]


# --------------------------------------------------------------------------------------------------------------- damage


def damaged(two: Path, change: Callable[[Path], object]) -> list[str]:
    """Damages the newest checkpoint; checks that the one before is used, and returns what is said."""
    change(two / "step-00000006")
    said: list[str] = []
    assert_holds(load_newest(two, said.append), 4)
    return said


def test_every_bit_flip_is_noticed_and_the_checkpoint_before_used(two: Path) -> None:
    draws = random.Random(0)
    newest = two / "step-00000006"
    files = sorted(newest.iterdir())
    for _ in range(200):
        path = draws.choice(files)
        whole = path.read_bytes()
        bit = draws.randrange(len(whole) * 8)
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match="step-00000006 is damaged"):
            load(newest)
        path.write_bytes(whole)
    assert_holds(load(newest), 6)


def test_every_truncation_is_noticed(two: Path) -> None:
    newest = two / "step-00000006"
    for path in sorted(newest.iterdir()):
        whole = path.read_bytes()
        for length in {0, 1, 7, 8, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:length])
            with pytest.raises(UserError, match="step-00000006 is damaged"):
                load(newest)
        path.write_bytes(whole)
    assert_holds(load(newest), 6)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "ema-0.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"]
)
def test_a_missing_file_is_named_and_the_checkpoint_before_used(two: Path, name: str) -> None:
    said = damaged(two, lambda newest: (newest / name).unlink())
    assert len(said) == 1
    assert name in said[0]
    assert "falling back" in said[0]


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "MANIFEST.json"])
def test_a_file_of_another_step_is_refused(two: Path, name: str) -> None:
    damaged(two, lambda newest: shutil.copy(two / "step-00000004" / name, newest / name))


def test_a_whole_checkpoint_in_the_folder_of_another_step_is_refused(two: Path) -> None:
    def swap(newest: Path) -> None:
        shutil.rmtree(newest)
        shutil.copytree(two / "step-00000004", newest)

    assert "it holds step 4" in damaged(two, swap)[0]


def test_swapped_files_of_one_checkpoint_are_refused(two: Path) -> None:
    def swap(newest: Path) -> None:
        (newest / "model.safetensors").rename(newest / "aside")
        (newest / "ema-0.safetensors").rename(newest / "model.safetensors")
        (newest / "aside").rename(newest / "ema-0.safetensors")

    damaged(two, swap)


def test_if_all_are_damaged_the_run_does_not_start_from_nothing(two: Path) -> None:
    for path in two.glob("*/model.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged; move the folder away"):
        load_newest(two, silent)


class Payload:
    """Pickled, it creates a file where it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    "name", ["extra.pkl", "random_states_0.pkl", "model.safetensors", "state.json", "MANIFEST.json"]
)
def test_hostile_pickles_are_refused_and_never_run(two: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    damaged(two, lambda newest: (newest / name).write_bytes(pickle.dumps(Payload(marker))))
    assert not marker.exists()


@pytest.mark.parametrize("manifest", ["[]", "3", "null", "{}", '{"../state.json": {}}', "[" * 100_000, "{", "\x00"])
def test_hostile_manifests_are_refused(two: Path, manifest: str) -> None:
    damaged(two, lambda newest: (newest / "MANIFEST.json").write_text(manifest))


def test_another_format_is_named(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(UserError, match="format 1 is not the 2"):
        load(two / "step-00000006")


# ----------------------------------------------------------------------------------------------------------- full disks


@pytest.mark.parametrize("limit", [0, 100, 1000, 7900])
def test_a_full_disk_leaves_the_older_ones_and_nothing_else(two: Path, limit: int) -> None:
    """The system refuses to let files grow beyond `limit` bytes; 8,000 bytes are needed."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, former[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write checkpoint .*older checkpoints are untouched"):
            save(two, at(8, 2000), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, ignored)
    assert sorted(path.name for path in two.iterdir()) == ["step-00000004", "step-00000006"]
    assert_holds(load_newest(two, silent), 6)


@pytest.mark.parametrize("call", range(6))
def test_whichever_sync_fails_the_older_ones_stay(two: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    calls = 0
    real = os.fsync

    def failing(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > call:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(UserError, match="No space left on device"):
        save(two, at(8), keep=1)
    monkeypatch.undo()
    assert not list(two.glob(".*"))
    assert_holds(load_newest(two, silent), 6)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write checkpoint .*Not a directory"):
        save(tmp_path / "file" / "checkpoints", at(1), keep=1)


def test_the_manifest_fingerprints_every_file(two: Path) -> None:
    manifest = json.loads((two / "step-00000006" / "MANIFEST.json").read_text())
    sizes = {path.name: path.stat().st_size for path in (two / "step-00000006").iterdir()}
    del sizes["MANIFEST.json"]
    assert {name: entry["bytes"] for name, entry in manifest.items()} == sizes
    assert all(len(entry["sha256"]) == 64 for entry in manifest.values())


# --------------------------------------------------------------------------------------------------------- housekeeping


def test_a_link_in_the_place_of_an_old_checkpoint_is_removed_and_not_what_it_leads_to(
    two: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (two / "step-00000004").rename(elsewhere)
    (two / "step-00000004").symlink_to(elsewhere, target_is_directory=True)
    save(two, at(30), keep=1)
    assert [path.name for path in sorted(two.iterdir())] == ["step-00000030"]
    assert (elsewhere / "MANIFEST.json").exists()


def test_files_with_the_names_of_folders_are_in_nobodys_way(two: Path) -> None:
    (two / ".step-00000005.1.tmp").write_text("left over")
    (two / "step-00000099").write_text("no checkpoint")
    (two / "step-00000030").write_text("no checkpoint either")
    newest = load_newest(two, pytest.fail)
    assert newest is not None
    assert newest.step == 6
    save(two, at(30), keep=2)
    assert load(two / "step-00000030").step == 30
    assert not (two / ".step-00000005.1.tmp").exists()


def test_an_old_checkpoint_that_cannot_be_removed_is_said(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint, "remove", refused)
    said: list[str] = []
    save(two, at(30), keep=1, report=said.append)
    assert len(said) == 2
    assert all("cannot be removed (Permission denied); it stays" in sentence for sentence in said)
    assert load(two / "step-00000030").step == 30


def test_too_little_space_is_seen_before_anything_is_written(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 90, 10))  # pyright: ignore
    monkeypatch.setattr(publishing, "write_pieces", pytest.fail)
    before = sorted(path.name for path in two.iterdir())
    with pytest.raises(TrainingStoppedError, match=r"No space left on device \(.* MB are needed, 0\.0 MB are free\)"):
        save(two, at(30), keep=2)
    assert sorted(path.name for path in two.iterdir()) == before
