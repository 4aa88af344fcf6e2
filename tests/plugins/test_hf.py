"""Parquet files and folders of them, as the library datasets reads them."""

import pickle
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import packed
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from vco.api import DataSetting, UserError
from vco.cli import main_vco
from vco.config.settings import TrainConfig
from vco.data.reader import read
from vco_plugins.data.hf import HuggingFace
from vco_plugins.pictures import center_crop

NAMES = ["ant", "bee", "cat"]


@pytest.fixture(autouse=True)
def own_tables(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("tables"))
    datasets.disable_progress_bars()


def file(seed: int) -> bytes:
    """A picture of 20 x 24 random pixels as a PNG file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    target = BytesIO()
    Image.fromarray(pixels).save(target, "png")
    return target.getvalue()


def expected(seed: int, size: int = 8) -> torch.Tensor:
    return torch.from_numpy(np.array(center_crop(Image.open(BytesIO(file(seed))), size))).permute(2, 0, 1)


def rows(first: int, count: int) -> dict[str, list[Any]]:
    images = [{"bytes": file(first + i), "path": None} for i in range(count)]
    return {"image": images, "label": [i % 3 for i in range(count)]}


def parquet(path: Path, first: int = 0, count: int = 30) -> Path:
    """A file whose columns have types of the library."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    path.parent.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(rows(first, count), features=features).to_parquet(path)
    return path


def plain_parquet(path: Path, **columns: list[Any]) -> Path:
    """A file whose columns have no types but those of parquet."""
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def both_splits(root: Path, test: str = "test") -> Path:
    parquet(root / "train-00000-of-00001.parquet")
    parquet(root / f"{test}-00000-of-00001.parquet", first=100, count=6)
    return root


def data(path: Path | str, size: int | None = 8, **options: Any) -> HuggingFace:
    return HuggingFace(HuggingFace.Config(path=str(path), size=size, **options), DataSetting())


def checked(path: Path | str, size: int | None = 8, **options: Any) -> HuggingFace:
    found = data(path, size, **options)
    found.check()
    return found


@pytest.mark.parametrize("test", ["test", "validation"])
def test_a_folder_of_parquet_files_has_their_splits(tmp_path: Path, test: str) -> None:
    found = checked(both_splits(tmp_path / "set", test))
    assert (found.num_classes, found.image_shape, found.class_names()) == (3, (3, 8, 8), NAMES)
    train, held_out = found.train(), found.test()
    assert train.labels.tolist() == [0, 1, 2] * 10
    assert held_out.labels.tolist() == [0, 1, 2] * 2
    assert all(torch.equal(train.image(i, None), expected(i)) for i in range(30))
    assert all(torch.equal(held_out.image(i, None), expected(100 + i)) for i in range(6))


def test_of_a_single_file_a_share_is_held_out(tmp_path: Path) -> None:
    found: Any = checked(parquet(tmp_path / "one.parquet", count=60), held_out=0.3)
    train, test = found.train(), found.test()
    assert sorted([*train.numbers, *test.numbers]) == list(range(60))
    assert 7 <= len(test) <= 29  # 18 expected, standard deviation 3.5
    for images in (train, test):
        for i, number in enumerate(images.numbers):
            assert torch.equal(images.image(i, None), expected(int(number)))
            assert images.labels[i] == number % 3


def test_a_set_that_was_saved_to_disk_is_read(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    table = datasets.Dataset.from_dict(rows(0, 12), features=features).select([3, 2, 1, 0, 7, 8, 9])  # not in order
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(tmp_path / "saved")
    found = checked(tmp_path / "saved")
    assert found.train().labels.tolist() == [0, 2, 1, 0, 1, 2, 0]
    assert torch.equal(found.train().image(0, None), expected(3))


@pytest.mark.parametrize(
    ("values", "names"), [([7, 3, 7, 5] * 5, ["3", "5", "7"]), (["b", "a", "b", "c"] * 5, ["a", "b", "c"])]
)
def test_columns_without_types_may_be_named(tmp_path: Path, values: list[Any], names: list[str]) -> None:
    path = plain_parquet(tmp_path / "a.parquet", picture=rows(0, 20)["image"], kind=values, width=[1.5] * 20)
    with pytest.raises(UserError, match=r"has 0 columns that may be the labels; name one .*kind, width.*, or none"):
        data(path).check()
    found: Any = checked(path, label_column="kind", held_out=0.3)
    assert found.class_names() == names
    train = found.train()
    assert train.labels.tolist() == [names.index(str(values[number])) for number in train.numbers]
    without = checked(path, label_column="none")
    assert (without.num_classes, without.class_names(), set(without.train().labels.tolist())) == (1, [""], {0})


def test_the_size_is_that_of_the_first_image(tmp_path: Path) -> None:
    assert data(parquet(tmp_path / "a.parquet"), size=None).image_shape == (3, 16, 16)
    assert data("", size=None).image_shape == (3, 256, 256)


def test_half_of_the_training_images_are_mirrored_by_the_generator_and_no_held_out_one(tmp_path: Path) -> None:
    found = checked(both_splits(tmp_path / "set"))
    train, test = found.train(), found.test()
    plain = train.image(0, None)
    seen = [train.image(0, torch.Generator().manual_seed(seed)) for seed in range(200)]
    mirrored = sum(torch.equal(image, plain.flip(-1)) for image in seen)
    assert mirrored + sum(torch.equal(image, plain) for image in seen) == 200
    assert 70 <= mirrored <= 130  # 100 expected, standard deviation 7.1: more than four of them
    assert all(torch.equal(test.image(0, torch.Generator().manual_seed(s)), test.image(0, None)) for s in range(20))


def test_a_pickled_copy_and_reader_processes_read_the_same(tmp_path: Path) -> None:
    images = checked(both_splits(tmp_path / "set")).train()
    copy = pickle.loads(pickle.dumps(images))
    assert all(torch.equal(copy.image(i, None), images.image(i, None)) for i in range(len(images)))
    batches = [[(i, 0) for i in range(first, first + 6)] for first in (0, 6, 12)]
    one, two = (list(read(images, batches, TrainConfig(workers=workers), 0)) for workers in (0, 2))
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, two, strict=True))


