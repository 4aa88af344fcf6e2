"""Folders of images: listing, ADM's crop, mirroring, and what is said when something is missing."""

import pickle
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vco.api import DataSetting, ImageSet, UserError
from vco_plugins.data.image_folder import ImageFolder
from vco_plugins.pictures import center_crop


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels, mode)


def folder(root: Path, *, held_out: str = "val", classes: tuple[str, ...] = ("cat", "ant")) -> ImageFolder:
    for part in ("train", held_out):
        for number, name in enumerate(classes):
            place = root / part / name
            place.mkdir(parents=True)
            picture(21, 17, seed=number).save(place / "a.png")
            picture(16, 40, seed=number + 9).save(place / "b.png")
    return ImageFolder(ImageFolder.Config(root=str(root), size=8, classes=2), DataSetting())


def adm_crop_by_hand(pixels: np.ndarray, size: int) -> np.ndarray:
    """ADM's crop where the shorter side is size * 2^k, so that no bicubic step is left of it; not rounded."""
    while min(pixels.shape[:2]) >= 2 * size:
        height, width, channels = pixels.shape
        pixels = pixels.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


@given(size=st.integers(2, 9), halvings=st.integers(0, 2), surplus=st.integers(0, 6), tall=st.booleans())
def test_crop_equals_block_means_and_slicing_where_only_halving_is_needed(
    size: int, halvings: int, surplus: int, tall: bool
) -> None:
    short, long = size * 2**halvings, (size + surplus) * 2**halvings
    source = picture(short, long) if tall else picture(long, short)
    ours, expected = np.array(center_crop(source, size)), adm_crop_by_hand(np.array(source), size)
    # a halving is two passes (rows, columns) and each rounds by at most half a level
    np.testing.assert_allclose(ours, expected, rtol=0, atol=halvings)


@pytest.mark.parametrize(("width", "height"), [(23, 17), (17, 23), (5, 9), (31, 33)])
def test_crop_equals_bicubic_resize_and_slicing_where_no_halving_fits(width: int, height: int) -> None:
    size, source = 17, picture(width, height)
    scale = size / min(width, height)
    new = (round(width * scale), round(height * scale))
    resized = np.array(source.resize(new, Image.Resampling.BICUBIC))
    top, left = (new[1] - size) // 2, (new[0] - size) // 2
    expected = resized[top : top + size, left : left + size]
    np.testing.assert_array_equal(np.array(center_crop(source, size)), expected)


def test_labels_number_the_class_folders_alphabetically(tmp_path: Path) -> None:
    data = folder(tmp_path)
    train = data.train()
    assert train.labels.tolist() == [0, 0, 1, 1]
    ant = np.array(center_crop(Image.open(tmp_path / "train" / "ant" / "a.png"), 8))
    np.testing.assert_array_equal(train.image(0, None).permute(1, 2, 0).numpy(), ant)


def test_images_have_the_declared_shape_and_are_bytes(tmp_path: Path) -> None:
    data = folder(tmp_path)
    for images in (data.train(), data.test()):
        for index in range(len(images)):
            image = images.image(index, torch.Generator())
            assert image.shape == data.image_shape
            assert image.dtype == torch.uint8


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_other_modes_are_converted_to_rgb(tmp_path: Path, mode: str) -> None:
    data = folder(tmp_path)
    source = picture(8, 8, mode)
    source.save(tmp_path / "train" / "ant" / "a.png")
    expected = torch.from_numpy(np.array(source))
    expected = expected.expand(3, 8, 8) if mode == "L" else expected[..., :3].permute(2, 0, 1)
    assert torch.equal(data.train().image(0, None), expected)


def test_half_of_the_training_images_are_mirrored_by_the_generator(tmp_path: Path) -> None:
    images = folder(tmp_path).train()
    plain = images.image(0, None)
    seen = [images.image(0, torch.Generator().manual_seed(seed)) for seed in range(200)]
    mirrored = sum(torch.equal(image, plain.flip(-1)) for image in seen)
    assert mirrored + sum(torch.equal(image, plain) for image in seen) == 200
    assert 70 <= mirrored <= 130  # 100 expected, standard deviation 7.1: more than four of them


