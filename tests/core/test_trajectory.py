"""How images come out of noise: what is noted on the way, and how it is drawn."""

import re
from collections.abc import Sequence
from pathlib import Path

import attrs
import finished
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor

import vco
from vco.api import FEATURES, IMAGE
from vco.cli import main_vco
from vco.data.reader import to_uint8
from vco.errors import UserError
from vco.opened_run import OpenedRun
from vco.randomness import noise
from vco.sampling.pictures import Basis, sheet
from vco.sampling.trajectory import Trajectory, trajectory

LABELS = [3, 0]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenedRun:
    folder = tmp_path_factory.mktemp("run")
    finished.finish(folder)
    return vco.open_run(folder)


@pytest.fixture(scope="module")
def way(opened: OpenedRun) -> Trajectory:
    return opened.trajectory(LABELS, seed=4, steps=12, moments=5)


# -------------------------------------------------------------------------------------------------------- what is noted


def test_it_begins_with_noise_and_ends_with_what_is_sampled(opened: OpenedRun, way: Trajectory) -> None:
    shapes = {stream: spec.shape for stream, spec in opened.model.specs.items()}
    start = noise(shapes, range(2), 4, "sampling")
    assert torch.equal(way.images[0], to_uint8(start[IMAGE]))
    assert torch.equal(way.features[FEATURES][0], start[FEATURES])
    assert torch.equal(way.images[-1], opened.sample(LABELS, seed=4, steps=12))
    assert torch.equal(way.predicted[-1], way.images[-1])
    assert torch.equal(way.predicted_features[FEATURES][-1], way.features[FEATURES][-1])


def test_its_moments_are_spread_over_the_way(way: Trajectory) -> None:
    assert way.times[IMAGE] == pytest.approx([0, 3 / 12, 6 / 12, 9 / 12, 1])
    assert way.times[FEATURES] == way.times[IMAGE]
    assert way.images.shape == way.predicted.shape == (5, 2, 1, 8, 8)
    assert way.features[FEATURES].shape == (5, 2, 16, 8)
    assert len({image.numpy().tobytes() for image in way.images[:, 0]}) == 5


@pytest.mark.parametrize("solver", ["euler", "heun", "sde"])
def test_what_is_noted_is_where_the_solver_was(solver: str, opened: OpenedRun) -> None:
    """A run to the k-th point of a path of n has been where one to its end was."""
    other = vco.open_run(opened.folder.path, options=["--solver", solver])
    run, model = other.run, other.model
    whole = trajectory(run, model, torch.tensor(LABELS), seed=1, moments=100)
    states: dict[float, Tensor] = {}

    integrate = type(run.solver).integrate

    def noted(velocity: object, state: object, path: object, fresh: object) -> object:
        """The solver's own states: what it asks about first at a time it steps from, for these solvers."""

        def asked(state: dict[str, Tensor], times: dict[str, float], until: dict[str, float]) -> object:
            if times != until:  # a trial step asks about where it has got to, and goes no further
                states[times[IMAGE]] = state[IMAGE]
            return velocity(state, times, until)  # pyright: ignore

        return integrate(run.solver, asked, state, path, fresh)  # pyright: ignore

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.solver, "integrate", noted, raising=False)
        trajectory(run, model, torch.tensor(LABELS), seed=1)
    assert list(states) == pytest.approx(whole.times[IMAGE][:-1])
    assert torch.equal(torch.stack([to_uint8(x) for x in states.values()]), whole.images[:-1])


def test_a_solver_of_few_steps_has_few_moments(opened: OpenedRun) -> None:
    assert opened.trajectory([1], steps=1).times[IMAGE] == [0.0, 1.0]
    with pytest.raises(UserError, match="has at least 2 moments, its beginning and its end, and 1 are asked for"):
        opened.trajectory([1], moments=1)


def test_the_prediction_is_where_the_velocity_leads(opened: OpenedRun) -> None:
    one_step = opened.trajectory(LABELS, steps=1, moments=2)
    assert torch.equal(one_step.predicted[0], one_step.images[1])
    assert not torch.equal(one_step.predicted[0], one_step.images[0])


def test_streams_may_have_times_of_their_own(tmp_path: Path) -> None:
    finished.finish(tmp_path, "--process", "cascaded", "--sample.steps", "8")
    way = vco.open_run(tmp_path).trajectory([1, 2], moments=5)
    assert way.times[FEATURES] != way.times[IMAGE]
    assert {len(times) for times in way.times.values()} == {len(way.images)}
    assert re.fullmatch(r"image \d\.\d\d\nfeatures \d\.\d\d", way._title(1))
    assert way.picture().width > 0


def test_a_run_without_features_shows_its_images_alone(tmp_path: Path) -> None:
    finished.finish(tmp_path, *tiny.ONE_STREAM)
    way = vco.open_run(tmp_path).trajectory([1, 2])
    assert way.features == way.predicted_features == {}
    assert list(way._cells()) == ["image", "predicted image"]
    way.save(tmp_path / "way.png")
    with Image.open(tmp_path / "way.png") as picture:
        assert picture.height < 4 * 80 + 60


