"""`vco data pack`: what is written, and that packing that was stopped goes on."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import packed
import pytest
import torch

from vco.api import UserError
from vco.cli import main_vco
from vco.data.threads import in_threads
from vco.storage import shards as storage

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return packed.pictures(tmp_path / "pictures")


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("form", [[], ["--original"]])
def test_members_are_named_as_the_webdataset_library_expects(root: Path, tmp_path: Path, form: list[str]) -> None:
    out = packed.pack(root, tmp_path / "out", *form)
    before = packed.folder(root).test()
    with tarfile.open(out / "test-000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # pyright: ignore
    ending = "png" if form else "npy"
    assert list(members) == [f"{n:09d}.{kind}" for n in range(len(before)) for kind in (ending, "cls")]
    for number in range(len(before)):
        assert int(members[f"{number:09d}.cls"]) == int(before.labels[number])
        content = members[f"{number:09d}.{ending}"]
        if form:
            assert ("png", content) == before.file(number)
        else:
            assert torch.equal(torch.from_numpy(np.load(BytesIO(content))), before.image(number, None))


def test_the_index_says_where_images_are_and_what_they_were(root: Path, tmp_path: Path, capsys: Capture) -> None:
    out = packed.pack(root, tmp_path / "out")
    index = json.loads((out / "index.json").read_text())
    for shard in index["shards"]:
        content = (out / shard["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])
    assert [split["images"] for split in index["splits"].values()] == [3 * packed.TRAIN, 3 * packed.TEST]
    assert index["packed_from"]["data"] == "image-folder"
    assert index["packed_from"]["options"]["size"] == 8
    assert str(root) not in (out / "index.json").read_text()
    assert sorted(tree(out)) == ["index.json", "index.safetensors", "test-000000.tar", "train-000000.tar"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("train: 36 images in 1 shard, ")
    assert printed[-1] == f"to train on them: vco-run --data shards --data.root {out}"


def test_packed_twice_it_is_the_same_to_the_byte(root: Path, tmp_path: Path) -> None:
    one, two = (packed.pack(root, tmp_path / name, "--threads", threads) for name, threads in (("a", "1"), ("b", "8")))
    assert tree(one) == tree(two)


def test_shards_are_closed_at_their_size(root: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr("vco.commands.data_pack.MB", 4000)
    out = packed.pack(root, tmp_path / "out", "--shard-size", "2")
    sizes = [shard["images"] for shard in json.loads((out / "index.json").read_text())["shards"]]
    each = -(-8000 // storage.packed_size(8 * 8 * 3 + 128))
    assert sizes == [*[each] * (36 // each), *[36 % each] * (36 % each > 0), *[each] * (9 // each), 9 % each]


# ------------------------------------------------------------------------------------------------------ damaged images


def test_a_damaged_image_stops_packing_and_the_same_command_goes_on(
    root: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = root / "train" / "bee" / "03.png"
    whole = file.read_bytes()
    file.write_bytes(b"no image")
    argv = ["data", "pack", str(root), "--out", str(tmp_path / "out"), "--data.size", "8"]
    assert main_vco(argv) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vco data: ")]
    assert "bee/03.png cannot be read" in line
    assert "--data.on-bad skip leaves such images out" in line
    assert not (tmp_path / "out").exists()
    file.write_bytes(whole)
    assert main_vco(argv) == 0
    assert tree(tmp_path / "out") == tree(packed.pack(root, tmp_path / "again"))


def test_damaged_images_are_left_out_and_listed_where_that_is_asked_for(
    root: Path, tmp_path: Path, capsys: Capture
) -> None:
    (root / "train" / "bee" / "03.png").write_bytes(b"no image")
    (root / "val" / "cat" / "00.png").write_bytes(b"")
    out = packed.pack(root, tmp_path / "out", "--data.on-bad", "skip")
    assert "2 that could not be read are left out" in capsys.readouterr().out
    lines = (out / "bad-images.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["train 15", "test 6"]
    data = packed.shards(out)
    data.check()
    assert data.train().labels.bincount().tolist() == [12, 11, 12]
    assert data.test().labels.bincount().tolist() == [3, 3, 2]
    assert 15 not in data.train().table["number"]  # pyright: ignore[reportAttributeAccessIssue]


# --------------------------------------------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--out", "OUT", "--data.classes", "2"], "has 3 classes with images, but --data.classes is 2"),
        (["--out", "OUT", "--shard-size", "0"], "'0' is no number from 1 on"),
        (["--out", "OUT", "--threads", "0"], "--threads is 0; at least 1 is needed"),
        ([], "--out"),
        (["--out", "ROOT"], "exists already; choose another --out"),
        (["--out", "OUT", "--shardsize", "3"], "--shardsize: unknown option"),
    ],
)
def test_mistakes_are_one_sentence(
    root: Path, tmp_path: Path, capsys: Capture, options: list[str], sentence: str
) -> None:
    names = {"OUT": str(tmp_path / "out"), "ROOT": str(root)}
    assert main_vco(["data", "pack", str(root), *(names.get(option, option) for option in options)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vco data: ")
    assert sentence in line
    assert not (tmp_path / "out").exists()


def test_a_set_without_files_cannot_be_kept_as_it_is(root: Path, tmp_path: Path, capsys: Capture) -> None:
    out = packed.pack(root, tmp_path / "out")
    argv = ["data", "pack", str(out), "--data", "shards", "--out", str(tmp_path / "more"), "--original"]
    assert main_vco(argv) == 2
    assert "data shards has no picture files that could be kept; leave --original out" in capsys.readouterr().err
    assert main_vco(argv[:-1]) == 0  # but shards can be cut anew


def test_too_little_space_is_said_before_anything_is_read(
    root: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("vco.commands.data_pack.shutil.disk_usage", lambda path: usage)
    assert main_vco(["data", "pack", str(root), "--out", str(tmp_path / "out"), "--data.size", "8"]) == 2
    assert "the shards take another 0.0 GB, but 0.0 GB are free" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- going on


def records(count: int, first: int = 0) -> Iterator[storage.Record]:
    draws = np.random.default_rng(5).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return iter([storage.decoded(i, i % 3, draws[i]) for i in range(first, count)])


ABOUT = {"form": "decoded", "image_shape": [3, 4, 4], "class_names": ["a", "b", "c"]}


def write_all(folder: Path) -> tuple[int, int]:
    """Packs two splits; how many images were there already."""
    packing = storage.Packing(folder, {"job": 1})
    try:
        found: list[int] = []
        for split, count in (("train", 40), ("test", 7)):
            found.append(done := packing.resume(split))
            packing.write(split, records(count, done), 9000, done)
        packing.finish(ABOUT)
    finally:
        packing.close()
    return found[0], found[1]


@pytest.mark.parametrize("taken", [0, 3, 17, 40])
def test_packing_that_was_stopped_goes_on_after_the_last_whole_shard(tmp_path: Path, taken: int) -> None:
    def stopped() -> Iterator[storage.Record]:
        yield from list(records(40))[:taken]
        raise KeyboardInterrupt

    packing = storage.Packing(tmp_path / "out", {"job": 1})
    with pytest.raises(KeyboardInterrupt):
        packing.write("train", stopped(), 9000, packing.resume("train"))
    packing.close()
    assert not (tmp_path / "out").exists()
    each = -(-9000 // storage.packed_size(3 * 4 * 4 + 128))
    assert write_all(tmp_path / "out") == (taken // each * each, 0)
    assert write_all(tmp_path / "whole") == (0, 0)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_whole_shard_that_has_been_cut_meanwhile_is_written_again(tmp_path: Path) -> None:
    packing = storage.Packing(tmp_path / "out", {"job": 1})
    packing.write("train", records(20), 4000, 0)
    packing.close()
    os.truncate(packing.aside / "train-000001.tar", 100)
    each = -(-4000 // storage.packed_size(3 * 4 * 4 + 128))
    again = storage.Packing(tmp_path / "out", {"job": 1})
    assert again.resume("train") == each
    again.close()


def test_an_unfinished_packing_of_something_else_is_not_mixed_in(tmp_path: Path) -> None:
    packing = storage.Packing(tmp_path / "out", {"job": 1})
    with pytest.raises(UserError, match="another packing is writing"):
        in_another_process(tmp_path / "out")
    packing.close()
    with pytest.raises(UserError, match="unfinished packing of other images or with other options"):
        storage.Packing(tmp_path / "out", {"job": 2})


def in_another_process(folder: Path) -> None:
    """Raises what a second packing there raises: the lock belongs to a process."""
    code = (
        "import sys; from pathlib import Path; from vco.storage.shards import Packing\n"
        "Packing(Path(sys.argv[1]), {'job': 1})"
    )
    result = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    raise UserError(result.stderr.splitlines()[-1])


def test_a_shard_of_damaged_images_alone_is_none(tmp_path: Path) -> None:
    packing = storage.Packing(tmp_path / "out", {"job": 1})
    packing.write("train", iter([storage.Record(number=0, label=0, ending="", fault="bad")]), 10, 0)
    packing.write("test", records(3), 10**6, 0)
    packing.finish(ABOUT)
    packing.close()
    assert sorted(tree(tmp_path / "out")) == ["bad-images.txt", "index.json", "index.safetensors", "test-000000.tar"]


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bytes(root: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, threading, time; import vco.commands.data_pack as pack; import vco.cli as cli\n"
        "pack.MB = 3000; real = pack._record; begun = []; life = float(sys.argv.pop())\n"
        "def slow(*a):\n"
        "    if life and not begun:  # its life is counted from its first image on, however slow a machine starts it\n"
        "        begun.append(threading.Timer(life, os.kill, (os.getpid(), signal.SIGKILL)))\n"
        "        begun[0].daemon = True; begun[0].start()\n"
        "    time.sleep(0.05)\n"
        "    return real(*a)\n"
        "pack._record = slow; sys.exit(cli.main_vco(sys.argv[1:]))"
    )
    argv = ["data", "pack", str(root), "--data.size", "8", "--shard-size", "1", "--threads", "1", "--out"]
    out, kills = tmp_path / "out", 0
    while not out.exists():
        life = str(0.4 + 0.05 * kills)
        program = [sys.executable, "-c", code, *argv, str(out), life]
        status = subprocess.run(program, stderr=subprocess.DEVNULL).returncode
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
    assert kills >= 2
    whole = subprocess.run([sys.executable, "-c", code, *argv, str(tmp_path / "whole"), "0"], stderr=subprocess.DEVNULL)
    assert whole.returncode == 0
    assert tree(out) == tree(tmp_path / "whole")


# ------------------------------------------------------------------------------------------------------------- threads


def test_results_of_threads_come_in_order_and_errors_in_their_turn() -> None:
    def work(index: int) -> int:
        time.sleep(0.002 * (index % 3))
        if index == 30:
            raise UserError("thirty")
        return index

    found: list[int] = []
    with pytest.raises(UserError, match="thirty"):
        found.extend(in_threads(work, range(100), 4))
    assert list(in_threads(work, range(29), 4)) == list(range(29))


def test_threads_do_not_run_far_ahead_of_who_takes_the_results() -> None:
    begun: list[int] = []
    results = in_threads(lambda index: begun.append(index), range(1000), 2)
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 2 * 4 + 1
    results.close()  # pyright: ignore[reportAttributeAccessIssue]