def test_same_generator_gives_the_same_image(tmp_path: Path) -> None:
    images = folder(tmp_path).train()
    one, two = (images.image(1, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)


def test_held_out_images_are_never_mirrored(tmp_path: Path) -> None:
    images = folder(tmp_path).test()
    for seed in range(20):
        assert torch.equal(images.image(0, torch.Generator().manual_seed(seed)), images.image(0, None))


def test_flip_can_be_switched_off(tmp_path: Path) -> None:
    folder(tmp_path)
    config = ImageFolder.Config(root=str(tmp_path), size=8, classes=2, flip=False)
    images = ImageFolder(config, DataSetting()).train()
    for seed in range(20):
        assert torch.equal(images.image(0, torch.Generator().manual_seed(seed)), images.image(0, None))


def test_the_held_out_folder_may_be_called_test(tmp_path: Path) -> None:
    data = folder(tmp_path, held_out="test")
    data.check()
    assert len(data.test()) == 4


def test_image_set_survives_pickling_for_worker_processes(tmp_path: Path) -> None:
    images = folder(tmp_path).train()
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(copy.labels, images.labels)
    assert torch.equal(copy.image(2, None), images.image(2, None))


def test_without_a_folder_it_is_built_for_what_was_said_or_for_imagenets_sizes() -> None:
    data = ImageFolder(ImageFolder.Config(root="/nowhere", size=32, classes=7), DataSetting())
    assert (data.num_classes, data.image_shape) == (7, (3, 32, 32))
    assert ImageFolder(ImageFolder.Config(), DataSetting()).image_shape == (3, 256, 256)


def test_check_accepts_a_complete_folder(tmp_path: Path) -> None:
    folder(tmp_path).check()


def test_check_asks_for_the_root_if_there_is_none() -> None:
    with pytest.raises(UserError, match=r"needs --data\.root"):
        ImageFolder(ImageFolder.Config(), DataSetting()).check()


def test_check_names_a_root_that_does_not_exist(tmp_path: Path) -> None:
    root = tmp_path / "absent"
    with pytest.raises(UserError, match=r"absent \(from --data\.root\)"):
        ImageFolder(ImageFolder.Config(root=str(root)), DataSetting()).check()


def test_check_names_a_part_without_images(tmp_path: Path) -> None:
    folder(tmp_path)
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(UserError, match="has no training images"):
        data(tmp_path).check()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no training images"):
        data(tmp_path / "empty").check()


def test_check_names_a_folder_too_small_to_hold_anything_out(tmp_path: Path) -> None:
    picture(8, 8).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="has no held-out images"):
        data(tmp_path, held_out=1e-9).check()


def test_check_compares_the_number_of_classes(tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(UserError, match=r"has 2 classes with images, but --data\.classes is 3; set --data\.classes 2,"):
        data(tmp_path, classes=3).check()


def test_check_refuses_held_out_images_of_an_unknown_class(tmp_path: Path) -> None:
    found = folder(tmp_path)
    (tmp_path / "val" / "ant").rename(tmp_path / "val" / "bee")
    with pytest.raises(UserError, match="have the class bee, which no training image has"):
        found.check()


# ------------------------------------------------------------------------------------------------------------- layouts


def data(root: Path, **options: Any) -> ImageFolder:
    return ImageFolder(ImageFolder.Config(root=str(root), **options), DataSetting())


def shown_labels(images: ImageSet) -> list[int]:
    return sorted(images.labels.tolist())


def test_classes_and_size_are_read_from_the_folder(tmp_path: Path) -> None:
    folder(tmp_path)
    found = data(tmp_path)
    found.check()
    assert (found.num_classes, found.image_shape) == (2, (3, 16, 16))  # its first image is 21 x 17
    assert found.class_names() == ["ant", "cat"]
    picture(3000, 2000).save(tmp_path / "train" / "ant" / "0.png")
    assert data(tmp_path).image_shape == (3, 256, 256)


def many(root: Path, classes: tuple[str, ...], count: int = 60) -> None:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(4, 4, seed=number * count + i).save(root / name / f"{i}.png")


@pytest.mark.parametrize("below", ["", "train"])
def test_where_nothing_is_held_out_a_share_of_the_images_is(tmp_path: Path, below: str) -> None:
    many(tmp_path / below, ("ant", "cat"))
    found = data(tmp_path, held_out=0.25)
    found.check()
    train, test = found.train(), found.test()
    assert len(train) + len(test) == 120
    assert 15 <= len(test) <= 47  # 30 expected, standard deviation 4.7
    names = [set(images.names) for images in (train, test)]  # pyright: ignore[reportAttributeAccessIssue]
    assert not names[0] & names[1]
    (tmp_path / below / "ant" / "0.png").unlink()  # which image is held out depends on no other
    again = data(tmp_path, held_out=0.25)
    assert set(again.test().names) <= names[1]  # pyright: ignore[reportAttributeAccessIssue]


def test_images_without_classes_are_one_class(tmp_path: Path) -> None:
    many(tmp_path, ("",))
    found = data(tmp_path)
    found.check()
    assert (found.num_classes, found.class_names()) == (1, [""])
    assert set(shown_labels(found.train()) + shown_labels(found.test())) == {0}


def test_a_zip_file_is_read_as_the_folder_in_it(tmp_path: Path) -> None:
    found = folder(tmp_path / "images")
    packed = data(Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "images")), size=8)
    packed.check()
    assert packed.class_names() == found.class_names()
    for ours, theirs in ((packed.train(), found.train()), (packed.test(), found.test())):
        assert torch.equal(ours.labels, theirs.labels)
        copy = pickle.loads(pickle.dumps(ours))
        for i in range(len(ours)):
            assert torch.equal(ours.image(i, None), theirs.image(i, None))
            assert torch.equal(copy.image(i, None), theirs.image(i, None))
        assert list(ours.identity()) == list(theirs.identity())


