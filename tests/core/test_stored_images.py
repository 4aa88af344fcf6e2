"""Images in folders and npz files, and what is refused."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vco.errors import UserError
from vco.evaluation.checks import Checks
from vco.evaluation.stored import FolderImages, NpzImages, open_images


def pixels(count: int, channels: int = 1, side: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def folder(path: Path, images: np.ndarray, ending: str = "png") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(path / f"{number:03d}.{ending}")
    return path


def everything(path: Path, size: int = 4) -> torch.Tensor:
    stored = open_images(path)
    return torch.cat(list(stored.batches(range(stored.count), size)))


# -------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_and_an_npz_file_hold_the_same_images(channels: int, tmp_path: Path) -> None:
    images = pixels(9, channels)
    np.savez(tmp_path / "plain.npz", images=images)
    np.savez_compressed(tmp_path / "adm.npz", arr_0=images)
    np.savez(tmp_path / "fortran.npz", images=np.asfortranarray(images))
    expected = torch.from_numpy(images).permute(0, 3, 1, 2)
    for path in (folder(tmp_path / "png", images), *tmp_path.glob("*.npz")):
        assert torch.equal(everything(path), expected), path
        assert open_images(path).shape == (channels, 8, 8)


def test_a_process_reads_its_share_in_order(tmp_path: Path) -> None:
    images = pixels(11)
    np.savez(tmp_path / "some.npz", images=images)
    for path in (folder(tmp_path / "png", images), tmp_path / "some.npz"):
        parts = list(open_images(path).batches(range(1, 9, 3), 2))
        assert [len(part) for part in parts] == [2, 1]
        assert torch.equal(torch.cat(parts), torch.from_numpy(images[[1, 4, 7]]).permute(0, 3, 1, 2))
        assert list(open_images(path).batches(range(0), 2)) == []


def test_gray_images_among_coloured_ones_are_coloured_too(tmp_path: Path) -> None:
    folder(tmp_path, pixels(2, 3))
    Image.fromarray(pixels(1).squeeze()).save(tmp_path / "gray.png")
    found = everything(tmp_path)
    assert found.shape == (3, 3, 8, 8)
    assert torch.equal(found[2, 0], found[2, 2])


def test_images_in_folders_below_and_jpeg_files_count_and_losses_are_said(tmp_path: Path) -> None:
    folder(tmp_path / "a" / "b", pixels(2, 3))
    folder(tmp_path / "c", pixels(1, 3), ending="jpg")
    stored = open_images(tmp_path)
    assert stored.count == 3
    assert stored.notes == ("1 of 3 images are JPEG files, whose losses count in scores",)


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    first = open_images(folder(tmp_path / "a", pixels(3))).digest()
    assert open_images(folder(tmp_path / "b", pixels(3))).digest() == first
    assert open_images(folder(tmp_path / "c", pixels(3, seed=1))).digest() != first


def test_the_label_law_is_what_vco_sample_or_the_labels_say(tmp_path: Path) -> None:
    path = folder(tmp_path / "png", pixels(4))
    assert open_images(path).law(range(4)) == "unknown"
    (path / "sample.json").write_text(json.dumps({"labels": "data"}))
    assert open_images(path).law(range(4)) == "data"
    (path / "sample.json").write_text("[")
    assert open_images(path).law(range(4)) == "unknown"
    np.savez(tmp_path / "even.npz", images=pixels(4), labels=np.array([1, 0, 0, 1]))
    np.savez(tmp_path / "odd.npz", images=pixels(4), labels=np.array([1, 1, 0, 1]))
    np.savez(tmp_path / "said.npz", images=pixels(4), sample=np.array(json.dumps({"labels": "data"})))
    laws = {name: open_images(tmp_path / f"{name}.npz").law(range(4)) for name in ("even", "odd", "said")}
    assert laws == {"even": "balanced", "odd": "unknown", "said": "data"}
    labels = open_images(tmp_path / "even.npz").labels
    assert labels is not None
    assert labels.tolist() == [1, 0, 0, 1]


def test_a_part_of_a_folder_is_drawn_from_all_of_it_and_always_the_same(tmp_path: Path) -> None:
    """Files are often sorted by class: the first by name would be those of one."""
    path, images = folder(tmp_path / "png", pixels(40)), pixels(40)
    chosen = list(open_images(path).part(10))
    assert chosen == sorted(set(chosen)) == list(open_images(path).part(10))
    assert min(sum(here in range(start, start + 20) for here in chosen) for start in (0, 20)) >= 2
    assert chosen != list(range(10))
    found = torch.cat([*open_images(path).batches(chosen, 4)])
    assert torch.equal(found, torch.from_numpy(images[chosen]).permute(0, 3, 1, 2))
    assert list(open_images(path).part(40)) == list(range(40))


def test_a_part_of_what_vco_sample_has_made_is_what_it_makes_of_fewer(tmp_path: Path) -> None:
    path = folder(tmp_path / "png", pixels(40))
    (path / "sample.json").write_text(json.dumps({"num": 40, "labels": "balanced"}))
    assert list(open_images(path).part(10)) == list(range(10))
    assert open_images(path).law(open_images(path).part(10)) == "balanced"


@pytest.mark.parametrize(
    ("labels", "held"),
    [
        (np.arange(3), "int64[3]"),
        (np.zeros(4), "float64[4]"),
        (np.full(4, -1), "negative numbers"),
        (np.zeros((4, 10), int), "int64[4, 10]"),
    ],
)
def test_labels_that_are_no_classes_are_not_used_and_that_is_said(labels: object, held: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=pixels(4), labels=np.asarray(labels))
    stored = open_images(tmp_path / "a.npz")
    assert stored.labels is None
    assert stored.notes == (f"labels in {tmp_path / 'a.npz'} is no class for each image ({held}), and is not used",)


def test_labels_of_any_size_have_a_law(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=pixels(4), labels=np.array([0, 1, 2, 2**62]))
    assert open_images(tmp_path / "a.npz").law(range(4)) == "unknown"


def test_a_link_to_an_image_that_is_gone_is_missed(tmp_path: Path) -> None:
    path = folder(tmp_path / "png", pixels(4))
    (path / "link.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"link\.png cannot be read"):
        open_images(path)


def test_the_law_of_a_part_is_that_of_its_own_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=pixels(40), labels=np.repeat([0, 1], 20))
    stored = open_images(tmp_path / "a.npz")
    assert stored.law(range(40)) == "balanced"
    assert stored.law([0, 1, 2, 39]) == "unknown"


# ------------------------------------------------------------------------------------------------------------- refusals


def refused(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        everything(path)
    said = str(caught.value)
    assert "\n" not in said
    assert all(word in said for word in words), said


def test_an_empty_folder_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "there are no PNG or JPEG images in")
    refused(tmp_path / "nowhere", "there is nothing of that name")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", "neither a folder of images nor an npz file")


def test_mixed_sizes_are_refused_with_one_of_each(tmp_path: Path) -> None:
    folder(tmp_path, pixels(2))
    Image.fromarray(pixels(1, side=16).squeeze()).save(tmp_path / "large.png")
    refused(tmp_path, "000.png is 8x8", "large.png 16x16")


def test_transparent_and_damaged_images_are_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8)).save(tmp_path / "glass.png")
    refused(tmp_path, "glass.png", "mode RGBA", "save it as RGB")
    whole = folder(tmp_path / "cut", pixels(1, 3, 64)) / "000.png"
    whole.write_bytes(whole.read_bytes()[:2000])
    refused(tmp_path / "cut", "000.png cannot be read")
    whole.write_bytes(b"no image")
    refused(tmp_path / "cut", "000.png cannot be read")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros(3)}, ["no array of images (images or arr_0) but a"]),
        ({}, ["no array of images (images or arr_0) but nothing"]),
        ({"images": np.zeros((2, 8, 8, 1), np.float32)}, ["float32[2, 8, 8, 1]", "uint8 [n, height, width, 1 or 3]"]),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, ["uint8[2, 3, 8, 8]", "channels last"]),
        ({"images": np.zeros((0, 8, 8, 1), np.uint8)}, ["uint8[0, 8, 8, 1]"]),
    ],
)  # fmt: skip
def test_arrays_that_are_no_images_are_refused_with_their_shape(
    arrays: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    np.savez(tmp_path / "some.npz", **arrays)
    refused(tmp_path / "some.npz", *words)


class Attack:
    def __reduce__(self) -> tuple[object, ...]:
        return (eval, ("1 / 0",))


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", images=np.array([Attack()], dtype=object))
    refused(tmp_path / "objects.npz", "pickled objects (images)", "can run anything")
    np.savez(tmp_path / "beside.npz", images=pixels(2), labels=np.array([Attack()], dtype=object))
    refused(tmp_path / "beside.npz", "pickled objects (labels)")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Attack()))
    refused(tmp_path / "pickle.npz", "no npz file that can be read")


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", images=pixels(50))
    with zipfile.ZipFile(tmp_path / "some.npz") as archive:
        content = archive.read("images.npy")
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as archive:
        archive.writestr("images.npy", content[:-100])
    refused(tmp_path / "cut.npz", "cut.npz cannot be read", "it ends in image 48 of 50")


# ----------------------------------------------------------------------------------------------------------- the checks


def test_copies_single_colours_and_levels_that_cannot_be_are_noticed() -> None:
    checks = Checks()
    images = torch.from_numpy(pixels(5)).permute(0, 3, 1, 2)
    checks.look(images)
    assert checks.notes("images") == []
    checks.look(torch.cat([images[:2], torch.full((1, 1, 8, 8), 7, dtype=torch.uint8)]))
    assert checks.notes("images") == [
        "2 of 8 images are copies of others, pixel by pixel", "1 of 8 images have a single color"
    ]  # fmt: skip
    floats = Checks()
    floats.look(images % 2)
    assert "above 1 of 255: they look like images in [0, 1] saved as bytes" in floats.notes("images")[0]


def test_what_processes_have_seen_is_merged_whatever_their_shares() -> None:
    images = torch.from_numpy(pixels(6)).permute(0, 3, 1, 2)
    whole, parts = Checks(), [Checks(), Checks(), Checks()]
    whole.look(images)
    parts[0].look(images[3:])
    parts[1].look(images[:3])
    parts[0].merge(parts)
    assert (parts[0].count, parts[0].hash) == (whole.count, whole.hash) == (6, whole.hash)
    assert (parts[0].low, parts[0].high) == (whole.low, whole.high)


def test_classes_are_told_by_their_kind(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", images=pixels(2))
    assert isinstance(open_images(tmp_path / "some.npz"), NpzImages)
    assert isinstance(open_images(folder(tmp_path / "png", pixels(2))), FolderImages)
