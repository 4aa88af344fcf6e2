"""Makes backbones small, whatever their options of size are called: found out by what they do to the network."""

from collections.abc import Callable
from typing import Any, Final

import torch

from vco.api import Backbone
from vco.testing.options import evolved, is_whole_number, own_options
from vco.testing.subject import Subject

WIDTH: Final = 16
DEPTH: Final = 3
"""Wanted width of a token and number of blocks."""
OTHER: Final = (8, 2)
"""What other whole numbers are made: the first that leaves fewer weights, or else the last."""


def made_small(subject: Subject, make: Callable[[Any], Backbone]) -> Any:
    """The config of a backbone with those whole numbers reduced that say how large the network is.

    Numbers that change neither its width nor its depth come before the width, which may have to be a multiple of them.

    Args:
        subject: the backbone; its note "sizes" will name the options that are its width and its depth.
        make: constructs it with a config.
    """
    config = subject.config
    hints = own_options(type(config), subject.contract)
    numbers = [name for name, hint in hints.items() if is_whole_number(hint) and name not in subject.options]
    deep = [name for name in numbers if _changes(DEPTH_OF, config, name, make)]
    config = _with(config, deep, DEPTH, make)  # at once, as all else is then found out sooner
    wide = [name for name in numbers if name not in deep and _changes(WIDTH_OF, config, name, make)]
    for name in numbers:
        if name not in {*wide, *deep}:
            config = _with_small(config, name, make)
    config = _with(_with(config, deep, DEPTH, make), wide, WIDTH, make)
    subject.notes["sizes"] = [*wide, *deep]
    return config


def _with(config: Any, names: list[str], wanted: int, make: Callable[[Any], Backbone]) -> Any:
    """The config with those of some options changed that then leave fewer weights."""
    for name in names:
        smaller = evolved(config, **{name: wanted})
        if smaller is not None and _size(make, smaller) < _size(make, config):
            config = smaller
    return config


Size = tuple[float, int, int]
"""Number of weights, width and depth of a network."""
REFUSED: Final[Size] = (float("inf"), 0, 0)
WIDTH_OF, DEPTH_OF = 1, 2
"""Their places in a `Size`."""


def _changes(what: int, config: Any, name: str, make: Callable[[Any], Backbone]) -> bool:
    """Whether an option changes the width or the depth of the network, at the first other value that is accepted."""
    before = _size(make, config)
    now = getattr(config, name)
    for value in (*OTHER, before[what] // 2, 2 * before[what]):
        other = evolved(config, **{name: value}) if value != now else None
        if other is not None and (after := _size(make, other)) != REFUSED:
            return after[what] != before[what]
    return False


def _with_small(config: Any, name: str, make: Callable[[Any], Backbone]) -> Any:
    """The config with one option small, if that leaves no more weights; but for a few, such as norms of wider heads."""
    now, before = getattr(config, name), _size(make, config)
    for value in OTHER:
        other = evolved(config, **{name: value}) if now is None or now > value else None
        if other is None:
            continue
        after = _size(make, other)
        if after[0] < before[0] or (value == OTHER[-1] and after[0] <= 1.01 * before[0] < float("inf")):
            return other
    return config


def _size(make: Callable[[Any], Backbone], config: Any) -> Size:
    """How large a network is; it is made on the meta device, where weights cost nothing, if that can be done."""
    for device in ("meta", "cpu"):
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device):
                component = make(config)
        except Exception:  # whatever it raises is told by the law about its construction
            continue
        return float(sum(p.numel() for p in component.parameters())), component.width, component.depth
    return REFUSED
