"""What guidance hides: streams of which some rows are shown as something else, or are emptied."""

import torch
from jaxtyping import Bool
from torch import Tensor

from vco.api import Condition, Guidance, Streams


def shown_to_network(guidance: Guidance, noisy: Streams, condition: Condition) -> Streams:
    """What the network is shown: the noisy streams, guidance's null in the rows that the condition names."""
    shown = dict(noisy)
    for stream, rows in condition.nulled.items():
        x_t = noisy[stream]
        shown[stream] = torch.where(_of_rows(rows, x_t), guidance.null(stream, x_t), x_t)
    return shown


def emptied(x: Tensor, rows: Bool[Tensor, " b"]) -> Tensor:
    """A stream with zeros in some rows."""
    return x.masked_fill(_of_rows(rows, x), 0.0)


def _of_rows(rows: Bool[Tensor, " b"], x: Tensor) -> Tensor:
    """One value a row, in a shape that goes with the stream."""
    return rows.view(-1, *[1] * (x.ndim - 1))