# -------------------------------------------------------------------------------------------------- features as colours


def test_colours_are_the_leading_components() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([9.0, 0.1, 5.0, 0.01, 2.0])
    features = torch.randn(500, 5, generator=generator) * spread
    basis = Basis.of(features)
    colours = basis.colours(features)
    assert (colours.shape, colours.dtype) == ((500, 3), torch.uint8)
    for channel, axis in enumerate((0, 2, 4)):
        both = torch.stack([colours[:, channel].double(), features[:, axis].double()])
        assert abs(torch.corrcoef(both)[0, 1]) > 0.98


def test_a_colour_means_the_same_whatever_stands_beside_it() -> None:
    features = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    basis = Basis.of(features)
    alone = torch.stack([basis.colours(row) for row in features])
    assert torch.equal(basis.colours(features), alone)
    assert torch.equal(Basis.of(features.flip(0)).colours(features), alone)  # nor does a component have a free sign


@pytest.mark.parametrize("features", [torch.zeros(5, 4), torch.ones(1, 4), torch.tensor([[0.0, 1.0], [1.0, 0.0]])])
def test_features_of_too_few_dimensions_have_the_middle_for_what_is_not_there(features: Tensor) -> None:
    assert (Basis.of(features).colours(features)[:, -1] == 128).all()


# ------------------------------------------------------------------------------------------------------------- pictures


def test_cells_lie_in_rows_and_columns() -> None:
    black, white = torch.zeros(1, 8, 8, dtype=torch.uint8), torch.full((3, 2, 2), 255, dtype=torch.uint8)
    gray = torch.full((1, 8, 8), 128, dtype=torch.uint8)
    picture = sheet(["a", "b"], [("one", [black, gray]), ("two", [gray, white])], rows_per_block=2)
    left, top = picture.width - 2 * (64 + 4), picture.height - 2 * (64 + 4)

    def colour(row: int, column: int) -> object:
        return picture.getpixel((left + 68 * column + 32, top + 68 * row + 32))

    assert [[colour(row, column) for column in (0, 1)] for row in (0, 1)] == [
        [(0, 0, 0), (128, 128, 128)],
        [(128, 128, 128), (255, 255, 255)],
    ]


@pytest.mark.parametrize(("height", "cell"), [(8, 64), (28, 84), (64, 64), (100, 100), (256, 128)])
def test_cells_can_be_seen_and_fit_a_page(height: int, cell: int) -> None:
    image = torch.zeros(3, height, height, dtype=torch.uint8)
    one, two = (sheet(["a"] * columns, [("", [image] * columns)], rows_per_block=1) for columns in (1, 2))
    assert two.width - one.width == cell + 4


def test_a_contact_sheet_names_classes_and_times(way: Trajectory) -> None:
    assert way._title(1) == "t = 0.25"
    assert way._name(0) == "class 3"
    assert attrs.evolve(way, class_names=[f"kind {n}" for n in range(10)])._name(0) == "kind 3"
    picture = way.picture()
    assert (picture.width, picture.height) == (picture.width, 8 + 15 + 8 * 68 + 8)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_has_a_frame_for_each_moment(suffix: str, way: Trajectory, tmp_path: Path) -> None:
    way.save(tmp_path / f"way{suffix}")
    with Image.open(tmp_path / f"way{suffix}") as film:
        assert getattr(film, "n_frames", 1) == 5
        assert film.info["loop"] == 0
        film.seek(4)
        assert film.size == way.frames()[0].size


def test_the_command_draws_the_first_images(opened: OpenedRun, tmp_path: Path) -> None:
    argv = ["sample", str(opened.folder.path), "--num", "2", "--labels", "3,0", "--seed", "4", "--sample.steps", "12"]
    for suffix in (".png", ".gif"):
        assert main_vco([*argv, "--trajectory", str(tmp_path / f"way{suffix}")]) == 0
    expected = opened.trajectory(LABELS, seed=4, steps=12)
    assert (tmp_path / "way.png").read_bytes() == expected.png()
    with Image.open(tmp_path / "way.gif") as film:
        assert getattr(film, "n_frames", 1) == 13
    assert sorted(path.name for path in tmp_path.iterdir()) == ["way.gif", "way.png"]


@pytest.mark.parametrize("name", ["way.jpg", "way", "way.png.txt"])
def test_other_pictures_are_refused(name: str, way: Trajectory, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is drawn as \.png, \.gif, \.webp, and .*way.* ends with none of these"):
        way.save(tmp_path / name)


def shapes_of(ways: Sequence[Trajectory]) -> list[tuple[int, ...]]:
    return [tuple(way.images.shape) for way in ways]


def test_its_memory_does_not_grow_with_the_steps(opened: OpenedRun) -> None:
    ways = [opened.trajectory([1, 2, 3], steps=steps, moments=4) for steps in (3, 30)]
    assert shapes_of(ways) == [(4, 3, 1, 8, 8)] * 2
