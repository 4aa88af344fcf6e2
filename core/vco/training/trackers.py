"""Trackers such as TensorBoard and Weights & Biases, through Accelerate; metrics.jsonl holds the same numbers."""

import importlib.util
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from PIL import Image

from vco.config.resolve import to_plain_run
from vco.config.settings import RunConfig
from vco.errors import UserError, one_line
from vco.folder import RunFolder
from vco.storage.files import write_atomic

PROJECT: Final = "vco"
"""Project that runs belong to where a tracker sorts them into projects."""


def missing_trackers(config: RunConfig) -> list[str]:
    """A sentence for every tracker of --log-with whose package is not installed."""
    return [
        f"--log-with {name} needs the package {name}: pip install {name}, or 'vco[trackers]' for all trackers"
        for name in config.log_with
        if importlib.util.find_spec(name) is None
    ]


def start_trackers(accelerator: Accelerator, config: RunConfig, folder: RunFolder, step: int) -> None:
    """Begins to track a run, or goes on where it was after a step; what was tracked beyond that step is replaced.

    Args:
        accelerator: gets the trackers; its first process alone writes.
        config: the run; `log_with` names the trackers.
        folder: where TensorBoard's events go, and what a tracker has to remember.
        step: steps done before.

    Raises:
        UserError: if a tracker does not start, as one that nobody has logged in to.
    """
    if not config.log_with or accelerator.trackers:
        return
    trackers = {"tensorboard": _tensorboard, "wandb": _wandb}
    chosen: Any = [trackers[name](folder, step, accelerator.is_main_process) for name in dict.fromkeys(config.log_with)]
    accelerator.log_with = chosen
    try:
        accelerator.init_trackers(PROJECT)
    except Exception as error:  # of anybody's library
        accelerator.trackers = []  # what did not start cannot be ended
        raise UserError(
            f"--log-with {','.join(config.log_with)}: a tracker does not start ({one_line(error)}); put that right, or "
            "leave it out, as metrics.jsonl and report.html hold the same"
        ) from error
    settings = to_plain_run(config)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":  # its own page for settings would count as another run
            tracker.log({"settings": f"```\n{yaml.safe_dump(settings, sort_keys=False)}```"}, step=step)
        else:
            tracker.store_init_configuration(settings)


def _tensorboard(folder: RunFolder, step: int, main: bool) -> GeneralTracker:
    return TensorBoardTracker("tensorboard", folder.path, purge_step=step + 1 if step else 0)


def _wandb(folder: RunFolder, step: int, main: bool) -> GeneralTracker:
    """The same run of Weights & Biases at every start: its name there is kept in the folder."""
    kept = folder.path / "wandb" / "run-id"
    if main and not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        write_atomic(kept, secrets.token_hex(8))
    identity = kept.read_text() if main else ""
    return WandBTracker(PROJECT, name=folder.path.name, id=identity, resume="allow", dir=str(folder.path))


def log_values(accelerator: Accelerator, step: int, values: Mapping[str, float]) -> None:
    """Sends what was logged; "seconds.data" becomes "seconds/data", as trackers sort by folders."""
    if accelerator.trackers:
        accelerator.log({name.replace(".", "/", 1): value for name, value in values.items()}, step=step)


def log_scores(accelerator: Accelerator, step: int, scores: Sequence[Mapping[str, Any]]) -> None:
    """Sends scores as they stand in eval.json."""
    if accelerator.trackers:
        accelerator.log({f"score/{score['metric']}": score["value"] for score in scores}, step=step)


def log_picture(accelerator: Accelerator, step: int, name: str, path: Path) -> None:
    """Sends a picture, such as a grid of samples."""
    if not accelerator.trackers:
        return
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    for tracker in accelerator.trackers:
        form = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({name: pixels[None]}, step=step, **form)
