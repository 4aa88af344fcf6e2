"""What sharded training is made of, as far as one process can tell; `test_sharding` runs two."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vco import heartbeat
from vco.api import IMAGE, Backbone, Denoised, Tap
from vco.errors import TrainingStoppedError
from vco.heartbeat import Heartbeats
from vco.pieces import in_pieces, local, piece_of, shared_out, whole
from vco.training import sharding
from vco.training.ema import EMA
from vco.training.gradients import all_finite, clip, norm


class Blocks(Backbone):
    """Three blocks and what is around them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, *given: Any, **more: Any) -> Denoised:
        return Denoised()

    def block_modules(self) -> list[nn.Module]:
        return list(self.blocks)


def test_weights_of_their_own_may_be_shared_out() -> None:
    sharding._require_own_weights(Blocks())


@pytest.mark.parametrize(("one", "other"), [("blocks.0", "blocks.2"), ("first", "blocks.1")])
def test_a_weight_of_two_blocks_is_refused(one: str, other: str) -> None:
    backbone = Blocks()
    backbone.get_submodule(other).weight = backbone.get_submodule(one).weight
    with pytest.raises(ValueError, match=r"its weight (first|blocks\.\d)\.weight belongs to several blocks, or to one"):
        sharding._require_own_weights(backbone)


def test_weights_that_are_tied_within_a_block_are_no_matter() -> None:
    backbone = Blocks()
    block: Any = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    block[1].weight = block[0].weight
    backbone.blocks[0] = block
    sharding._require_own_weights(backbone)


def test_an_answer_comes_back_as_it_was() -> None:
    answer = Denoised(
        clean={"features": torch.ones(1)},
        velocity={IMAGE: torch.zeros(2)},
        taps={3: Tap(tokens=torch.ones(1, 2, 3), positions=torch.arange(2))},
        context={"told": torch.ones(4)},
    )
    plain = sharding._plain(nn.Identity(), None, answer)
    held = tree_leaves(plain)
    assert len(held) == 5
    assert all(isinstance(leaf, Tensor) for leaf in held)
    assert sharding._answer(nn.Identity(), None, plain) == answer


# -------------------------------------------------------------------------------------------- tensors that are whole


def test_a_plain_tensor_is_whole_in_every_process() -> None:
    tensor = torch.arange(6.0).view(3, 2).requires_grad_()
    piece = piece_of(tensor)
    assert (piece.start, piece.shape, piece.is_whole) == (0, (3, 2), True)
    assert not shared_out(tensor)
    assert not in_pieces(nn.Linear(2, 2))
    assert whole(tensor) is tensor
    with torch.no_grad():
        for rows in (piece.rows, local(tensor)):
            assert not rows.requires_grad
            rows += 1
    assert torch.equal(tensor.detach(), torch.arange(6.0).view(3, 2) + 2)


def test_a_norm_and_a_clip_are_those_of_pytorch() -> None:
    draws = torch.Generator().manual_seed(0)
    ours = [torch.randn(5, 3, generator=draws), torch.randn(7, generator=draws), torch.randn((), generator=draws)]
    theirs = [nn.Parameter(torch.zeros_like(gradient)) for gradient in ours]
    for parameter, gradient in zip(theirs, ours, strict=True):
        parameter.grad = gradient.clone()
    before = norm(ours)
    assert clip(ours, 0.0) == before  # which changes nothing
    assert norm(ours) == before
    assert torch.equal(clip(ours, 0.5), nn.utils.clip_grad_norm_(theirs, 0.5))
    for parameter, gradient in zip(theirs, ours, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_one_odd_number_is_seen(odd: float) -> None:
    assert all_finite([torch.ones(3), torch.tensor(2.0)])
    assert not all_finite([torch.ones(3), torch.tensor(odd)])


def test_the_first_average_may_live_elsewhere() -> None:
    module = nn.Linear(2, 2)
    elsewhere: Mapping[str, Tensor] = {name: value.clone() for name, value in module.state_dict().items()}
    average = EMA(module, (0.5, 0.9), elsewhere)
    plain = EMA(module, (0.5, 0.9))
    with torch.no_grad():
        module.weight += 1
    for averages in (average, plain):
        averages.update()
    assert [len(averages.averages) for averages in (average, plain)] == [2, 2]
    for name, value in elsewhere.items():
        assert value.data_ptr() == average.averages[0][name].data_ptr()
        assert torch.equal(value, plain.averages[0][name])
        assert torch.equal(average.averages[1][name], plain.averages[1][name])
    assert EMA(module, (), elsewhere).averages == []


# ------------------------------------------------------------------------------------- what processes tell each other


class Store(dict[str, bytes]):
    """What `Heartbeats` needs of PyTorch's key-value store."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def delete_key(self, key: str) -> bool:
        return self.pop(key, None) is not None


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Heartbeats]]]:
    """Makes the signs of life of some processes of three, which share a store."""
    begun: list[Heartbeats] = []

    def begin(*ranks: int, timeout: float = 30.0) -> list[Heartbeats]:
        store = Store()
        monkeypatch.setattr(heartbeat, "PrefixStore", lambda *given: store)
        for rank in ranks:
            places = SimpleNamespace(_get_default_store=lambda: None)
            known = SimpleNamespace(distributed_c10d=places, get_rank=lambda rank=rank: rank, get_world_size=lambda: 3)
            monkeypatch.setattr(heartbeat, "dist", known)
            begun.append(Heartbeats(timeout))
        return begun

    yield begin
    for beats in begun:
        beats.close()


def test_all_hear_what_each_has_said_in_the_order_of_processes(processes: Callable[..., list[Heartbeats]]) -> None:
    beats = processes(0, 1, 2)

    def talk(rank: int) -> list[list[str]]:
        exchange, other = (beats[rank].exchange(topic) for topic in ("saving", "elsewhere"))
        heard = [exchange(f"{number} of {rank}") for number in range(20)]
        return [*heard, other("once")]

    with ThreadPoolExecutor(3) as pool:
        heard = list(pool.map(talk, range(3)))
    assert heard == [[[f"{number} of {rank}" for rank in range(3)] for number in range(20)] + [["once"] * 3]] * 3
    kept = [key for key in beats[0].store if not key.startswith("alive/")]
    assert len(kept) <= 3 * 3  # of the two last of the one, and of the other


def test_who_says_nothing_and_gives_no_sign_of_life_is_named(processes: Callable[..., list[Heartbeats]]) -> None:
    (beats,) = processes(0, timeout=0.2)
    beats.store.set("saving/1/2", "here")
    with pytest.raises(TrainingStoppedError, match="process 1 is stopped, lost or hung"):
        beats.exchange("saving")("here")
