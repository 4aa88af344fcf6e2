"""SRA: what the running average is asked about, and how its tokens are compared."""

from typing import Any

import objectives
import pytest
import steps
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vco import flow
from vco.api import FEATURES, IMAGE, Condition, Denoised, LossSetting, Step, Streams, StreamSpec, Tap, Times, UserError
from vco.randomness import RowGenerator
from vco.training.ema import EMA
from vco_plugins.losses.sra import SRA

STREAMS = {IMAGE: StreamSpec(shape=(1, 2, 3), noise_scale=2.0), FEATURES: StreamSpec(shape=(6, 3), grid=(2, 3))}
COUNT, TOKENS, WIDTH = 3, 6, 4


def make(grid: tuple[int, int] = (2, 3), width: int = WIDTH, **given: Any) -> SRA:
    options: Any = {"block": 1, "teacher_block": 3} | given
    torch.manual_seed(0)
    setting = LossSetting(width=width, grid=grid, depth=3, features={}, streams=STREAMS, num_classes=10)
    return SRA(SRA.Config(**options), setting)


class Average:
    """A running average whose tokens are given; it remembers what it was asked."""

    def __init__(self, tokens: Tensor, positions: Tensor | None = None) -> None:
        positions = torch.arange(tokens.shape[1]) if positions is None else positions
        self.tap = Tap(tokens=tokens, positions=positions)

    def __call__(self, noisy: Streams, times: Times, condition: Condition, taps: tuple[int, ...] = ()) -> Denoised:
        self.noisy, self.times, self.condition, self.taps = noisy, times, condition, taps
        return Denoised(taps={taps[0]: self.tap})


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_step(tokens: Tensor, average: Average, positions: Tensor | None = None, **changes: Any) -> Step:
    count = len(tokens)
    images, labels = random(count, 1, 2, 3, seed=5), torch.arange(count)
    clean = {IMAGE: images, FEATURES: random(count, 6, 3, seed=6)}
    tap = Tap(tokens=tokens, positions=torch.arange(tokens.shape[1]) if positions is None else positions)
    values: dict[str, Any] = {
        "clean": clean,
        "noise": {IMAGE: random(count, 1, 2, 3, seed=7), FEATURES: random(count, 6, 3, seed=8)},
        "specs": STREAMS,
        "times": {IMAGE: torch.linspace(0.1, 0.7, count), FEATURES: torch.linspace(0.2, 0.4, count)},
        "teacher": average,
    }
    return steps.make_step(images, images, labels, {}, {1: tap}, **(values | changes))


# ------------------------------------------------------------------------------------------------------ golden vectors


@pytest.mark.parametrize(("per", "loss"), [("channel", 0.151472), ("token", 0.125658)])
def test_golden_vectors(per: str, loss: float) -> None:
    student, teacher = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[2.0, 1.0], [1.0, 3.0]]])
    sra = make(grid=(1, 2), width=2, per=per)
    sra.head = nn.Sequential()
    assert sra(make_step(student, Average(teacher)))["sra"].item() == pytest.approx(loss, abs=1e-6)


def test_the_head_is_an_mlp_of_twice_the_width() -> None:
    sra, tokens, target = make(), random(COUNT, TOKENS, WIDTH), random(COUNT, TOKENS, WIDTH, seed=1)
    first, second = (layer for layer in sra.head if isinstance(layer, nn.Linear))
    assert (first.weight.shape, second.weight.shape) == ((8, 4), (4, 8))
    expected = 1 - F.cosine_similarity(second(F.silu(first(tokens))), target, dim=-1).mean(1)
    torch.testing.assert_close(sra(make_step(tokens, Average(target)))["sra"], expected)


# ------------------------------------------------------------------------------------ what the running average is asked


def asked(sra: SRA, **changes: Any) -> tuple[Average, Step]:
    average = Average(random(COUNT, TOKENS, WIDTH))
    step = make_step(random(COUNT, TOKENS, WIDTH, seed=1), average, **changes)
    sra(step)
    return average, step


def test_the_average_is_asked_at_times_that_are_later_by_one_draw_for_all_streams() -> None:
    average, step = asked(make())
    offset = 0.2 * RowGenerator((0,), range(COUNT)).rand()
    assert offset.unique().numel() == COUNT
    for stream, t in step.times.items():
        torch.testing.assert_close(average.times[stream], t + offset)


def test_tokens_with_times_of_their_own_are_all_later_by_the_draw_of_their_sample() -> None:
    t = torch.rand(COUNT, TOKENS, generator=torch.Generator().manual_seed(1)) / 2
    average, step = asked(make(), times={IMAGE: t, FEATURES: t[:, 0]})
    offset = 0.2 * RowGenerator((0,), range(COUNT)).rand()
    torch.testing.assert_close(average.times[IMAGE], t + offset[:, None])
    torch.testing.assert_close(average.noisy[IMAGE], step.noised(average.times)[IMAGE])


def test_no_time_is_later_than_that_of_data() -> None:
    average, _ = asked(make(ahead=1.0), times={IMAGE: torch.full((COUNT,), 0.99), FEATURES: torch.ones(COUNT)})
    assert all((t <= 1).all() for t in average.times.values())
    assert torch.equal(average.times[FEATURES], torch.ones(COUNT))


def test_the_average_sees_the_same_images_with_the_same_noise() -> None:
    average, step = asked(make())
    for stream, spec in STREAMS.items():
        expected = flow.corrupt(step.clean[stream], step.noise[stream], average.times[stream], spec.noise_scale)
        assert torch.equal(average.noisy[stream], expected)


