"""Whole sampling runs against the published code."""

from typing import Any

import pytest
import torch
from parity.golden_objective import objective, specs_of
from parity.goldens import assert_close, load_backbone, load_golden, thinned

from vco.api import FEATURES, IMAGE, GuidanceSetting, ProcessSetting, SolverSetting
from vco.sampling.velocity import GuidedVelocity
from vco_plugins.guidance.structural import Structural
from vco_plugins.processes.shared import Shared
from vco_plugins.solvers.euler import Euler
from vco_plugins.solvers.heun import Heun

STEPS = 6
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sample_heun_mask_cfg1.8": (Heun, {"scale": 1.8, "low": 0.1, "high": 1.0}),
    "sample_heun_zero_null": (Heun, {"scale": 1.8, "low": 0.1, "high": 1.0, "null": "zero"}),
    "sample_euler_mask_cfg3_interval0.2_0.8": (Euler, {"scale": 3.0, "feature_scale": 2.0, "low": 0.2, "high": 0.8}),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_images_are_those_of_the_published_sampler(name: str) -> None:
    golden = load_golden(name)
    solver, options = CASES[name]
    labels = golden.inputs["labels"]
    noise = {IMAGE: golden.input("noise.pixel", len(labels)), FEATURES: golden.input("noise.feature", len(labels))}
    backbone = load_backbone(golden, image_size=(noise[IMAGE].shape[2], noise[IMAGE].shape[3])).eval()
    num_classes = len(golden.weights["y_embedder.embedding_table.weight"]) - 1
    specs = specs_of(noise)
    guidance = Structural(Structural.Config(**options), GuidanceSetting(streams=specs, num_classes=num_classes))

    path = Shared(Shared.Config(), ProcessSetting(streams=specs)).path(STEPS)
    velocity = GuidedVelocity(objective(backbone, guidance, noise), labels)
    clean = solver(solver.Config(), SolverSetting(streams=specs)).integrate(velocity, noise, path, lambda k: {})
    assert_close(thinned(clean)[IMAGE], golden.outputs["image"])
