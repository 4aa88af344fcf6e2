"""The sizes at which laws are checked: fixed ones that provoke typical mistakes, and what Hypothesis adds."""

from collections.abc import Callable
from typing import Any, Final

import attrs


@attrs.frozen(kw_only=True)
class Sizes:
    """The free numbers of a case."""

    batch: int
    rows: int = 2
    """Rows of the token grid; not equal to the columns, so that exchanging them shows."""
    columns: int = 3
    channels: int = 3
    width: int = 12
    """Width d of the feature tokens."""
    seed: int = 0


FIXED: Final = (
    Sizes(batch=3),  # = channels and columns
    Sizes(batch=16, width=16),  # = token width of features and of small backbones: broadcasting along the wrong axis
    Sizes(batch=6),  # = number of tokens and image width
    Sizes(batch=4, rows=3, columns=2, channels=1, width=9, seed=1),
)
DRAWS: Final = 3
"""How many more sizes Hypothesis draws."""


def draw_sizes(check: Callable[[Sizes], None]) -> None:
    """Calls `check` with sizes that Hypothesis chooses, the same in every run; without Hypothesis does nothing."""
    try:
        import hypothesis
        from hypothesis import strategies as st
    except ImportError:
        return
    strategy: Any = st.builds(
        Sizes,
        batch=st.integers(1, 8),
        rows=st.integers(2, 3),
        columns=st.integers(2, 4),
        channels=st.sampled_from((1, 3)),
        width=st.integers(8, 20),
        seed=st.integers(0, 99),
    )
    checks: Any = hypothesis.HealthCheck
    settings = hypothesis.settings(
        max_examples=DRAWS,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=tuple(checks),
        report_multiple_bugs=False,
        phases=(hypothesis.Phase.generate,),  # a smaller counterexample would say no more and take longer
    )
    settings(hypothesis.given(strategy)(check))()
