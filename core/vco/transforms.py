"""Whether a transform of functions is under way, through which neither recomputed nor compiled blocks can be seen."""

from typing import Any

import torch


def in_transform() -> bool:
    """Whether a transform of functions, such as `torch.func.jvp`, is under way."""
    transforms: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    return transforms.maybe_current_level() is not None
