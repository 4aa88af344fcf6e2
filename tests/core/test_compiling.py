"""Blocks that are compiled (--train.compile): one graph for each situation, the same results, and no graph later."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import several_runs
import tiny
import torch
from torch import Tensor

from vco import compiling
from vco.cli import main_run, main_vco
from vco.compiling import compiled, is_prepared, prepare_blocks, tally, wants_compiling
from vco.errors import UserError
from vco.opened_run import open_run
from vco.sampling.sample import sample_many
from vco.training.loop import Training
from vco.training.recomputing import recompute_blocks
from vco_plugins.trunk import DualBlock

# the compiler looks at the gradient of whatever enters a graph, and hides the warning that follows
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
Capture = pytest.CaptureFixture[str]
COMPILED = ("--train.compile", "blocks")
PIXELS = ("--adapter", "rms", "--loss", "none", "--metric", "none")
"""Options with which the backbone alone has blocks that are run after the encoder's."""
RUNS = {
    "two streams, a structural mask, dropout, taps, and a second question": (
        "--plugin", "toy_plugin", "--backbone.dropout", "0.3", "--loss", "hybrid,repa,asking",
        "--loss.repa.block", "1",
    ),
    "routes, taps inside of them and a teacher": (
        *tiny.ONE_STREAM[:6], "--loss", "repa,sra", "--backbone.depth", "3", "--backbone.route-ratio", "0.5",
        "--backbone.route-start", "2", "--loss.repa.block", "2", "--loss.sra.block", "1",
        "--loss.sra.teacher-block", "2",
    ),
    "merged streams with blocks of their own": (
        "--backbone", "jit-joint", "--backbone.fusion", "channel-concat", "--backbone.own-blocks", "1",
        "--backbone.depth", "3", "--guidance", "cfg",
    ),
}  # fmt: skip
RELATIVE = 1e-5
"""Difference of losses, and of the gradient of a parameter, to their size: kernels sum in another order."""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """Nothing is compiled yet, and graphs are run by PyTorch as they are, which takes seconds in place of a minute.

    Shapes are not checked as in other tests, as no compiler can see through these checks.
    """
    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    tally.graphs, tally.seconds = 0, 0.0
    checked = not jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", not checked)


def step(training: Training) -> dict[str, Tensor]:
    """The losses of a step that moves no weights, and all its gradients."""
    inputs, draw = tiny.batch(training)
    torch.manual_seed(0)
    with compiled():
        losses = training.objective.train()(inputs, draw, 0)
        losses["loss"].backward()
    gradients = {f"gradient of {n}": p.grad for n, p in training.objective.named_parameters() if p.grad is not None}
    training.objective.zero_grad()
    return {name: value.detach() for name, value in losses.items()} | gradients


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert float((value - other[name]).norm()) <= RELATIVE * float(value.norm()) + 1e-9, name


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_a_step_is_the_same_and_a_second_one_compiles_nothing(options: tuple[str, ...], tmp_path: Path) -> None:
    plain, fast = tiny.prepare(tmp_path / "plain", *options), tiny.prepare(tmp_path / "fast", *options, *COMPILED)
    for training in (plain, fast):
        tiny.scramble(training)
    names = list(fast.objective.state_dict())
    assert_close(step(plain), step(fast))
    graphs = tally.graphs
    assert graphs
    step(fast)
    assert tally.graphs == graphs
    assert names == list(plain.objective.state_dict())


def test_outside_of_it_and_in_transforms_nothing_is_compiled(tmp_path: Path) -> None:
    options = (*tiny.ONE_STREAM[:6], "--loss", "meanflow", "--solver", "meanflow", *COMPILED)
    training = tiny.prepare(tmp_path, *options)
    inputs, draw = tiny.batch(training)
    training.objective(inputs, draw, 0)
    training.sample()
    assert tally.graphs == 0
    with compiled():
        training.objective(inputs, draw, 0)  # which asks the network within torch.func.jvp and outside of it
    assert tally.graphs


def test_recomputed_blocks_are_the_compiled_ones(tmp_path: Path) -> None:
    """Around compiled blocks recomputing changes no bit, dropout included, and compiles nothing more."""
    options = (*PIXELS, "--backbone.dropout", "0.3", *COMPILED)
    once, again = (tiny.prepare(tmp_path / name, *options) for name in ("once", "again"))
    recompute_blocks(again.objective.backbone)
    for training in (once, again):
        tiny.scramble(training)
    expected, graphs = step(once), tally.graphs
    tiny.assert_same(expected, step(again))
    assert tally.graphs == graphs


