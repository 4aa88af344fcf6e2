"""CoReDi's safeguards on digits: what its feature space does without each of them, and that it does not with them.

The bounds are half way (on a log scale) between what two seeds give for the variants told apart.
"""

import pytest
import tiny

EASY = ("--adapter.stop-gradient", "false")
FREE = ("--adapter.normalize", "false")
RECIPE = (
    "--adapter", "coredi", "--loss", "none", "--train.batch-size", "40",
    "--train.samples-per-class", "4", "--train.learning-rate", "4e-3", "--train.log-every", "20",
)  # fmt: skip


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """The last line that each variant has logged."""
    variants = {"default": (), "easy": EASY, "free": FREE, "easy, free": (*EASY, *FREE)}
    steps = {"default": "120", "easy": "120", "free": "80", "easy, free": "60"}
    lines: dict[str, dict[str, float]] = {}
    for name, options in variants.items():
        folder = tmp_path_factory.mktemp("run")
        tiny.train(folder, *RECIPE, "--train.steps", steps[name], *options)
        line = tiny.metrics(folder)[-1]
        short = {"loss": "features", "rank": "adapter.effective_rank", "std": "adapter.projected_std"}
        lines[name] = {key: line[column] for key, column in short.items()}
    return lines


def test_the_default_keeps_rank_and_scale_and_leaves_something_to_predict(last: dict[str, dict[str, float]]) -> None:
    default = last["default"]
    assert default["rank"] > 6
    assert 0.6 < default["std"] < 2  # before batch norm, which makes it 1
    assert default["loss"] > 0.6


def test_without_stop_gradient_the_features_become_trivial_to_predict(last: dict[str, dict[str, float]]) -> None:
    assert last["easy"]["loss"] < 0.6 * last["default"]["loss"]
    assert last["easy"]["rank"] < 5.5 < last["default"]["rank"]


def test_without_normalisation_the_scale_runs_away(last: dict[str, dict[str, float]]) -> None:
    """Up, not down: the target gives no gradient, and the larger the stream, the less noise hides it."""
    assert last["free"]["std"] > 2


def test_without_both_the_space_shrinks_to_nothing(last: dict[str, dict[str, float]]) -> None:
    assert last["easy, free"]["std"] < 0.4
    assert last["easy, free"]["loss"] < 0.3
