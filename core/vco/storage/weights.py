"""Files of weights that others have published: read without running anything that they hold.

Such a file is a pickle of `torch.save`, which can name any function to be called when it is read. Only tensors, plain
data and `argparse.Namespace`, in which their authors keep settings, are let through.
"""

import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import torch
from safetensors.torch import load_file
from torch import Tensor

from vco.errors import UserError

MODEL: Final = "model"
AVERAGES: Final = ("model_ema1", "model_ema2", "ema")
"""Keys of the running averages in such a file: JiT and its relatives have two, SiT and its relatives one."""
OPTIMIZERS: Final = ("optimizer", "opt")
"""Keys of the optimizer's state in such a file."""


@attrs.frozen(kw_only=True)
class WeightsFile:
    """A file of weights, under its authors' names; tensors stay on disk until they are used."""

    path: Path
    sets: Mapping[str, Mapping[str, Tensor]]
    """"model", and "ema-0" and so on for the running averages -> name -> tensor."""
    epoch: int | None = None
    """The last epoch that was trained, from 0; None if the file does not say."""
    steps: int | None = None
    """Optimizer steps; None if the file has no state of an optimizer that counts them."""
    settings: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """Its plain settings by name."""

    @property
    def averages(self) -> int:
        """How many running averages it has."""
        return len(self.sets) - (MODEL in self.sets)

    @property
    def first(self) -> str:
        """The weights that are best used: those of the first running average, or the last ones."""
        return "ema-0" if "ema-0" in self.sets else MODEL


def read_weights(path: Path) -> WeightsFile:
    """Reads a `.pth` of JiT or V-Co, a `.pt` of SiT's relatives, or other tensors by name (`.safetensors` too).

    Raises:
        UserError: if it is no such file, is damaged, or would run code.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, and a file of weights is needed, as in checkpoint.pth")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    content = _content(path)
    averages = [content[key] for key in AVERAGES if key in content]
    found = {f"ema-{number}": average for number, average in enumerate(averages)}
    found |= {MODEL: content[MODEL]} if MODEL in content else {}
    sets = {name: _tensors(path, weights) for name, weights in (found or {MODEL: content}).items()}
    epoch, settings = content.get("epoch"), content.get("args")
    plain = vars(settings) if isinstance(settings, Namespace) else {}
    return WeightsFile(
        path=path,
        sets=sets,
        epoch=epoch if isinstance(epoch, int) else None,
        steps=_steps(content),
        settings={key: value for key, value in plain.items() if isinstance(value, bool | int | float | str)},
    )


def _content(path: Path) -> Mapping[str, Any]:
    """What the file holds."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with _only_settings(), warnings.catch_warnings(action="ignore"):  # one about pickles of another version
            # only files of the older format, which are no archives, have to be read as a whole
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a file of any kind, read by libraries that raise anything
        if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path} asks for {asked[1]} to be used when it is read, which no file of weights needs, so it was not "
                "read; get the weights from their authors, or as .safetensors"
            ) from error
        raise UserError(f"{path} is no file of weights, or it is damaged; get it anew from its authors") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__} and no weights by name")
    return content


@contextmanager
def _only_settings() -> Generator[None]:
    """Lets `torch.load` make objects of `argparse.Namespace` and of nothing else that some library has allowed."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([Namespace])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def _tensors(path: Path, weights: Any) -> dict[str, Tensor]:
    """A mapping of names to tensors.

    Raises:
        UserError: if it is something else, or empty.
    """
    if isinstance(weights, Mapping) and weights:
        odd = [key for key, value in weights.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
        if not odd:
            return dict(weights)
        held = f"{odd[0]!r:.60} is no tensor"
    else:
        held = "there are no tensors"
    raise UserError(f"{path} holds no weights by name: {held}")


def _steps(content: Mapping[str, Any]) -> int | None:
    """The optimizer steps that the file notes, or that the state of an Adam has counted."""
    if type(noted := content.get("steps")) is int:
        return noted
    optimizer = next((content[key] for key in OPTIMIZERS if key in content), None)
    try:
        return int(next(iter(optimizer["state"].values()))["step"])  # pyright: ignore[reportOptionalSubscript]
    except (TypeError, KeyError, AttributeError, StopIteration, ValueError, RuntimeError):
        return None
