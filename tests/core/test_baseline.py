"""The score of real images: they are drawn by the law by which the samples' labels are."""

from pathlib import Path

import attrs
import pytest
import tiny
import torch
from torch import Tensor

from vco.api import Data, DataSetting, FeatureSource, ImageSet, MetricSetting
from vco.data.reader import to_float
from vco.evaluation.baseline import draw_like
from vco.evaluation.evaluate import Evaluation
from vco.sampling.labels import labels_of
from vco_plugins.data.digits import Digits
from vco_plugins.metrics.fd import FD


def test_every_wanted_label_gets_an_image_of_its_class_and_none_twice_while_there_are_others() -> None:
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2])
    drawn = draw_like(torch.tensor([2, 0, 2, 1, 2]), labels, "key")
    assert labels[drawn.indices].tolist() == [2, 0, 2, 1, 2]
    assert len(set(drawn.indices.tolist())) == 5
    assert (drawn.repeated, drawn.missing, drawn.notes("images")) == (0, 0, [])


def test_repetitions_and_classes_without_images_are_counted_and_said() -> None:
    drawn = draw_like(torch.tensor([0, 0, 0, 1, 3, 3]), torch.tensor([0, 1, 1]), "key")
    assert drawn.indices.tolist()[:3] == [0, 0, 0]
    assert (len(drawn.indices), drawn.repeated, drawn.missing) == (4, 2, 2)
    repeated, missing = drawn.notes("real images")
    assert "2 of the 4 real images are repetitions" in repeated
    assert "2 images of classes without any real images are missing" in missing


def test_the_order_in_a_class_depends_on_the_key_alone() -> None:
    wanted, labels = torch.zeros(9, dtype=torch.long), torch.zeros(50, dtype=torch.long)
    first, again, other = (draw_like(wanted, labels, key).indices.tolist() for key in ("a", "a", "b"))
    assert first == again != other
    assert draw_like(wanted[:4], labels, "a").indices.tolist() == first[:4]


# ------------------------------------------------------------------------------------------------------- a long tail


class Tailed(ImageSet):
    """Digits of which the class c keeps every (c + 1)-th image."""

    def __init__(self, whole: ImageSet) -> None:
        classes = [torch.nonzero(whole.labels == label).flatten()[:: label + 1] for label in range(10)]
        self.rows = torch.cat(classes)
        self.whole, self.labels = whole, whole.labels[self.rows]

    def image(self, index: int, generator: torch.Generator | None) -> Tensor:
        return self.whole.image(int(self.rows[index]), generator)


class LongTail(Digits):
    def train(self) -> ImageSet:
        return Tailed(super().train())

    def test(self) -> ImageSet:
        return Tailed(super().test())


@pytest.mark.parametrize("law", ["balanced", "data"])
def test_a_long_tail_is_scored_by_the_law_of_the_samples(law: str, tmp_path: Path) -> None:
    training = tiny.prepare(tmp_path, "--eval.labels", law, "--eval.samples", "80")
    data = LongTail(Data.Config(), DataSetting())
    evaluation = Evaluation(attrs.evolve(training.run, at_hand=data), training.accelerator)
    (result,) = evaluation.score(training.averaged())

    source, test, train = training.run.metrics[0].source, data.test(), data.train()
    assert source is not None
    counts = train.labels.bincount().tolist()
    wanted = labels_of(law, range(80), num_classes=10, counts=counts)
    chosen = draw_like(wanted, train.labels, 0, "evaluation").indices.tolist()
    expected = distance(
        source, torch.stack([train.image(i, None) for i in chosen]),
        torch.stack([test.image(i, None) for i in range(len(test))]),
    )  # fmt: skip
    assert result.real_value == pytest.approx(expected, rel=1e-6)
    assert train.labels[torch.tensor(chosen)].bincount(minlength=10).tolist() == wanted.bincount(minlength=10).tolist()
    assert result.protocol.labels == law
    assert result.score.protocol == {"generated": 80, "real": len(test)}


def test_balanced_samples_of_a_long_tail_cannot_come_as_near_as_images_of_the_tail(tmp_path: Path) -> None:
    data = LongTail(Data.Config(), DataSetting())
    values: dict[str, float] = {}
    for law in ("balanced", "data"):
        training = tiny.prepare(tmp_path / law, "--eval.labels", law, "--eval.samples", "200")
        run = attrs.evolve(training.run, at_hand=data)
        (result,) = Evaluation(run, training.accelerator).score(training.averaged())
        assert result.real_value is not None
        values[law] = result.real_value
    assert values["balanced"] > 1.3 * values["data"]


def distance(source: FeatureSource, generated: Tensor, real: Tensor) -> float:
    features = [source(to_float(images)) for images in (generated, real)]
    metric = FD(FD.Config(), MetricSetting(image_shape=(1, 8, 8), num_classes=10, encoder="x", features=source.spec))
    for images, seen, kind in zip((generated, real), features, (True, False), strict=True):
        metric.update(images, seen, kind)
    return metric.score().value