def test_the_average_is_told_and_denied_what_the_network_is() -> None:
    rows = torch.tensor([True, False, True])
    condition = Condition(
        labels=torch.tensor([10, 1, 10]),
        blocked={(IMAGE, FEATURES): rows},
        nulled={FEATURES: rows},
        context={"caption": random(COUNT, 2)},
        until={IMAGE: torch.ones(COUNT)},
    )
    average, _ = asked(make(), condition=condition)
    told = average.condition
    assert told.labels is condition.labels
    assert (told.blocked, told.nulled, told.context) == (condition.blocked, condition.nulled, condition.context)
    assert told.until == {}  # it is asked about one time


def test_each_is_asked_for_its_own_block() -> None:
    sra = make()
    assert sra.taps == (1,)
    assert asked(sra)[0].taps == (3,)


def test_draws_depend_on_the_slot_alone() -> None:
    tokens, target, sra = random(4, TOKENS, WIDTH), random(4, TOKENS, WIDTH, seed=1), make()

    def times(rows: slice) -> Times:
        average = Average(target[rows])
        same = {stream: torch.full((len(tokens[rows]),), 0.3) for stream in STREAMS}
        slots = range(4)[rows]
        sra(make_step(tokens[rows], average, times=same, generator=RowGenerator((0,), slots)))
        return average.times

    for stream in STREAMS:
        parts = torch.cat([times(slice(2))[stream], times(slice(2, 4))[stream]])
        assert torch.equal(parts, times(slice(4))[stream])


# ----------------------------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize("per", ["token", "channel"])
def test_tokens_are_compared_with_the_average_s_at_their_positions(per: str) -> None:
    sra, tokens, target = make(per=per), random(COUNT, TOKENS, WIDTH), random(COUNT, TOKENS, WIDTH, seed=1)
    one, other = torch.tensor([3, 0, 5, 1, 2, 4]), torch.tensor([5, 4, 0, 2, 1, 3])
    plain = sra(make_step(tokens, Average(target)))["sra"]
    shuffled = sra(make_step(tokens[:, one], Average(target[:, other], other), one))["sra"]
    torch.testing.assert_close(shuffled, plain)


def test_every_sample_may_have_kept_other_tokens() -> None:
    sra, tokens, target = make(), random(2, TOKENS, WIDTH), random(2, TOKENS, WIDTH, seed=1)
    kept = torch.tensor([[4, 1], [0, 5]])
    tokens_kept = torch.stack([tokens[row, kept[row]] for row in range(2)])
    both = sra(make_step(tokens_kept, Average(target), kept))["sra"]
    each = [1 - F.cosine_similarity(sra.head(tokens[i, kept[i]]), target[i, kept[i]], dim=-1).mean() for i in range(2)]
    torch.testing.assert_close(both, torch.stack(each))


# ----------------------------------------------------------------------------------------------------------- gradients


def test_gradient_reaches_tokens_and_head_but_not_the_average() -> None:
    sra, tokens = make(), random(COUNT, TOKENS, WIDTH).requires_grad_()
    target = random(COUNT, TOKENS, WIDTH, seed=1).requires_grad_()
    sra(make_step(tokens, Average(target)))["sra"].mean().backward()
    assert target.grad is None
    assert all(x.grad is not None and x.grad.abs().max() > 0 for x in (tokens, *sra.parameters()))


@pytest.mark.parametrize("number", [0.0, 1e15])
def test_extreme_tokens_give_finite_losses(number: float) -> None:
    target = torch.full((COUNT, TOKENS, WIDTH), number)
    assert make()(make_step(random(COUNT, TOKENS, WIDTH), Average(target)))["sra"].isfinite().all()


def test_a_block_that_the_average_lacks_is_refused() -> None:
    with pytest.raises(UserError, match=r"--\.teacher-block 4: .* blocks 1 to 3"):
        make(teacher_block=4)


@pytest.mark.parametrize("options", [{"ahead": 1.5}, {"teacher_block": 0}, {"per": "image"}])
def test_impossible_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SRA.Config(**options)


# --------------------------------------------------------------------------------------------------------- in training

SRA_OPTIONS = ("--loss", "sra", "--loss.block", "1", "--loss.teacher-block", "2")
both = pytest.mark.parametrize("streams", [objectives.ONE_STREAM, objectives.TWO_STREAMS])


@both
def test_the_average_learns_nothing_and_follows_the_network(streams: tuple[str, ...]) -> None:
    objective = objectives.make_run(*streams, *SRA_OPTIONS).objective
    ema = EMA(objective, [0.5])
    objective.teach(ema.averages[0])
    inputs, draw = objectives.batch(objective)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    first = {name: value.clone() for name, value in ema.averages[0].items()}
    objective(inputs, draw)["loss"].backward()
    assert all(torch.equal(value, first[name]) for name, value in ema.averages[0].items())
    assert all(value.grad is None for value in ema.averages[0].values())
    optimizer.step()
    ema.update()
    followed = objective(inputs, draw)["sra"]
    objective.teach({name: value.clone() for name, value in ema.averages[0].items()})
    assert torch.equal(followed, objective(inputs, draw)["sra"])
    objective.teach(first)
    assert not torch.equal(followed, objective(inputs, draw)["sra"])


@both
def test_two_processes_share_what_one_has(streams: tuple[str, ...]) -> None:
    objective = objectives.make_run(*streams, *SRA_OPTIONS).objective
    objective.teach(EMA(objective, [0.5]).averages[0])
    whole = objectives.batch(objective)
    losses = objective(*whole)
    shares = [objective(*objectives.share(slice(start, start + 10), *whole)) for start in (0, 10)]
    for name, value in losses.items():
        torch.testing.assert_close((shares[0][name] + shares[1][name]) / 2, value)
