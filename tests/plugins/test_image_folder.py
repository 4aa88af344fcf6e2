"""Folders of images: listing, ADM's crop, mirroring, and what is said when something is missing."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vco.api import DataSetting, UserError
from vco_plugins.data.image_folder import ImageFolder, center_crop


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


def test_constructing_reads_no_files() -> None:
    data = ImageFolder(ImageFolder.Config(root="/nowhere", size=32, classes=7), DataSetting())
    assert (data.num_classes, data.image_shape) == (7, (3, 32, 32))


def test_check_accepts_a_complete_folder(tmp_path: Path) -> None:
    folder(tmp_path).check()


def test_check_asks_for_the_root_if_there_is_none() -> None:
    with pytest.raises(UserError, match=r"needs --data\.root"):
        ImageFolder(ImageFolder.Config(), DataSetting()).check()


def test_check_names_a_root_that_does_not_exist(tmp_path: Path) -> None:
    root = tmp_path / "absent"
    with pytest.raises(UserError, match=r"absent \(from --data\.root\)"):
        ImageFolder(ImageFolder.Config(root=str(root)), DataSetting()).check()


@pytest.mark.parametrize(("missing", "said"), [("train", "no folder train"), ("val", "no folder val or test")])
def test_check_names_a_part_that_is_missing(tmp_path: Path, missing: str, said: str) -> None:
    data = folder(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"--data\.root.* {said};"):
        data.check()


def test_check_compares_the_number_of_classes(tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(UserError, match=r"2 class folders, but --data\.classes is 3"):
        ImageFolder(ImageFolder.Config(root=str(tmp_path), classes=3), DataSetting()).check()


def test_check_refuses_a_held_out_set_of_loose_files(tmp_path: Path) -> None:
    data = folder(tmp_path)
    for place in (tmp_path / "val").iterdir():
        (place / "a.png").rename(tmp_path / "val" / f"{place.name}.png")
        (place / "b.png").unlink()
        place.rmdir()
    with pytest.raises(UserError, match=r"val \(from --data\.root\) has 0 class folders"):
        data.check()


def test_check_refuses_classes_that_differ_between_the_parts(tmp_path: Path) -> None:
    data = folder(tmp_path)
    (tmp_path / "val" / "ant").rename(tmp_path / "val" / "bee")
    with pytest.raises(UserError, match="'ant' is in one of them only"):
        data.check()


def test_a_class_without_images_is_an_error_with_its_name(tmp_path: Path) -> None:
    data = folder(tmp_path)
    for file in (tmp_path / "train" / "cat").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"--data\.root.*cat"):
        data.train()


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: b"text", lambda content: content[:150]])
def test_a_damaged_image_is_an_error_that_names_the_file(tmp_path: Path, damage) -> None:
    images = folder(tmp_path).train()
    file = tmp_path / "train" / "ant" / "b.png"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"ant/b\.png cannot be read"):
        images.image(1, None)
