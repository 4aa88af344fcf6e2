"""Laws for data sets."""

import pickle
from functools import lru_cache
from typing import Any, Final

import attrs
import torch

from vco.api import Data, DataSetting, ImageSet, UserError
from vco.config.settings import TrainConfig
from vco.data.reader import read
from vco.testing import options
from vco.testing.case import Case
from vco.testing.law import does_not_apply, law, require
from vco.testing.options import NOWHERE
from vco.testing.sizes import Sizes
from vco.testing.subject import Subject
from vco.testing.tensors import no_ambient_draws, require_same

LOOKED_AT: Final = 64
"""Images of each set that are read."""


@attrs.frozen(kw_only=True)
class DataCase(Case):
    """A data set whose files are there."""

    kind = "data"
    sizes_tried = (Sizes(batch=3),)

    def make(self) -> Data:
        """The data set; reads nothing."""
        return self.subject.component(self.config, DataSetting())

    def sets(self, again: bool = False) -> dict[str, ImageSet]:
        """Both sets; the law does not apply where their files are missing."""
        if again:
            _sets.cache_clear()
        return _sets(self.subject, self.config)

    def indices(self, images: ImageSet) -> list[int]:
        """Some images, the first and the last among them."""
        count = min(len(images), LOOKED_AT)
        return torch.linspace(0, len(images) - 1, count).round().long().tolist()


@lru_cache(maxsize=8)
def _sets(subject: Subject, config: Any) -> dict[str, ImageSet]:
    data = subject.component(config, DataSetting())
    try:
        data.check()
    except UserError as error:
        require(not subject.options, f"its files are missing: {error} (with the settings given)")
        does_not_apply(f"its files are missing: {error}")
    return {"train": data.train(), "test": data.test()}


def _draws(index: int) -> torch.Generator:
    return torch.Generator().manual_seed(index)


@law(DataCase, once=True)
def is_described_before_reading(case: DataCase) -> None:
    """Its constructor knows the number of classes and the images' shape (c, h, w)."""
    data = case.construct()
    classes, shape = data.num_classes, data.image_shape
    require(type(classes) is int and classes >= 1, f"num_classes is {classes!r}")
    require(len(shape) == 3 and all(type(n) is int and n > 0 for n in shape), f"image_shape is {shape!r}")


def _may_miss_files(data: type[Data]) -> bool:
    return data.check is not Data.check or bool(options.elsewhere(data.Config()))


@law(DataCase, once=True, about=_may_miss_files)
def missing_files_are_named(case: DataCase) -> None:
    """If files are missing, check() raises a `UserError` that says what and which option.

    Where they are there, each option of text says in turn that they lie where nothing is.
    """
    before = _said(case, case.config)
    said = {f"--data.{name}": _said(case, config) for name, config in options.elsewhere(case.config).items()}
    if not before and not any(said.values()):
        does_not_apply("its files are always there")
    for option, sentence in said.items():
        if sentence and sentence != before:  # what was missing before comes first
            require(option in sentence, f"{option} is {NOWHERE!r}, and check() does not name it: {sentence!r}")


def _said(case: DataCase, config: Any) -> str:
    """What check() says is missing with this config; empty if it misses nothing."""
    try:
        attrs.evolve(case, config=config).make().check()
    except UserError as error:
        require(len(said := str(error)) > 40, f"check() says only {said!r}")
        return said
    return ""


