"""Latent Forcing's times, training loss and samplers against the published code."""

from typing import Any

import pytest
import torch
from parity.given import GivenTimes, dropping, given_objective, gradient_norm, specs_of, step
from parity.goldens import assert_close
from parity.latent_forcing_goldens import load_latent_forcing, streams_of, translate
from parity.latent_goldens import load_latent
from parity.sit_goldens import tokens_of
from torch import Tensor

from vco import flow
from vco.api import FEATURES, IMAGE, Condition, GuidanceSetting, Process, ProcessSetting, SolverSetting, StreamSpec
from vco.sampling.velocity import GuidedVelocity
from vco_plugins.guidance.autoguidance import Autoguidance
from vco_plugins.guidance.cfg import CFG
from vco_plugins.processes.aligned import Aligned
from vco_plugins.processes.cascaded import Cascaded, CascadedNoised
from vco_plugins.processes.independent import Independent
from vco_plugins.solvers.euler import Euler
from vco_plugins.solvers.heun import Heun
from vco_plugins.times import shift
from vco_plugins.two_branch import TwoBranchConfig

SPECS = {IMAGE: StreamSpec(shape=(3, 4, 4)), FEATURES: StreamSpec(shape=(4, 2))}


def _process(kind: Any, **options: Any) -> Any:
    return kind(kind.Config(**options), ProcessSetting(streams=SPECS))


def _laws(config: Any) -> dict[str, float]:
    return {
        "mean": config["P_mean"],
        "std": config["P_std"],
        "features_mean": config["D_mean"],
        "features_std": config["D_std"],
        "features_share": config["choose_dino_p"],
    }


