"""Shards show what they were packed from, and say what is missing or damaged."""

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import Any

import fsspec
import numpy as np
import packed
import pytest
import torch

from vco.api import ImageSet, UserError
from vco.config.settings import TrainConfig
from vco.content import of_images
from vco.data.reader import read


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def decoded(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vco.commands.data_pack.MB", 8000)  # so that there are several shards
        return packed.pack(source, tmp_path_factory.mktemp("packed") / "decoded", "--shard-size", "1")


@pytest.fixture(scope="module")
def original(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed.pack(source, tmp_path_factory.mktemp("packed") / "original", "--original")


@pytest.fixture
def own(decoded: Path, tmp_path: Path) -> Path:
    """Decoded shards that a test may damage."""
    return copytree(decoded, tmp_path / "own")


def images_by_number(images: Any) -> dict[int, torch.Tensor]:
    return {int(number): images.image(i, None) for i, number in enumerate(images.table["number"])}


@pytest.mark.parametrize("form", ["decoded", "original"])
def test_images_and_labels_are_those_that_were_packed(form: str, source: Path, request: Any) -> None:
    data, before = packed.shards(request.getfixturevalue(form), size=8), packed.folder(source)
    data.check()
    assert (data.num_classes, data.image_shape) == (before.num_classes, before.image_shape)
    assert list(data.class_names()) == ["ant", "bee", "cat"]
    for ours, theirs in ((data.train(), before.train()), (data.test(), before.test())):
        found = images_by_number(ours)
        assert sorted(found) == list(range(len(theirs)))
        assert all(torch.equal(image, theirs.image(number, None)) for number, image in found.items())
        numbers = torch.tensor(list(found))
        assert torch.equal(ours.labels, theirs.labels[numbers])


def test_training_images_are_shuffled_over_the_shards_and_held_out_ones_keep_their_order(decoded: Path) -> None:
    data = packed.shards(decoded)
    assert data.test().labels.tolist() == sorted(data.test().labels.tolist())
    train: Any = data.train()
    first = train.labels[torch.from_numpy(train.table["shard"] == train.table["shard"][0])]
    assert 1 < len(first) < len(train)
    assert len(first.unique()) > 1


def test_originals_can_be_read_at_any_size_and_decoded_ones_only_at_theirs(
    decoded: Path, original: Path, source: Path
) -> None:
    images: Any = packed.shards(original, size=5).train()
    assert torch.equal(images_by_number(images)[7], packed.folder(source, 5).train().image(7, None))
    with pytest.raises(UserError, match=r"were packed with 3x8x8 pixels, but --data\.size is 5"):
        packed.shards(decoded, size=5).check()


def test_originals_are_kept_byte_for_byte(original: Path, decoded: Path, source: Path) -> None:
    data, before = packed.shards(original).test(), packed.folder(source).test()
    assert [data.file(i) for i in range(len(data))] == [before.file(i) for i in range(len(before))]
    assert data.file(0) == ("png", (source / "val" / "ant" / "00.png").read_bytes())
    assert packed.shards(decoded).test().file(0) is None


def test_half_of_the_training_images_are_mirrored_by_the_generator_and_no_held_out_one(decoded: Path) -> None:
    train, test = packed.shards(decoded).train(), packed.shards(decoded).test()
    plain = train.image(0, None)
    seen = [train.image(0, torch.Generator().manual_seed(seed)) for seed in range(200)]
    mirrored = sum(torch.equal(image, plain.flip(-1)) for image in seen)
    assert mirrored + sum(torch.equal(image, plain) for image in seen) == 200
    assert 70 <= mirrored <= 130  # 100 expected, standard deviation 7.1: more than four of them
    assert all(torch.equal(test.image(0, torch.Generator().manual_seed(s)), test.image(0, None)) for s in range(20))
    still = packed.shards(decoded, flip=False).train()
    assert all(torch.equal(still.image(0, torch.Generator().manual_seed(s)), plain) for s in range(20))


def test_identity_is_that_of_the_images_and_not_of_how_they_are_cut(
    source: Path, decoded: Path, tmp_path: Path
) -> None:
    other = packed.shards(packed.pack(source, tmp_path / "other"))
    assert len(packed.shards(decoded).index.shards) > len(other.index.shards)  # pyright: ignore
    assert of_images(other.train()) == of_images(packed.shards(decoded).train())
    assert of_images(other.train()) != of_images(other.test())
    (source / "train" / "ant" / "00.png").rename(tmp_path / "gone.png")
    try:
        fewer = packed.shards(packed.pack(source, tmp_path / "fewer"))
    finally:
        (tmp_path / "gone.png").rename(source / "train" / "ant" / "00.png")
    assert of_images(fewer.train()) != of_images(other.train())


# ------------------------------------------------------------------------------------------------------------- readers


def test_a_pickled_copy_reads_the_same_and_carries_no_handle(decoded: Path) -> None:
    images = packed.shards(decoded).train()
    images.image(0, None)
    copy: ImageSet = pickle.loads(pickle.dumps(images))
    assert all(torch.equal(copy.image(i, None), images.image(i, None)) for i in range(len(images)))


@pytest.mark.parametrize("remote", [False, True])
def test_reader_processes_read_what_one_process_reads(decoded: Path, remote: bool) -> None:
    images = packed.shards(f"file://{decoded}" if remote else decoded).train()
    images.image(0, None)  # handles are open, or a connection, when the readers are forked
    batches = [[(i, 0) for i in range(first, first + 6)] for first in (0, 6, 12)]
    one, two = (list(read(images, batches, TrainConfig(workers=workers), 0)) for workers in (0, 2))
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, two, strict=True))


