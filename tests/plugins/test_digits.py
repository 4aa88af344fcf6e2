"""The embedded data set: 1,797 digits, split once and for all."""

import pickle

import torch
from sklearn.datasets import load_digits

from vco.api import DataSetting, ImageSet
from vco_plugins.data.digits import Digits


def stacked(images: ImageSet) -> torch.Tensor:
    return torch.stack([images.image(index, None) for index in range(len(images))])


def test_split_is_1500_and_297_digits_of_the_declared_shape() -> None:
    data = Digits(Digits.Config(), DataSetting())
    assert stacked(data.train()).shape == (1500, *data.image_shape)
    assert stacked(data.test()).shape == (297, *data.image_shape)


def test_train_and_test_together_are_every_digit_of_the_source_once() -> None:
    data = Digits(Digits.Config(), DataSetting())
    ours = torch.cat([stacked(data.train()), stacked(data.test())]).flatten(1)
    labels = torch.cat([data.train().labels, data.test().labels])
    values, targets = load_digits(return_X_y=True)
    # 16 levels over 0..255: the quotient rounds back to the level exactly, as levels lie 15.9 apart
    levels = (ours.double() * 16 / 255).round().long()
    assert sorted((*row, label) for row, label in zip(levels.tolist(), labels.tolist(), strict=True)) == sorted(
        (*row, label) for row, label in zip(values.astype(int).tolist(), targets.tolist(), strict=True)
    )


def test_pixels_are_the_sources_levels_times_255_over_16_rounded() -> None:
    levels = stacked(Digits(Digits.Config(), DataSetting()).train()).unique().tolist()
    assert levels == [round(value * 255 / 16) for value in range(17)]


def test_the_split_is_the_one_the_shipped_networks_were_trained_on() -> None:
    # the held-out set as of the training run: another split would leak training digits into it
    test = Digits(Digits.Config(), DataSetting()).test()
    assert test.labels[:12].tolist() == [2, 2, 9, 8, 8, 3, 6, 0, 4, 4, 7, 6]
    assert int(stacked(test).long().sum()) == 1_475_957


def test_every_class_is_in_both_parts() -> None:
    data = Digits(Digits.Config(), DataSetting())
    assert data.train().labels.unique().tolist() == list(range(data.num_classes))
    assert data.test().labels.unique().tolist() == list(range(data.num_classes))


def test_nothing_is_augmented() -> None:
    images = Digits(Digits.Config(), DataSetting()).train()
    torch.testing.assert_close(images.image(3, torch.Generator().manual_seed(1)), images.image(3, None))


def test_image_set_survives_pickling_for_worker_processes() -> None:
    images = Digits(Digits.Config(), DataSetting()).test()
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(copy.labels, images.labels)
    assert torch.equal(stacked(copy), stacked(images))
