"""The case of each kind, and all laws: one module for each kind or theme."""

from typing import Final

from vco.testing.case import Case
from vco.testing.law import LAWS as _REGISTERED
from vco.testing.law import Law
from vco.testing.laws import (
    adapter_fits,
    backbone_blocks,
    backbone_settings,
    backbone_streams,
    backbone_taps,
    backbone_times,
    backbone_training,
    every_kind,
    frozen,
    frozen_blocks,
    guidance_branches,
    guidance_effects,
    loss_aims,
    loss_asking,
    loss_effects,
    loss_reading,
    loss_weights,
    losses,
    process_effects,
    several_processes,
    tensor_modules,
)
from vco.testing.laws.adapters import AdapterCase
from vco.testing.laws.backbones import BackboneCase
from vco.testing.laws.codecs import CodecCase
from vco.testing.laws.data import DataCase
from vco.testing.laws.features import FeatureCase
from vco.testing.laws.guidance import GuidanceCase
from vco.testing.laws.loss_case import LossCase
from vco.testing.laws.metrics import MetricCase
from vco.testing.laws.optimizers import OptimizerCase
from vco.testing.laws.presets import PresetCase
from vco.testing.laws.processes import ProcessCase
from vco.testing.laws.solvers import SolverCase

CASES: Final[dict[str, type[Case]]] = {
    case.kind: case
    for case in (
        DataCase, CodecCase, BackboneCase, FeatureCase, AdapterCase, LossCase, GuidanceCase, ProcessCase, SolverCase,
        OptimizerCase, MetricCase, PresetCase,
    )
}  # fmt: skip
"""Kind -> its case."""
_THEMES: Final = (
    every_kind, tensor_modules, several_processes, frozen, frozen_blocks, backbone_settings, backbone_taps,
    backbone_streams, backbone_times, backbone_training, backbone_blocks, adapter_fits, losses, loss_reading,
    loss_asking, loss_weights, loss_aims, loss_effects, process_effects, guidance_branches, guidance_effects,
)  # fmt: skip
"""Modules with further laws; importing one registers them."""
LAWS: Final[tuple[Law, ...]] = tuple(sorted(_REGISTERED, key=lambda law: (law.case is not Case, law.slow)))
"""All laws, in the order of reports: first those that hold for every kind, the slow ones last."""
