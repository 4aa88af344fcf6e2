"""Blocks that are recomputed (--train.checkpoint-blocks): the same bits, less memory."""

import copy
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from vco.cli import main_run
from vco.objective import Draw, Objective
from vco.training.loop import Training
from vco.training.recomputing import recompute_blocks

Capture = pytest.CaptureFixture[str]
RECOMPUTED = ("--train.checkpoint-blocks", "true")
ONE_STREAM = ("--backbone", "jit", "--adapter", "none", "--guidance", "cfg")
RUNS = {
    "two streams, a structural mask, dropout, taps, and a second question": (
        "--plugin", "toy_plugin", "--backbone.dropout", "0.3", "--loss", "hybrid,repa,asking",
        "--loss.repa.block", "1",
    ),
    "one stream, routes and taps inside of them": (
        *ONE_STREAM, "--loss", "repa", "--backbone.depth", "3", "--backbone.route-ratio", "0.5",
        "--backbone.route-start", "2", "--loss.repa.block", "2",
    ),
    "forward derivatives": (*ONE_STREAM, "--loss", "meanflow", "--solver", "meanflow"),
    "what it has predicted itself": (
        *ONE_STREAM, "--backbone", "dino-forcing", "--loss", "dino-forcing", "--backbone.hidden", "16",
    ),
    "streams in one sequence": ("--backbone", "jit-joint", "--backbone.fusion", "token-concat"),
    "merged streams with blocks of their own": (
        "--backbone", "jit-joint", "--backbone.fusion", "channel-concat", "--backbone.own-blocks", "1",
        "--backbone.depth", "3", "--guidance", "cfg",
    ),
}  # fmt: skip


def gradients(training: Training) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """The losses of one step, all gradients and buffers after it, and the bytes that were kept for the backward pass.

    What is kept is counted once, however often; weights, which are there anyway, do not count.
    """
    tiny.scramble(training)
    objective = training.objective.train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    kept: dict[int, tuple[Tensor, int]] = {}  # the tensors are held, so that no two have the same address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    inputs, draw = tiny.batch(training)
    torch.manual_seed(0)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = objective(inputs, draw, 0)
    total = sum(size for _, size in kept.values())
    losses["loss"].backward()
    after = {f"gradient of {n}": p.grad for n, p in objective.named_parameters() if p.grad is not None}
    return losses, after | dict(objective.named_buffers()), total


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_losses_and_gradients_are_the_same_to_the_bit(options: tuple[str, ...], tmp_path: Path) -> None:
    plain, recomputed = (tiny.prepare(tmp_path / name, *options) for name in ("plain", "recomputed"))
    recompute_blocks(recomputed.objective.backbone)
    (losses, after, bytes_kept), (again, after_again, fewer) = gradients(plain), gradients(recomputed)
    tiny.assert_same(losses, again)
    tiny.assert_same(after, after_again)
    assert fewer < bytes_kept


def test_of_a_block_only_what_enters_it_is_kept(tmp_path: Path) -> None:
    """Each further block keeps its input of 20 x 24 tokens and no more, where a plain one keeps 20 times as much."""
    kept: dict[tuple[bool, int], int] = {}
    for depth in (2, 6):
        for again in (False, True):
            sizes = ("--backbone.depth", str(depth), "--backbone.context-start", "0", "--backbone.context-tokens", "8")
            training = tiny.prepare(tmp_path / f"{depth}-{again}", *tiny.ONE_STREAM, *sizes)
            if again:
                recompute_blocks(training.objective.backbone)
            kept[again, depth] = gradients(training)[2]
    rows, cols = training.objective.backbone.grid
    entering = tiny.BATCH * (rows * cols + 8) * training.objective.backbone.width * 4
    assert kept[True, 6] - kept[True, 2] == 4 * entering
    assert kept[False, 6] - kept[False, 2] > 20 * 4 * entering


def test_forward_derivatives_with_gradient_pass(tmp_path: Path) -> None:
    """No built-in loss asks for them: MeanFlow's have no gradient."""
    found: dict[bool, dict[str, Tensor]] = {}
    for again in (False, True):
        training = tiny.prepare(tmp_path / str(again), *tiny.ONE_STREAM)
        if again:
            recompute_blocks(training.objective.backbone)
        tiny.scramble(training)
        inputs, draw = tiny.batch(training)

        def predicted(noisy: Tensor, training: Training = training, draw: Draw = draw) -> Tensor:
            return training.objective.network({"image": noisy}, draw.times, draw.condition).velocity["image"]

        with sdpa_kernel(SDPBackend.MATH):
            slope = torch.func.jvp(predicted, (inputs.images,), (inputs.noise["image"],))[1]
        slope.square().sum().backward()
        found[again] = {n: p.grad for n, p in training.parameters.items() if p.grad is not None} | {"slope": slope}
    tiny.assert_same(found[False], found[True])


def test_a_whole_run_ends_the_same_and_may_change_over(tmp_path: Path) -> None:
    options = ("--backbone.dropout", "0.2", "--train.checkpoint-every", "3", "--metric", "none")
    assert main_run(tiny.argv(tmp_path / "plain", *options)) == 0
    assert main_run(tiny.argv(tmp_path / "other", *options, "--train.steps", "3")) == 0
    assert main_run(tiny.argv(tmp_path / "other", *options, *RECOMPUTED)) == 0
    plain, other = tmp_path / "plain", tmp_path / "other"
    assert tiny.losses(plain) == tiny.losses(other)
    tiny.assert_same(tiny.tensors(plain), tiny.tensors(other))
    last = f"samples/step-{tiny.STEPS:08d}.png"
    assert (plain / last).read_bytes() == (other / last).read_bytes()
    assert (plain / "cost.json").read_text() == (other / "cost.json").read_text()


def test_an_average_has_blocks_of_its_own(tmp_path: Path) -> None:
    training = tiny.prepare(tmp_path, *tiny.ONE_STREAM)
    recompute_blocks(training.objective.backbone)
    tiny.scramble(training)
    twin: Objective = copy.deepcopy(training.objective)
    inputs, draw = tiny.batch(training)
    before = twin(inputs, draw, 0)["loss"]
    tiny.scramble(training, seed=1)
    assert torch.equal(twin(inputs, draw, 0)["loss"], before)
    before.backward()
    assert all(parameter.grad is None for parameter in training.objective.parameters())
    assert all(p.grad is not None for block in twin.backbone.block_modules() for p in block.parameters())


def test_a_network_that_names_no_blocks_is_refused_in_one_sentence(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path / "run", *tiny.TOY, "--loss", "none", *RECOMPUTED)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--train.checkpoint-blocks recomputes the blocks of a network, and backbone toy" in line
    assert "Backbone.block_modules" in line
    assert not (tmp_path / "run").exists()
