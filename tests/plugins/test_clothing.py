"""The embedded photographs of clothes."""

import torch

from vco.api import DataSetting
from vco_plugins.data.clothing import Clothing32


def data(**options: bool) -> Clothing32:
    return Clothing32(Clothing32.Config(**options), DataSetting())


def test_every_photograph_is_there_with_its_class() -> None:
    clothes = data()
    train, test = clothes.train(), clothes.test()
    assert (len(train), len(test)) == (4471, 490)
    names = clothes.class_names()
    assert len(names) == clothes.num_classes == 14
    assert dict(zip(names, test.labels.bincount().tolist(), strict=True))["Shoes"] == 43
    assert train.image(4470, None).shape == clothes.image_shape


def test_no_tile_is_the_gray_that_fills_up_the_last_row() -> None:
    for images in (data().train(), data().test()):
        spread = torch.stack([images.image(i, None).float().std() for i in range(len(images))])
        assert spread.min() > 2


def test_no_held_out_photograph_is_among_the_training_ones() -> None:
    train, test = (
        torch.stack([images.image(i, None) for i in range(len(images))]).flatten(1).float()
        for images in (data().train(), data().test())
    )
    nearest = torch.cdist(test, train).amin(1).square() / train.shape[1]
    assert nearest.min() > 25  # two JPEG copies of one photograph differ by less: each is 9 from its pixels


def test_half_of_the_visits_mirror_and_what_is_handed_out_is_the_callers() -> None:
    images = data().train()
    plain = images.image(7, None)
    generator = torch.Generator().manual_seed(0)
    visits = [images.image(7, generator) for _ in range(200)]
    mirrored = sum(torch.equal(image, plain.flip(-1)) for image in visits)
    assert 70 < mirrored < 130
    assert all(torch.equal(image, plain) or torch.equal(image, plain.flip(-1)) for image in visits)
    images.image(7, None).zero_()
    assert torch.equal(images.image(7, None), plain)
    kept = data(flip=False).train()
    assert all(torch.equal(kept.image(7, generator), plain) for _ in range(20))
