"""Whole sampling runs of SiT, ReDi and REG against the published samplers."""

from typing import Any

import pytest
import torch
from parity.given import given_objective, specs_of
from parity.goldens import assert_close
from parity.latent_goldens import LatentGolden, load_latent
from parity.sit_goldens import load_sit, streams_of, tokens_of
from torch import Tensor

from vco.api import FEATURES, IMAGE, Guidance, GuidanceSetting, ProcessSetting, Solver, SolverSetting, Streams
from vco.sampling.velocity import GuidedVelocity
from vco_plugins.guidance.cfg import CFG
from vco_plugins.guidance.representation import Representation
from vco_plugins.layers import CLASS_TOKEN
from vco_plugins.processes.shared import Shared
from vco_plugins.solvers.euler import Euler
from vco_plugins.solvers.heun import Heun
from vco_plugins.solvers.sde import SDE


def _start(golden: LatentGolden) -> Streams:
    return streams_of(golden, latents="noise", features="noise_feature", cls="noise_cls")


def _noise(golden: LatentGolden, k: int) -> Streams:
    """The fresh noise of a step."""
    found = {IMAGE: golden.inputs["step_noise"][k]}
    if "step_noise_feature" in golden.inputs:
        found[FEATURES] = tokens_of(golden.inputs["step_noise_feature"][k])
    if "step_noise_cls" in golden.inputs:
        found[CLASS_TOKEN] = golden.inputs["step_noise_cls"][k][:, None]
    return found


@torch.no_grad()
def _sample(golden: LatentGolden, kind: type[Guidance], solver: Solver, steps: int, **options: Any) -> list[Streams]:
    """The state at every evaluation, and at the end."""
    backbone, noise = load_sit(golden).eval(), _start(golden)
    specs, classes = specs_of(noise), golden.config["num_classes"]
    guidance = kind(kind.Config(**options), GuidanceSetting(streams=specs, num_classes=classes))
    model = given_objective(backbone, noise, guidance=guidance)
    path = Shared(Shared.Config(), ProcessSetting(streams=specs)).path(steps)
    ask = GuidedVelocity(model, golden.inputs["y"], by_step=solver.guides_by_step)
    states: list[Streams] = []

    def velocity(state: Streams, times: Any, until: Any) -> Streams:
        states.append(state)
        return ask(state, times, until)

    end = solver.integrate(velocity, noise, path, lambda k: _noise(golden, k))
    return [*states, end]


def _solver(kind: Any, **options: Any) -> Solver:
    return kind(kind.Config(**options), SolverSetting(streams={}))


def _interval(config: Any) -> dict[str, Any]:
    """Guidance's interval in our time; theirs has both its ends and runs from data to noise."""
    low, high = 1 - config["guidance_high"], 1 - config["guidance_low"]
    return {"scale": config["cfg_scale"], "low": low, "high": high, "closed": True}


def _check(golden: LatentGolden, state: Streams, prefix: str = "") -> None:
    assert_close(state[IMAGE], golden.outputs[f"{prefix}latents"])
    if f"{prefix}latents64" in golden.outputs:
        assert_close(state[IMAGE], golden.outputs[f"{prefix}latents64"].float())
    if f"{prefix}feature" in golden.outputs:
        assert_close(state[FEATURES], tokens_of(golden.outputs[f"{prefix}feature"]))


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("sit_sample_ode_euler", _solver(Euler)),
        ("sit_sample_ode_heun", _solver(Heun, guidance="step")),
        ("sit_sample_sde_euler_maruyama", _solver(SDE)),
    ],
)
def test_repas_samplers(name: str, solver: Solver) -> None:
    golden = load_latent(name)
    runs = {"": golden.config} | ({"noguidance.": golden.config["noguidance"]} if "noguidance" in golden.config else {})
    for prefix, config in runs.items():
        states = _sample(golden, CFG, solver, config["num_steps"], **_interval(config))
        assert len(states) - 1 == len(config["evaluations"])
        _check(golden, states[-1], prefix)


def test_redi_guides_the_latents_alone_or_all_channels() -> None:
    golden = load_latent("redi_sample_cfg")
    always: dict[str, Any] = {"low": 0.0, "high": 1.0}
    alone = _sample(
        golden, CFG, _solver(SDE), golden.config["num_steps"], scale=golden.config["scale"], feature_scale=1.0, **always
    )
    _check(golden, alone[-1])
    config = golden.config["all"]
    every = _sample(golden, CFG, _solver(SDE), config["num_steps"], scale=config["scale"], **always)
    _check(golden, every[-1], "all.")


def test_redis_representation_guidance() -> None:
    golden = load_latent("redi_sample_representation_guidance")
    options: dict[str, Any] = {"scale": golden.config["scale"], "low": 0.0, "high": 1.0}
    _check(golden, _sample(golden, Representation, _solver(SDE), golden.config["num_steps"], **options)[-1])
    points = golden.config["ode"]["num_steps"]
    _check(golden, _sample(golden, Representation, _solver(Euler), points - 1, **options)[-1], "ode.")


@pytest.mark.parametrize("prefix", ["", "cls_conditional.", "noguidance."])
def test_regs_sampler(prefix: str) -> None:
    golden = load_latent("reg_sample")
    config = golden.config if not prefix else golden.config[prefix.rstrip(".")]
    given = _interval(config)
    # theirs: a class scale of 0 is the conditional velocity, and no guidance of the latents is none of the class token
    own = config["cls_cfg_scale"] if given["scale"] > 1 and config["cls_cfg_scale"] > 0 else 1.0
    states = _sample(golden, CFG, _solver(SDE), config["num_steps"], feature_scale=own, **given)
    _check(golden, states[-1], prefix)
    last_input: Tensor = states[-2][CLASS_TOKEN][:, 0]
    assert_close(last_input, golden.outputs[f"{prefix}cls_last_input"])