def test_a_folder_that_moves_keeps_its_identity(tmp_path: Path) -> None:
    folder(tmp_path / "a")
    before = list(data(tmp_path / "a").train().identity())
    (tmp_path / "a").rename(tmp_path / "b")
    assert list(data(tmp_path / "b").train().identity()) == before
    (tmp_path / "b" / "train" / "ant" / "a.png").rename(tmp_path / "b" / "train" / "ant" / "c.png")
    assert list(data(tmp_path / "b").train().identity()) != before


def test_links_in_a_circle_list_every_image_once(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "train" / "ant" / "round").symlink_to(tmp_path / "train" / "ant", target_is_directory=True)
    (tmp_path / "train" / "cat" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert len(data(tmp_path).train()) == 4


# ------------------------------------------------------------------------------------------------------------- pictures


def read_one(tmp_path: Path, image: Image.Image, name: str = "a.png", **options: Any) -> torch.Tensor:
    """What is read of one picture in a folder of its own, at size 8."""
    tmp_path.mkdir(exist_ok=True)
    image.save(tmp_path / name, **options)
    picture(8, 8).save(tmp_path / "other.png")
    found = data(tmp_path, size=8, held_out=1e-9, flip=False)
    images = found.train()
    return images.image(images.names.index(name), None)  # pyright: ignore[reportAttributeAccessIssue]


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    read = read_one(tmp_path, Image.fromarray(levels))
    assert torch.equal(read, torch.from_numpy((levels / 257).round().astype(np.uint8)).expand(3, 8, 8))


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    source = picture(8, 8)
    exif = Image.Exif()
    exif[274] = 6  # the camera was held upright: turn by a quarter to the right
    read = read_one(tmp_path, source, exif=exif)
    expected = np.rot90(np.array(source), k=-1)
    assert torch.equal(read, torch.from_numpy(expected.copy()).permute(2, 0, 1))


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1)])
def test_a_very_long_picture_takes_little_memory(tmp_path: Path, shape: tuple[int, int]) -> None:
    source = Image.fromarray(np.full((*shape, 3), 99, dtype=np.uint8))
    tracemalloc.start()
    read = center_crop(source, 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(np.array(read), np.full((256, 256, 3), 99))
    assert peak < 20_000_000
    assert read_one(tmp_path, source).unique().tolist() == [99]


@pytest.mark.parametrize(("mode", "suffix"), [("P", "gif"), ("CMYK", "jpg"), ("LA", "png"), ("1", "png")])
def test_other_formats_are_read(tmp_path: Path, mode: str, suffix: str) -> None:
    assert read_one(tmp_path, picture(9, 12).convert(mode), f"a.{suffix}").shape == (3, 8, 8)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vco_plugins.pictures.MOST_PIXELS", 80)
    with pytest.raises(UserError, match="has 9 x 9 pixels, and more than 80 are not read"):
        read_one(tmp_path, picture(9, 9))


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="floating-point pixels, whose range is not known"):
        read_one(tmp_path, Image.fromarray(np.ones((8, 8), np.float32)), "a.tif")


def test_control_characters_of_a_name_do_not_reach_the_terminal(tmp_path: Path) -> None:
    name = "a\x1b[31m.png"
    (tmp_path / name).write_bytes(b"no image")
    picture(8, 8).save(tmp_path / "b.png")
    images = data(tmp_path, size=8, held_out=1e-9).train()
    with pytest.raises(UserError, match=r"cannot be read") as caught:
        images.image(images.names.index(name), None)  # pyright: ignore[reportAttributeAccessIssue]
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: b"text", lambda content: content[:150]])
def test_a_damaged_image_is_an_error_that_names_the_file(tmp_path: Path, damage) -> None:
    images = folder(tmp_path).train()
    file = tmp_path / "train" / "ant" / "b.png"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"ant/b\.png cannot be read"):
        images.image(1, None)
