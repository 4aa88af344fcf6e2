"""Compiling: the blocks of the networks run as few large kernels in place of many small ones (`torch.compile`).

`prepare_blocks` readies the blocks of a run. They run compiled inside of `compiled()` alone: in training steps, and
where whole batches are sampled. All else, such as grids and what a notebook asks, has batches of other sizes, for each
of which a block would have to be compiled anew, and runs as it is written.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import nn

from vco.config.settings import RunConfig
from vco.errors import UserError, one_line
from vco.objective import Objective
from vco.transforms import in_transform

BACKEND: Final = "inductor"
"""Which backend of `torch.compile` makes the kernels; tests take one that is faster to compile with."""
GRAPHS: Final = 128
"""Graphs of one `forward` at most. Blocks of a class share it; training, teachers and sampling each have their own."""


@dataclass
class Tally:
    """What this process has compiled since anybody was told of it."""

    graphs: int = 0
    seconds: float = 0.0
    since: float = 0.0
    """When the compiler was last asked."""

    def tell(self, say: Callable[[str], None]) -> None:
        """Says how much was compiled, if anything was, and begins anew."""
        if self.graphs:
            from torch._inductor.runtime.cache_dir_utils import cache_dir

            many = f"{self.graphs} graph" + "s" * (self.graphs > 1)
            say(f"compiled {many} of blocks in {self.seconds:.0f} s; kept for other runs in {cache_dir()}")
        self.graphs, self.seconds = 0, 0.0


tally: Final = Tally()
"""PyTorch keeps what it has compiled for the whole process, so it is counted for the whole process."""
_inside: Final = list[None]()  # one for each `compiled()`; of no thread, as backward passes on a GPU have their own


def wants_compiling(config: RunConfig, device: torch.device | str) -> bool:
    """Whether the blocks of a run are to be compiled on a device (--train.compile)."""
    chosen = config.train.compile
    return chosen == "blocks" or (chosen == "auto" and torch.device(device).type == "cuda")


def prepare_blocks(
    objective: Objective, config: RunConfig, device: torch.device | str, say: Callable[[str], None]
) -> None:
    """Lets the blocks of backbone, encoders and codec run compiled inside of `compiled()`, if that is wanted.

    Names of parameters stay as they are, hooks (those of sharding, those that read an encoder's layers) are done around
    what is compiled, and copies, such as averages, have blocks of their own, for which nothing is compiled anew. Random
    numbers are drawn as without compiling. In transforms such as `torch.func.jvp` blocks run as they are written.

    Args:
        objective: the model, with its frozen parts loaded. Encoders that score are no part of it: scores are measured
            in one way, whatever is compiled.
        config: names the components. With --train.compile blocks, a block that cannot be compiled is an error; with
            auto it runs as it is written.
        device: where the model will be.
        say: is told then.
    """
    if not wants_compiling(config, device):
        return
    frozen = {"codec": objective.codec, **{f"features.{name}": source for name, source in objective.sources.items()}}
    regions: dict[tuple[str, Any], _Region] = {}
    for path, component in {"backbone": objective.backbone, **frozen}.items():
        for block in component.block_modules():
            if "forward" in vars(block):  # somebody has replaced it, perhaps an earlier call of this function
                continue
            plain: Any = type(block).forward
            if (path, plain) not in regions:
                name = f"the block {type(block).__name__} of {config.part(path).title}"
                regions[path, plain] = _Region(plain, name, say if config.train.compile == "auto" else None)
            block.forward = partial(regions[path, plain], block)
    objective.beside["prepared"] = is_prepared(objective) or bool(regions)


def is_prepared(objective: Objective) -> bool:
    """Whether blocks of a model are ready to run compiled."""
    return objective.beside.get("prepared", False)


@contextmanager
def compiled() -> Generator[None]:
    """Inside of it, blocks that are prepared run compiled; shapes should always be the same ones.

    Raises:
        UserError: if the compiler fails in a backward pass.
    """
    _inside.append(None)
    try:
        yield
    except Exception as error:
        if not _is_of_compiler(error):
            raise
        raise UserError(f"the blocks' backward pass cannot be compiled ({_why(error)}); {OFF}") from error
    finally:
        _inside.pop()


OFF: Final = "set --train.compile off"


class _Region:
    """The `forward` of all blocks of one class, which are given as its first argument; copies of it are itself."""

    def __init__(self, plain: Callable[..., Any], name: str, say: Callable[[str], None] | None) -> None:
        self.plain, self.name, self.say = plain, name, say
        self.fast: Callable[..., Any] | None = None
        self.fails = False

    def __call__(self, block: nn.Module, *given: Any, **named: Any) -> Any:
        if self.fails or not _inside or in_transform():
            return self.plain(block, *given, **named)
        self.fast = self.fast or _compile(self.plain)
        try:
            return self.fast(block, *given, **named)
        except Exception as error:
            if not _is_of_compiler(error):
                raise
            why = f"{self.name} cannot be compiled ({_why(error)})"
            if self.say is None:
                raise UserError(f"{why}; {OFF}") from error
            self.say(f"{why} and runs as it is written; {OFF} to try none")
        self.fails = True
        return self.plain(block, *given, **named)

    def __deepcopy__(self, memo: object) -> "_Region":
        return self


def _compile(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled as a whole, for one shape after another."""
    import torch._dynamo.config
    import torch._inductor.config
    from torch._dynamo.callback import callback_handler

    if _began not in callback_handler.start_callbacks:
        callback_handler.register_start_callback(_began)
        callback_handler.register_end_callback(_ended)
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(GRAPHS, limits.recompile_limit)
    # dropout draws as without compiling; and kernels are not chosen by a clock, for the sake of exact resumes
    wanted = {"fallback_random": True, "deterministic": True} if BACKEND == "inductor" else {}
    options: dict[str, Any] = {name: value for name, value in wanted.items() if hasattr(torch._inductor.config, name)}
    return torch.compile(plain, fullgraph=True, dynamic=False, backend=BACKEND, options=options or None)


def _began(about: Any) -> None:
    tally.since = time.perf_counter()


def _ended(about: Any) -> None:
    tally.seconds += time.perf_counter() - tally.since
    tally.graphs += about.callback_trigger.name == "DYNAMO"


def _is_of_compiler(error: BaseException) -> bool:
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)


def _why(error: BaseException) -> str:
    """What the compiler says, of which the first line is enough."""
    if "InvalidCxxCompiler" in str(error):
        return "which takes a C++ compiler, such as g++, and there is none on this machine"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else one_line(error)