def test_threads_that_push_each_others_files_out_read_the_right_images(
    decoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [packed.shards(decoded).train().image(i, None) for i in range(3 * packed.TRAIN)]
    monkeypatch.setattr("vco_plugins.places.OPEN_FILES", 1)
    images = packed.shards(decoded).train()
    order = np.random.default_rng(0).integers(0, len(images), 2000).tolist()
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: images.image(i, None), order))
    assert all(torch.equal(image, expected[i]) for i, image in zip(order, found, strict=True))
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # those pushed out are closed


def test_shards_are_read_where_fsspec_reaches(decoded: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{decoded}/", "/shards/", recursive=True)
    try:
        far, near = packed.shards("memory://shards"), packed.shards(decoded)
        far.check()
        images: Any = pickle.loads(pickle.dumps(far.train()))
        assert all(torch.equal(images.image(i, None), near.train().image(i, None)) for i in range(len(images)))
        assert list(images.identity()) == list(near.train().identity())
        memory.rm("/shards/train-000001.tar")
        inside = images.table["shard"].tolist().index(1)
        with pytest.raises(UserError, match=r"1 of \d+ shards .* as train-000001\.tar, which is missing"):
            far.check()
        with pytest.raises(UserError, match=r"memory://shards/train-000001\.tar cannot be read"):
            images.image(inside, None)
    finally:
        memory.rm("/shards", recursive=True)


@pytest.mark.parametrize(("root", "sentence"), [("nowhere://x", "nowhere"), ("memory://nothing", "There is no index")])
def test_a_location_without_shards_is_said(root: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        packed.shards(root).check()
    assert "--data.root" in str(caught.value)


# -------------------------------------------------------------------------------------------------------------- window


def test_a_window_makes_blocks_of_the_shards_of_training_images(decoded: Path) -> None:
    data = packed.shards(decoded, window=2)
    train: Any = data.train()
    assert train.blocks.window == 2
    ends = np.cumsum(train.blocks.sizes)
    assert ends[-1] == len(train)
    shards = [set(train.table["shard"][end - size : end]) for end, size in zip(ends, train.blocks.sizes, strict=True)]
    assert all(len(shard) == 1 for shard in shards)
    assert len(set.union(*shards)) == len(shards) > 2
    assert data.test().blocks is None
    assert packed.shards(decoded).train().blocks is None


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_check_asks_for_the_root_and_names_one_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs --data\.root"):
        packed.shards("").check()
    with pytest.raises(UserError, match=r"There is no index\.json in .*nothing \(from --data\.root\)"):
        packed.shards(tmp_path / "nothing").check()
    assert packed.shards(tmp_path / "nothing").image_shape == (3, 256, 256)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"[" * 100000, b"\xff\xfe", b'{"format": "vco-shards-1", "image_shape": 3}']
)
def test_a_damaged_index_is_said(own: Path, content: bytes) -> None:
    (own / "index.json").write_bytes(content)
    with pytest.raises(UserError, match=r"index\.json is no index of shards, or a damaged one.*--data\.root"):
        packed.shards(own).check()


def test_an_index_of_another_format_is_said(own: Path) -> None:
    index = json.loads((own / "index.json").read_text())
    (own / "index.json").write_text(json.dumps({**index, "format": "vco-shards-9"}))
    with pytest.raises(UserError, match="has the format 'vco-shards-9' and not 'vco-shards-1'"):
        packed.shards(own).check()


def test_a_cut_and_a_missing_shard_are_named(own: Path) -> None:
    shard = own / "train-000001.tar"
    os.truncate(shard, 700)
    with pytest.raises(
        UserError, match=r"1 of \d+ shards .* are missing or cut, as train-000001\.tar, which has 700 b"
    ):
        packed.shards(own).check()
    shard.unlink()
    (own / "test-000000.tar").unlink()
    with pytest.raises(UserError, match=r"2 of \d+ shards .* as train-000001\.tar, which is missing"):
        packed.shards(own).check()


def test_a_table_that_is_not_the_one_written_is_said(own: Path) -> None:
    table = own / "index.safetensors"
    content = bytearray(table.read_bytes())
    content[-1] ^= 1
    table.write_bytes(content)
    with pytest.raises(UserError, match=r"index\.safetensors in .* is not the one that was written"):
        packed.shards(own).check()
    table.unlink()
    with pytest.raises(UserError, match=r"index\.safetensors is missing"):
        packed.shards(own).check()


def test_an_image_with_a_flipped_bit_or_beyond_the_end_of_its_file_is_refused(own: Path) -> None:
    images: Any = packed.shards(own).test()
    shard, start = own / images.shards[images.table["shard"][4]], int(images.table["start"][4])
    content = bytearray(shard.read_bytes())
    content[start + 100] ^= 4
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"image 000000004 in .*test-\d+\.tar is not what was packed"):
        images.image(4, None)
    images.image(3, None)
    os.truncate(shard, start + 50)
    with pytest.raises(UserError, match=r"image 000000004 in .*test-\d+\.tar cannot be read, as the file ends"):
        images.image(4, None)


def test_where_bad_images_are_skipped_another_of_the_class_is_read(own: Path) -> None:
    images: Any = packed.shards(own, on_bad="skip", flip=False).train()
    shard = own / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[int(images.table["start"][0])] ^= 1
    shard.write_bytes(content)
    (batch,) = read(images, [[(0, 0), (1, 0)]], TrainConfig(workers=0), 0)
    label = images.labels[0]
    other = next(i for i in range(1, len(images)) if images.labels[i] == label)
    assert torch.equal(batch.images[0], images.image(other, None))
    assert len(batch.faults) == 1
