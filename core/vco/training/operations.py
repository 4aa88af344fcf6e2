"""Counting floating-point operations, those of attention on a CPU among them."""

from typing import Any

import torch


def operations_counter() -> Any:
    """A context that counts the operations inside it (`get_total_flops`): an addition and a multiplication are two.

    It is PyTorch's `FlopCounterMode`, of which some versions know no formula for the CPU's fused attention; that is
    counted as fused attention on a GPU is, whose backward pass computes the scores again.
    """
    # loads triton, which a dry run need not wait for
    from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    aten: Any = torch.ops.aten
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    unknown = {operation: formula for operation, formula in formulas.items() if operation not in flop_registry}
    return FlopCounterMode(display=False, custom_mapping=unknown)