def test_originals_of_its_files_can_be_packed(tmp_path: Path) -> None:
    root = both_splits(tmp_path / "set")
    argv = ["data", "pack", str(root), "--data", "hf", "--data.size", "8", "--out", str(tmp_path / "out"), "--original"]
    assert main_vco(argv) == 0
    images: Any = packed.shards(tmp_path / "out").test()
    assert images.file(2) == ("png", file(102))
    assert torch.equal(images.image(2, None), expected(102))


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_the_missing_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets: pip install datasets, or 'vco\[hf\]'"):
        data(parquet_without_import(tmp_path)).check()


def parquet_without_import(folder: Path) -> Path:
    return plain_parquet(folder / "a.parquet", image=rows(0, 4)["image"], label=[0, 1, 0, 1])


@pytest.mark.parametrize(
    ("path", "options", "sentence"),
    [
        ("", {}, r"it needs --data\.path"),
        ("/nowhere/x", {}, r"no file and no folder /nowhere/x \(from --data\.path\)"),
        (
            "FILE",
            {"image_column": "img"},
            r"has no column img; name one of its columns image, label with --data\.image-c",
        ),
        ("FILE", {"label_column": "image"}, "holds neither whole numbers nor words"),
        ("FOLDER", {"subset": "b"}, r"cannot be loaded \(BuilderConfig 'b' not found.*--data\.path and --data\.subset"),
        ("TEXT", {}, r"cannot be loaded \(.*check --data\.path"),
        ("FILE", {"held_out": 1e-12}, "has no held-out images"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, path: str, options: dict[str, Any], sentence: str) -> None:
    (tmp_path / "text.parquet").write_text("no table")
    places = {
        "FILE": tmp_path / "a.parquet", "FOLDER": tmp_path / "set", "TEXT": tmp_path / "text.parquet"
    }  # fmt: skip
    parquet(places["FILE"])
    both_splits(places["FOLDER"])
    with pytest.raises(UserError, match=sentence) as caught:
        data(places.get(path, path), **options).check()
    assert "\n" not in str(caught.value)


def test_rows_without_a_class_are_counted(tmp_path: Path) -> None:
    parquet(tmp_path / "set" / "train.parquet")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    unknown = {"image": rows(50, 4)["image"], "label": [-1, 0, -1, 1]}
    datasets.Dataset.from_dict(unknown, features=features).to_parquet(tmp_path / "set" / "test.parquet")
    with pytest.raises(UserError, match=r"2 held-out images in .* have no class"):
        data(tmp_path / "set").check()


def test_rows_without_an_image_and_damaged_ones_are_named(tmp_path: Path) -> None:
    images = [*rows(0, 28)["image"], {"bytes": None, "path": None}, {"bytes": b"no image", "path": None}]
    path = plain_parquet(tmp_path / "set" / "train.parquet", image=images, label=[0, 1] * 15)
    plain_parquet(tmp_path / "set" / "test.parquet", image=images[:4], label=[0, 1] * 2)
    train = checked(path.parent, on_bad="skip").train()
    with pytest.raises(UserError, match="Row 28 has no image in its column image"):
        train.image(28, None)
    with pytest.raises(UserError, match=r"of row 29 in .* cannot be read"):
        train.image(29, None)
    (batch,) = read(train, [[(28, 0), (29, 0)]], TrainConfig(workers=0), None)
    assert torch.equal(batch.images, torch.stack([expected(0), expected(1)]))