def test_a_run_compiles_before_its_first_line_and_goes_on_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Training, an average that is scored on the way, and a resume; the last batch of samples is not full."""
    told: list[int] = []
    tell = compiling.Tally.tell

    def noted(self: compiling.Tally, say: Any) -> None:
        told.append(self.graphs)
        tell(self, say)

    monkeypatch.setattr(compiling.Tally, "tell", noted)
    options = (
        "--backbone.dropout", "0.2", "--train.checkpoint-every", "3", "--train.sample-every", "2",
        "--eval.every", "2", "--sample.batch-size", "8", "--eval.samples", "20", "--adapter", "rms",
    )  # fmt: skip
    assert main_run(tiny.argv(tmp_path / "whole", *options, *COMPILED)) == 0
    first, scored = told[0], told[2]  # a line after each step, and the scores after steps 2 and 4
    assert first
    assert scored
    assert sum(told) == first + scored
    said = capsys.readouterr().out
    assert f"compiled {first} graphs of blocks in " in said
    assert f"compiled {scored} graphs of blocks in " in said
    told.clear()
    assert main_run(tiny.argv(tmp_path / "parts", *options, *COMPILED, "--train.steps", "3")) == 0
    assert main_run(tiny.argv(tmp_path / "parts", *options, *COMPILED)) == 0
    assert sum(told) == 0
    assert tiny.losses(tmp_path / "whole") == tiny.losses(tmp_path / "parts")
    tiny.assert_same(tiny.tensors(tmp_path / "whole"), tiny.tensors(tmp_path / "parts"))


def test_a_run_may_change_over(tmp_path: Path) -> None:
    options = (*PIXELS, "--train.checkpoint-every", "3")
    assert main_run(tiny.argv(tmp_path / "plain", *options)) == 0
    assert main_run(tiny.argv(tmp_path / "other", *options, "--train.steps", "3")) == 0
    assert main_run(tiny.argv(tmp_path / "other", *options, *COMPILED)) == 0
    plain, other = tiny.metrics(tmp_path / "plain"), tiny.metrics(tmp_path / "other")
    assert [line["loss"] for line in plain] == pytest.approx([line["loss"] for line in other], rel=RELATIVE)
    assert tally.graphs == 0  # they were spoken of


def test_whole_batches_are_sampled_with_one_shape(tmp_path: Path) -> None:
    training = tiny.prepare(tmp_path, *PIXELS, "--sample.batch-size", "8", *COMPILED)
    tiny.scramble(training)
    model, run = training.averaged(), training.run
    labels = torch.arange(10).repeat(2)

    def images(objective: Any, count: int) -> Tensor:
        return torch.cat([*sample_many(run, objective, labels[:count], range(count))])

    assert len(images(model, 7)) == 7
    assert tally.graphs == 0
    found = images(model, 20)
    assert found.shape[0] == 20
    graphs = tally.graphs
    assert graphs
    assert torch.equal(images(model, 9), found[:9])
    assert tally.graphs == graphs
    model.beside["prepared"] = False
    assert (images(model, 20).int() - found.int()).abs().max() <= 1


def test_vco_sample_follows_the_run_or_an_option(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path / "run", *PIXELS, "--train.steps", "1")) == 0
    small = ("--num", "5", "--sample.batch-size", "4")
    for name, more in (("plain", ()), ("fast", COMPILED)):
        out = ("--out", str(tmp_path / name))
        assert main_vco(["sample", str(tmp_path / "run"), *out, *small, *more]) == 0
        assert ("graphs of blocks in" in capsys.readouterr().out) == (name == "fast")
    assert not is_prepared(open_run(tmp_path / "run").model)
    assert is_prepared(open_run(tmp_path / "run", options=COMPILED).model)


@pytest.mark.parametrize(("chosen", "on_cpu", "on_gpu"), [("auto", 0, 1), ("off", 0, 0), ("blocks", 1, 1)])
def test_auto_compiles_on_gpus(chosen: str, on_cpu: int, on_gpu: int, tmp_path: Path) -> None:
    config = tiny.invocation(tmp_path, "--train.compile", chosen).config
    assert [wants_compiling(config, device) for device in ("cpu", "cuda:1")] == [on_cpu, on_gpu]


def looks_at_values(block: DualBlock, x: dict[str, Tensor], *told: Any) -> dict[str, Tensor]:
    """A `forward` that no compiler can make one graph of."""
    return x if x["image"].sum() > 0 else {name: -tokens for name, tokens in x.items()}


@pytest.mark.parametrize("chosen", ["auto", "blocks"])
def test_a_block_that_cannot_be_compiled_is_named(chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DualBlock, "forward", looks_at_values)
    training = tiny.prepare(tmp_path, *PIXELS, "--train.compile", "off")
    config = tiny.invocation(tmp_path, *PIXELS, "--train.compile", chosen).config
    said: list[str] = []
    prepare_blocks(training.objective, config, "cuda", said.append)  # of which only the name is read
    if chosen == "blocks":
        with pytest.raises(UserError) as error:
            step(training)
        said.append(str(error.value))
    else:
        step(training)
        step(training)
    (sentence,) = said
    assert sentence.startswith("the block DualBlock of backbone jit-dual cannot be compiled (Unsupported: ")
    assert "set --train.compile off" in sentence
    assert len(sentence) < 300


def test_a_network_that_names_no_blocks_is_refused_in_one_sentence(tmp_path: Path, capsys: Capture) -> None:
    assert main_run(tiny.argv(tmp_path / "run", *tiny.TOY, "--loss", "none", *COMPILED)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "--train.compile blocks compiles the blocks of a network, and backbone toy (from --backbone) does not" in line
    )


def test_a_failure_in_the_backward_pass_is_a_sentence() -> None:
    class CompilerError(RuntimeError):
        __module__ = "torch._inductor.exc"

    with pytest.raises(UserError, match=r"backward pass cannot .*: no room\); set --train\.compile off"), compiled():
        raise CompilerError("no room\nand much more")
    with pytest.raises(RuntimeError, match="something else"), compiled():
        raise RuntimeError("something else")


@pytest.mark.slow  # the compiler takes about a minute, on a busy machine several
def test_kernels_give_what_pytorch_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With kernels of the compiler: losses, gradients, dropout; recomputed blocks and a resume to the bit."""
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    options = (*PIXELS, "--backbone.dropout", "0.2")
    plain, fast, again = (
        tiny.prepare(tmp_path / name, *options, *more)
        for name, more in (("plain", ()), ("fast", COMPILED), ("again", COMPILED))
    )
    recompute_blocks(again.objective.backbone)
    for training in (plain, fast, again):
        tiny.scramble(training)
    found = step(fast)
    assert_close(step(plain), found)
    tiny.assert_same(found, step(again))

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main_run(tiny.argv(whole, *options, *COMPILED)) == 0
    for steps in ("3", str(tiny.STEPS)):
        assert main_run(tiny.argv(parts, *options, *COMPILED, "--train.steps", steps)) == 0
    tiny.assert_same(tiny.tensors(whole), tiny.tensors(parts))


