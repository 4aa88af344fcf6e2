"""Which classes are sampled: labels are functions of (seed, image index)."""

import pytest
import torch

from vco.errors import UserError
from vco.sampling.labels import labels_of

COUNTS = (5, 1, 3)


def test_balanced_labels_run_through_the_classes() -> None:
    assert labels_of("balanced", [0, 1, 2, 3, 7], num_classes=3).tolist() == [0, 1, 2, 0, 1]


def test_labels_as_in_the_data_have_its_proportions_exactly() -> None:
    labels = labels_of("data", range(27), num_classes=3, counts=COUNTS, seed=4)
    assert labels.bincount().tolist() == [15, 3, 9]
    for turn in range(3):
        assert labels[9 * turn : 9 * turn + 9].bincount().tolist() == list(COUNTS)
    assert labels[:9].tolist() != labels[9:18].tolist()


@pytest.mark.parametrize("law", ["balanced", "data", "2,0"])
def test_a_label_depends_on_seed_and_index_alone(law: str) -> None:
    every = labels_of(law, range(40), num_classes=3, counts=COUNTS, seed=1)
    few = [3, 39, 12, 13]
    assert torch.equal(labels_of(law, few, num_classes=3, counts=COUNTS, seed=1), every[few])


def test_another_seed_orders_the_data_s_labels_otherwise() -> None:
    first, second = (labels_of("data", range(9), num_classes=3, counts=COUNTS, seed=seed) for seed in (0, 1))
    assert first.tolist() != second.tolist()


def test_listed_classes_are_repeated() -> None:
    assert labels_of("2, 0", range(5), num_classes=3).tolist() == [2, 0, 2, 0, 2]


@pytest.mark.parametrize(
    ("law", "sentence"),
    [
        ("uniform", "'uniform' is no law of labels; write balanced, data, or classes with commas"),
        ("1,3", "there is no class 3; classes are numbered from 0 to 2"),
        ("", "is no law of labels"),
        ("data", "images per class, which are not known here"),
    ],
)
def test_what_is_no_law_is_one_sentence(law: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        labels_of(law, range(3), num_classes=3)