def _check_times(mode: str, times: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    outputs = load_latent("latent_forcing_times").outputs
    for stream, word in ((IMAGE, "pixel"), (FEATURES, "feature")):
        assert_close(times[stream], outputs[f"{mode}.t_{word}"])
        assert torch.equal(weights[stream], outputs[f"{mode}.weight_{word}"])
        if f"{mode}.t_{word}_bf16" in outputs:
            rounded = times[stream].bfloat16().float()
            assert_close(rounded, outputs[f"{mode}.t_{word}_bf16"].float(), tolerance=1e-3)  # a last bit of bfloat16


@pytest.mark.parametrize(
    ("mode", "kind"), [("dino_first_cascaded", Cascaded), ("dino_first_cascaded_noised", CascadedNoised)]
)
def test_cascaded_times(mode: str, kind: type[Cascaded]) -> None:
    golden = load_latent("latent_forcing_times")
    process = _process(kind, **_laws(golden.config))
    drawn = {name.removeprefix(f"{mode}."): x for name, x in golden.inputs.items() if name.startswith(f"{mode}.")}
    given = torch.ones_like(drawn["uniform_phase"])
    if isinstance(process, CascadedNoised):
        given = process.noised(1 - drawn["uniform_augment"])  # ours are draws from (0, 1]
    times = process.times(
        drawn["uniform_phase"],
        drawn["normal_feature"],
        drawn["uniform_tail"],
        drawn["normal_pixel"],
        drawn["uniform_tail_value"],
        given,
    )
    _check_times(mode, times, process.weight(times))


def test_aligned_times() -> None:
    golden, mode = load_latent("latent_forcing_times"), "dino_first_shifted_aligned"
    process = _process(Aligned, lead=golden.config["aligned_shift"], **_laws(golden.config))
    drawn = [golden.inputs[f"{mode}.{name}"] for name in ("uniform_phase", "normal_feature", "normal_pixel")]
    times, weights = process.times(*drawn)
    _check_times(mode, times, weights)


def test_independent_times() -> None:
    golden, mode = load_latent("latent_forcing_times"), "shifted_independent_uniform"
    pixel, feature = golden.inputs[f"{mode}.uniform"]
    factor = Independent.Config().shift
    times = {IMAGE: shift(pixel, factor), FEATURES: shift(feature, factor)}
    _check_times(mode, times, _process(Independent).weight(times))


@pytest.mark.parametrize(
    "mode", ["dino_first_cascaded_noised", "dino_first_shifted_aligned", "shifted_independent_uniform"]
)
def test_paths_of_sampling(mode: str) -> None:
    golden = load_latent("latent_forcing_times")
    config = golden.config
    # the published independent mode shifts each time by its factor from one between both, so that features lead twice
    lead = config["grid_shift_independent"] ** 2
    processes: dict[str, Process] = {
        "dino_first_cascaded_noised": _process(
            CascadedNoised, features_shift=config["grid_gen_shift_feature_cascaded"]
        ),
        "dino_first_shifted_aligned": _process(Aligned, lead=config["grid_shift_aligned"]),
        "shifted_independent_uniform": _process(Independent, lead=lead),
    }
    path = processes[mode].path(config["num_sampling_steps"])
    assert_close(path[IMAGE].float(), golden.outputs[f"grid.{mode}.t_pixel"])
    assert_close(path[FEATURES].float(), golden.outputs[f"grid.{mode}.t_feature"])


def test_it_trains_as_published() -> None:
    golden = load_latent("latent_forcing_training_loss")
    backbone, streams = load_latent_forcing(golden), streams_of(golden)
    times = {IMAGE: golden.inputs["t_pixel"], FEATURES: golden.inputs["t_feature"]}
    weights = {IMAGE: golden.inputs["weight_pixel"], FEATURES: golden.inputs["weight_feature"]}
    guidance = dropping(golden.inputs["drop"], specs_of(streams), golden.config["num_classes"])
    model = given_objective(
        backbone,
        streams,
        guidance=guidance,
        process=GivenTimes(times, weights),
        stream_weights={FEATURES: golden.config["dino_weight"]},
    )
    noise = streams_of(golden, image="noise", features="noise_feature")
    found, _ = step(model, streams, noise, golden.inputs["y"])
    assert_close(found["loss"].reshape(1), golden.outputs["total"])
    assert_close(found[IMAGE].reshape(1), golden.outputs["loss_pixel"])
    assert_close(found[FEATURES].reshape(1), golden.outputs["loss_feature"])
    assert_close(gradient_norm(model), golden.outputs["grad_norm"])
    own = dict(backbone.named_parameters())
    named = {name.removeprefix("grad."): g for name, g in golden.outputs.items() if name.startswith("grad.")}
    assert len(named) == 5
    for name, gradient in translate(named).items():
        grad = own[name].grad
        assert grad is not None
        assert_close(grad, gradient)
    for stream, word in ((IMAGE, "pixel"), (FEATURES, "feature")):
        rows = _unweighted(model, streams, noise, times, golden)[stream]
        assert_close(rows, golden.outputs[f"{word}_per_sample"])


@torch.no_grad()
def _unweighted(model: Any, streams: Any, noise: Any, times: Any, golden: Any) -> dict[str, Tensor]:
    """Each stream's error of each sample, whatever its phase."""
    noisy = {name: flow.corrupt(x, noise[name], times[name]) for name, x in streams.items()}
    labels = golden.inputs["y"].masked_fill(golden.inputs["drop"], golden.config["num_classes"])
    velocity = model.network(noisy, times, Condition(labels=labels)).velocity
    true = {name: flow.velocity(x, noisy[name], times[name]) for name, x in streams.items()}
    return {name: (v - true[name]).square().flatten(1).mean(1) for name, v in velocity.items()}


@pytest.mark.parametrize(
    "name",
    [
        "latent_forcing_sample",
        "latent_forcing_sample_aligned",
        "latent_forcing_sample_autoguidance",
        "latent_forcing_sample_cfg_interval_weak",
    ],
)
@torch.no_grad()
def test_its_samplers(name: str) -> None:
    golden = load_latent(name)
    config = golden.config
    backbone, noise = load_latent_forcing(golden).eval(), streams_of(golden, image="noise", features="noise_feature")
    specs, classes = specs_of(noise), config["num_classes"]
    options: dict[str, Any] = {
        "scale": config["cfg"],
        "feature_scale": config["cfg_dino"],
        "low": config["interval_min"],
        "high": config["interval_max"],
        "stream_low": {FEATURES: config["interval_min_dino"]},
        "stream_high": {FEATURES: config["interval_max_dino"]},
    }
    kind: Any = CFG
    if "weak" in config:
        kind = Autoguidance
        when = "features-given" if config["guidance_method"] == "cfg_interval" else "always"
        options |= {"label": False, "when": when}
    setting = GuidanceSetting(streams=specs, num_classes=classes)
    model = given_objective(backbone, noise, guidance=kind(kind.Config(**options), setting))
    if "weak" in config:
        weak, unguided = load_latent_forcing(golden, weak=True).eval(), CFG(TwoBranchConfig(), setting)
        model.beside["weak"] = given_objective(weak, noise, guidance=unguided)
    if "aligned" in config["sample_mode"]:
        process = _process(Aligned, lead=config["dino_pixel_shift"])
    else:
        process = _process(CascadedNoised, features_shift=config["gen_shift_dino"], shift=config["gen_shift_pixel"])
    solver_kind: Any = {"heun": Heun, "euler": Euler}[config["sampling_method"]]
    solver = solver_kind(solver_kind.Config(), SolverSetting(streams=specs))
    ask, asked = GuidedVelocity(model, golden.inputs["y"]), list[list[float]]()

    def velocity(state: Any, times: Any, until: Any) -> Any:
        asked.append([times[IMAGE], times[FEATURES]])
        return ask(state, times, until)

    end = solver.integrate(velocity, noise, process.path(config["num_sampling_steps"]), lambda k: {})
    torch.testing.assert_close(torch.tensor(asked), torch.tensor(config["evaluations"]), atol=1e-6, rtol=0)
    assert_close(end[IMAGE], golden.outputs["image"])
    assert_close(end[FEATURES], tokens_of(golden.outputs["feature"]))
