import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from vco.api import ImageSet, UserError
from vco.config.settings import TrainConfig
from vco.data.reader import chunks, read, to_float, to_uint8
from vco.errors import SingleProcessError


class Squares(ImageSet):
    """Image i is filled with i; augmented, noise is added."""

    def __init__(self, size: int = 20) -> None:
        self.labels: Int[Tensor, " size"] = torch.arange(size) % 5

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        plain = torch.full((1, 4, 4), index, dtype=torch.uint8)
        if generator is None:
            return plain
        return plain + torch.randint(0, 100, plain.shape, generator=generator, dtype=torch.uint8)


class Unreadable(Squares):
    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        raise UserError(f"image {index} cannot be read; replace it")


class Spoilt(Squares):
    """Images 3, 8 and 13 cannot be read; another of their class (3, 8, 13, 18) is read in their place."""

    on_bad = "skip"

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        if index in (3, 8, 13):
            raise UserError(f"image {index} cannot be read")
        return super().image(index, generator)


class Captioned(Squares):
    """Every image has a caption."""

    def extras(self, index: int) -> Mapping[str, Tensor]:
        return {"caption": torch.tensor([index, index + 1])}


def test_readers_give_the_same_images_as_none() -> None:
    batches = [[(3, 0), (1, 0)], [(0, 1)], [(3, 1), (2, 7)]]
    alone, helped = (list(read(Squares(), batches, TrainConfig(workers=workers), 0)) for workers in (0, 2))
    assert len(alone) == 3
    assert all(torch.equal(a.images, b.images) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_labels_and_extras_come_with_the_images_they_belong_to(workers: int) -> None:
    keys = [[(3, 0), (1, 0)], [(7, 2)]]
    first, second = read(Captioned(), keys, TrainConfig(workers=workers))
    assert (first.keys, second.keys) == (keys[0], keys[1])
    assert first.images.flatten(1).unique(dim=1).flatten().tolist() == [3, 1]
    assert first.labels.tolist() == [3, 1]
    assert first.extras["caption"].tolist() == [[3, 4], [1, 2]]
    assert second.labels.tolist() == [2]  # image 7 of 5 classes
    assert second.extras["caption"].tolist() == [[7, 8]]


def test_augmentation_is_a_function_of_seed_epoch_and_index() -> None:
    def image(index: int, epoch: int, seed: int = 0, before: int = 0) -> list[int]:
        batch = [(9, 9)] * before + [(index, epoch)]
        return next(read(Squares(), [batch], TrainConfig(), seed)).images[-1].flatten().tolist()

    assert image(1, 0) == image(1, 0, before=3)
    assert image(1, 0) != image(1, 1)
    assert image(1, 0) != image(1, 0, seed=1)
    assert [value - 2 for value in image(2, 0)] != [value - 1 for value in image(1, 0)]


def test_without_augmentation_images_come_as_they_are() -> None:
    images = next(read(Squares(), chunks([4, 2], 2), TrainConfig())).images
    assert images.flatten(1).unique(dim=1).flatten().tolist() == [4, 2]


def test_reading_leaves_the_ambient_generator_alone() -> None:
    state = torch.get_rng_state()
    list(read(Squares(), chunks(list(range(6)), 2), TrainConfig(workers=1), 0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_one_sentence_also_from_a_reader_process(workers: int) -> None:
    with pytest.raises(SingleProcessError) as caught:
        list(read(Unreadable(), [[(7, 0)]], TrainConfig(workers=workers)))
    assert str(caught.value) == "image 7 cannot be read; replace it"


HOST = """
import multiprocessing, sys, time
from pathlib import Path
from test_reader import Squares
from vco.config.settings import TrainConfig
from vco.data.reader import chunks, read

def write(path):
    time.sleep(2)
    Path(path).write_text("alive")

child = multiprocessing.get_context("fork").Process(target=write, args=sys.argv[1:])
child.start()
reading = read(Squares(), chunks(list(range(20)), 2), TrainConfig(workers=2))
next(reading)
print(*(process.pid for process in multiprocessing.active_children() if process is not child))
raise RuntimeError("the host ends with an error while readers are at work")
"""


def test_the_end_of_the_program_ends_the_readers_and_no_other_child_of_the_host(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", HOST, str(marker)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert "RuntimeError: the host ends" in done.stderr
    readers = done.stdout.split()
    assert len(readers) == 2
    assert not [number for number in readers if Path("/proc", number).exists()]
    assert marker.read_text() == "alive"


def test_importing_the_reader_registers_nothing_for_the_end_of_the_program() -> None:
    code = "import atexit, torch, torch.utils.data, vco.api; n = atexit._ncallbacks()\n" + (
        "import vco.data.reader; print(atexit._ncallbacks() - n)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_chunks_run_once_through_all_indices() -> None:
    assert chunks([5, 6, 7], 2) == [[(5, 0), (6, 0)], [(7, 0)]]


# --------------------------------------------------------------------------------------------------------------- pixels


def test_every_gray_level_survives_the_way_to_floats_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    floats = to_float(levels)
    assert (floats.min(), floats.max(), floats.dtype) == (-1.0, 1.0, torch.float32)
    assert torch.equal(to_uint8(floats), levels)


def test_values_outside_the_range_are_clipped() -> None:
    assert to_uint8(torch.tensor([-3.0, -1.001, 1.001, 9.0])).tolist() == [0, 0, 255, 255]


# ------------------------------------------------------------------------------------------------- images to be skipped


@pytest.mark.parametrize("workers", [0, 2])
def test_another_image_of_the_class_stands_in_for_one_that_cannot_be_read(workers: int) -> None:
    (batch,) = read(Spoilt(), [[(3, 0), (4, 0), (13, 0)]], TrainConfig(workers=workers))
    assert batch.images[:, 0, 0, 0].tolist() == [18, 4, 18]
    assert batch.labels.tolist() == [3, 4, 3]
    assert batch.faults == ["image 3 cannot be read", "image 13 cannot be read"]


def test_the_image_that_stands_in_is_augmented_with_its_own_draws() -> None:
    (spoilt,) = read(Spoilt(), [[(8, 2)]], TrainConfig(), 5)
    (sound,) = read(Spoilt(), [[(18, 2)]], TrainConfig(), 5)
    assert torch.equal(spoilt.images, sound.images)


def test_a_class_without_any_readable_image_is_one_sentence() -> None:
    class Gone(Unreadable):
        on_bad = "skip"

    with pytest.raises(
        SingleProcessError, match=r"image 3 cannot be read; replace it .and none of the 20 images after"
    ):
        list(read(Gone(), [[(3, 0)]], TrainConfig()))
