"""The case of each kind, and all laws."""

from typing import Final

from vco.testing import aims, blocking, branches, fitting, modules, processes, universal
from vco.testing.adapter import AdapterCase
from vco.testing.backbone import BackboneCase
from vco.testing.case import Case
from vco.testing.data import DataCase
from vco.testing.feature_source import FeatureCase
from vco.testing.guidance import GuidanceCase
from vco.testing.law import LAWS
from vco.testing.loss import LossCase
from vco.testing.preset import PresetCase
from vco.testing.process import ProcessCase
from vco.testing.solver import SolverCase

CASES: Final[dict[str, type[Case]]] = {
    case.kind: case
    for case in (
        BackboneCase, FeatureCase, AdapterCase, LossCase, GuidanceCase, ProcessCase, SolverCase, DataCase, PresetCase,
    )
}  # fmt: skip
LAW_BOOKS: Final = (universal, modules, processes, aims, blocking, branches, fitting)
"""Further modules of laws; importing one registers them."""
ALL_LAWS: Final = tuple(sorted(LAWS, key=lambda law: (law.case is not Case, law.slow)))