@pytest.mark.slow  # two processes compile
def test_two_processes_with_compiled_blocks_train_as_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of the weights (DDP), weights that are shared out (FSDP), and blocks that are recomputed besides."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    kinds = {"ddp": (), "fsdp": ("--train.sharding", "fsdp", "--train.checkpoint-blocks", "true")}
    runs = [tiny.argv(tmp_path / name, *PIXELS, *COMPILED, *more) for name, more in kinds.items()]
    for status, said in several_runs.launched(runs, tmp_path):
        assert status == 0, said
    assert list((tmp_path / "kernels").rglob("*.cpp"))
    assert main_run(tiny.argv(tmp_path / "one", *PIXELS)) == 0
    expected = tiny.metrics(tmp_path / "one")
    for name in kinds:
        found = tiny.metrics(tmp_path / name)
        for key in ("loss", "image", "features"):
            assert [line[key] for line in found] == pytest.approx([line[key] for line in expected], rel=RELATIVE), name


def test_without_a_compiler_a_run_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    import torch._inductor.config as settings

    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(settings.cpp, "cxx", (None, str(tmp_path / "no-such-compiler")))
    assert main_run(tiny.argv(tmp_path / "run", *PIXELS, *COMPILED)) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "which takes a C++ compiler, such as g++, and there is none on this machine" in line
    assert line.endswith("set --train.compile off")