@law(DataCase, once=True)
def images_are_as_described(case: DataCase) -> None:
    """Every image is uint8 of the shape promised, and they are not all the same."""
    shape = case.construct().image_shape
    for name, images in case.sets().items():
        require(len(images) > 0, f"{name} is empty")
        found = [images.image(i, _draws(i)) for i in case.indices(images)]
        for i, image in zip(case.indices(images), found, strict=True):
            require(image.dtype == torch.uint8, f"{name} image {i} is {image.dtype}")
            require(tuple(image.shape) == tuple(shape), f"{name} image {i} has the shape {tuple(image.shape)}")
        different = {image.numpy().tobytes() for image in found}
        require(len(different) > len(found) // 4, f"{len(found)} images of {name} show {len(different)} pictures")
        require(int(torch.stack(found).max()) > 127, f"the images of {name} use less than half of the range 0..255")


@law(DataCase, once=True)
def labels_match(case: DataCase) -> None:
    """There is one int64 label in [0, num_classes) for every image, and each class occurs in training."""
    data = case.construct()
    for name, images in case.sets().items():
        labels = images.labels
        require(labels.dtype == torch.int64 and labels.ndim == 1, f"{name} labels are {labels.dtype} {labels.shape}")
        require(len(labels) == len(images), f"{name} has {len(labels)} labels and {len(images)} images")
        low, high = int(labels.min()), int(labels.max())
        require(low >= 0 and high < data.num_classes, f"{name} labels run from {low} to {high}")
        images.image(len(images) - 1, None)
    classes = len(case.sets()["train"].labels.unique())
    require(classes == data.num_classes, f"{classes} of {data.num_classes} classes occur in training")


@law(DataCase, once=True)
def labels_say_something_about_images(case: DataCase) -> None:
    """The nearest class mean guesses labels better than chance: images and labels have one order.

    Where there are few classes with many images each.
    """
    data, images = case.construct(), case.sets()["train"]
    indices = torch.randperm(len(images), generator=_draws(0))[:1200]
    if len(indices) < 40 * data.num_classes or data.num_classes < 2:
        does_not_apply("fewer than 40 images of each class among 1,200")
    pixels = torch.stack([images.image(int(i), None).float().flatten() for i in indices])
    labels = images.labels[indices]
    half = len(indices) // 2
    means = torch.stack([pixels[:half][labels[:half] == c].mean(0) for c in range(data.num_classes)])
    guesses = torch.cdist(pixels[half:], means.nan_to_num()).argmin(1)
    right = (guesses == labels[half:]).float().mean().item()
    # how often guess and label would agree if neither knew of the other, however unbalanced the classes are
    guessed, true = (each.bincount(minlength=data.num_classes) / len(each) for each in (guesses, labels[half:]))
    chance = float((guessed * true).sum())
    # five standard errors
    least = chance + 5 * (chance * (1 - chance) / half) ** 0.5
    require(right > least, f"{right:.1%} of the labels are guessed right; chance gives {chance:.1%}")


@law(DataCase, once=True)
def order_is_fixed(case: DataCase) -> None:
    """Built twice, it has the same images and labels in the same order; nothing is drawn from ambient randomness."""
    first = case.sets()
    with no_ambient_draws("building the sets"):
        data = case.construct()
        second = {"train": data.train(), "test": data.test()}
    for name, images in first.items():
        other = second[name]
        require(torch.equal(images.labels, other.labels), f"{name}: other labels the second time")
        for i in case.indices(images):
            require(torch.equal(images.image(i, None), other.image(i, None)), f"{name}: image {i} is another one")


@law(DataCase, once=True)
def augmentation_comes_from_the_generator(case: DataCase) -> None:
    """Image i is a function of i and the generator alone; without a generator it is plain.

    Read again, in another order or from a pickled copy it is the same.
    """
    for name, images in case.sets().items():
        indices = case.indices(images)
        with no_ambient_draws("reading an image"):
            first = [images.image(i, _draws(i)) for i in indices]
            plain = [images.image(i, None) for i in indices]
        copied: ImageSet = pickle.loads(pickle.dumps(images))
        for i, augmented, image in reversed(list(zip(indices, first, plain, strict=True))):
            require(torch.equal(images.image(i, _draws(i)), augmented), f"{name}: image {i} differs when read again")
            require(torch.equal(images.image(i, None), image), f"{name}: the plain image {i} differs when read again")
            require(torch.equal(copied.image(i, _draws(i)), augmented), f"{name}: image {i} of a pickled copy differs")


@law(DataCase, once=True)
def images_are_not_shared(case: DataCase) -> None:
    """Changing an image that was read does not change the data set."""
    for name, images in case.sets().items():
        before = images.image(0, None).clone()
        images.image(0, None).zero_()
        require(torch.equal(images.image(0, None), before), f"{name}: writing into an image changed the set")


@law(DataCase, once=True)
def held_out_images_are_held_out(case: DataCase) -> None:
    """Training and held-out set are not the same images."""
    train, test = case.sets()["train"], case.sets()["test"]
    known = {train.image(i, None).numpy().tobytes() for i in range(min(len(train), 2000))}
    indices = case.indices(test)
    found = sum(test.image(i, None).numpy().tobytes() in known for i in indices)
    require(found <= len(indices) // 10, f"{found} of {len(indices)} held-out images are training images too")


@law(DataCase, once=True)
def extras_are_alike(case: DataCase) -> None:
    """What travels with an image are tensors, of the same names, shapes and dtypes for every image of both sets.

    Read again, and from a pickled copy, they are the same, and drawn from nothing ambient.
    """
    expected: dict[str, Any] | None = None
    for name, images in case.sets().items():
        copied: ImageSet = pickle.loads(pickle.dumps(images))
        for i in case.indices(images):
            with no_ambient_draws("reading what travels with an image"):
                extras = images.extras(i)
            found = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in extras.items()}
            expected = found if expected is None else expected
            require(found == expected, f"{name}: with image {i} travel {found}, with the first one {expected}")
            for key, tensor in extras.items():
                same = torch.equal(tensor, images.extras(i)[key]) and torch.equal(tensor, copied.extras(i)[key])
                require(same, f"{name}: {key} of image {i} differs when read again, or from a pickled copy")


@law(DataCase, once=True)
def blocks_are_all_images(case: DataCase) -> None:
    """If images lie in blocks, every image is in one: sizes are at least 1 and their sum is the number of images."""
    found = {name: images for name, images in case.sets().items() if images.blocks is not None}
    if not found:
        does_not_apply("no images lie in blocks")
    for name, images in found.items():
        blocks = images.blocks
        assert blocks is not None
        sizes = list(blocks.sizes)
        require(min(sizes, default=0) >= 1, f"{name} has a block without images, or none: {sizes[:10]}")
        require(sum(sizes) == len(images), f"the blocks of {name} have {sum(sizes)} images, and it has {len(images)}")
        require(blocks.window >= 1, f"the window of {name} is {blocks.window} blocks")


@law(DataCase, once=True, slow=True)
def any_number_of_workers(case: DataCase) -> None:
    """Two reading processes give what one gives."""
    images = case.sets()["train"]
    batches = [[(i, epoch) for i in case.indices(images)[:6]] for epoch in (0, 1)]
    one, two = (list(read(images, batches, TrainConfig(workers=workers), 0)) for workers in (0, 2))
    for a, b in zip(one, two, strict=True):
        require(torch.equal(a.images, b.images), "other images with two workers")
        require_same(dict(a.extras), dict(b.extras), "what travels with the images, with two workers", 0.0)
