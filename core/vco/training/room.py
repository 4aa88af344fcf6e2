"""What a dry run says of memory: what the weights take, what an image takes, and how many images fit into a GPU."""

from typing import Final

import torch
from tqdm import tqdm

from vco.distributed import precision_of
from vco.run import Run
from vco.training.memory import Kept, State, kept_by, size, state_of

HINT: Final = "add --gpu-memory GB (as in 80) to count what an image takes and how many images fit"


def memory_rows(run: Run, processes: int, stated: float | None) -> list[tuple[str, str]]:
    """Titles and what is said; nothing here is an error.

    What an image takes is counted for a GPU alone, as PyTorch loads its compiler for that, which takes a second.

    Args:
        run: assembled on the meta device; it is of no other use afterwards.
        processes: that share a batch.
        stated: memory of a GPU in GB; by default that of this machine's, if it has one.
    """
    state = state_of(run, processes)
    rows = [("memory", f"{state.sentence} (a process)")]
    if stated is None and torch.cuda.is_available():
        stated = torch.cuda.get_device_properties(0).total_memory / 1e9
    if stated is None:
        return [*rows, ("an image", HINT)]
    bf16 = run.config.mixed_precision == "bf16" or precision_of(run.config, "cuda") == "bf16"
    bf16 = bf16 or (run.config.mixed_precision == "auto" and not torch.cuda.is_available())
    with tqdm(desc="counting what an image takes", bar_format="{desc} ...", leave=False, disable=None):
        kept = kept_by(run, bf16)
    if isinstance(kept, str):
        return [*rows, ("an image", f"what it takes cannot be counted: {kept}")]
    return [*rows, ("an image", f"{_image(run, kept, bf16)}"), ("fits", _fits(run, processes, state, kept, stated))]


def _image(run: Run, kept: Kept, bf16: bool) -> str:
    """What an image takes, as the run is set, and with the other setting."""
    ways = {False: size(kept.image)}
    if kept.recomputed is not None:
        ways[True] = size(kept.recomputed)
    chosen = run.config.train.checkpoint_blocks
    said = f"{ways.get(chosen, ways[False])} kept for the backward pass, in {'bf16' if bf16 else 'fp32'}"
    if (other := ways.get(not chosen)) is not None:
        said += f" ({other} with --train.checkpoint-blocks {str(not chosen).lower()})"
    return said


def _fits(run: Run, processes: int, state: State, kept: Kept, gpu: float) -> str:
    """How many images fit, and whether those of the run do."""
    train = run.config.train
    images = train.batch_size // (processes * train.accumulation)
    most = kept.fitting(state, gpu * 1e9, train.checkpoint_blocks)
    said = f"{most:,} images a forward pass and process in {gpu:,.0f} GB; this run has {images:,}"
    if most >= images:
        return said
    wanted = [f"more processes than {processes}"]
    if most and (parts := _parts(images, most)):
        wanted.append(f"--train.accumulation {parts * train.accumulation}")
    if kept.recomputed is not None and not train.checkpoint_blocks:
        wanted.append("--train.checkpoint-blocks true")
    return f"{said}, which are too many: try {' or '.join(wanted)}"


def _parts(images: int, most: int) -> int:
    """Into how many equal parts images are to be cut, so that each has so many at most."""
    return next((parts for parts in range(2, images + 1) if images % parts == 0 and images // parts <= most), 0)
