"""Laws for backbones about what their streams see of each other."""

import torch

from vco.api import IMAGE, Backbone
from vco.testing.law import does_not_apply, law, require
from vco.testing.laws.backbones import BackboneCase, other_values, predict, predicted
from vco.testing.tensors import clone, distance, require_same


def _has_several_streams(backbone: type[Backbone]) -> bool:
    return {*backbone.streams, *backbone.optional_streams} != {IMAGE}


@law(BackboneCase, about=_has_several_streams)
def streams_see_each_other(case: BackboneCase) -> None:
    """Unless blocked, each stream's prediction depends on every other stream."""
    component = case.build()
    inputs = case.inputs(component, 1) | {"blocked": {}}
    before = predict(case, component, inputs)
    for key in before:
        after = predict(case, component, other_values(case, component, inputs, key))
        for query in before.keys() - {key}:
            require(distance(before[query], after[query]) > 1e-6, f"{query} does not depend on {key}")


@law(BackboneCase, about=_has_several_streams)
def blocked_streams_change_nothing(case: BackboneCase) -> None:
    """Where a stream's keys are blocked, it changes no other stream's prediction and no tap of it.

    All other rows see it as if nothing were blocked. Edges that it refuses to block are left out.
    """
    component = case.build()
    if not component.supports_blocking:
        does_not_apply("it does not support blocking")
    require(case.edges(), "it says supports_blocking, and refuses to block any stream from another")
    inputs = case.inputs(component, 1) | {"blocked": {}}
    free = predicted(clone(case.run(component, inputs)))
    rows = torch.arange(case.sizes.batch) % 2 == 0
    for key in free:
        # every way to the key is closed: otherwise it would be seen through a third stream
        edges = {edge: rows for edge in case.edges() if edge[1] == key}
        blocked = inputs | {"blocked": edges}
        before = clone(case.run(component, blocked))
        after = clone(case.run(component, other_values(case, component, blocked, key)))
        for query, _ in edges:
            ones, others = predicted(before)[query], predicted(after)[query]
            require_same(ones[rows], others[rows], f"{query} sees {key} in rows where that is blocked", 1e-6)
            require_same(ones[~rows], free[query][~rows], f"blocking {key} in some rows changes {query} in the others")
            if query == IMAGE:
                for number, tap in before.taps.items():
                    hidden, moved = tap.tokens[rows], after.taps[number].tokens[rows]
                    require_same(hidden, moved, f"tap {number} sees {key} in rows where that is blocked", 1e-6)
