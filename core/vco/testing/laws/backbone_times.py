"""Laws for backbones about times: of every token, and of the end of a step."""

import warnings
from typing import Any

import torch

from vco.api import IMAGE, Backbone, Denoised
from vco.testing.law import does_not_apply, law, require
from vco.testing.laws.backbone_taps import cell
from vco.testing.laws.backbones import BackboneCase, predict, predicted, require_other_rows, row_by_row
from vco.testing.tensors import require_same


@law(BackboneCase)
def times_of_tokens_are_obeyed(case: BackboneCase) -> None:
    """If it takes a time for every token, equal ones are the time of the sample, and each one counts.

    It need not take them: then it raises, whatever that may be.
    """
    component = case.build()
    inputs = case.inputs(component, 1)
    expected = predict(case, component, inputs)
    times, ends = (row_by_row(inputs[name], case, component) for name in ("times", "until"))
    taken = False
    for stream, spread in times.items():
        later = {stream: 0.5 * inputs["times"][stream] + 0.5}
        if torch.equal(predict(case, component, inputs | {"times": inputs["times"] | later})[stream], expected[stream]):
            continue  # it goes by another stream's time
        of_tokens = inputs | {"times": inputs["times"] | {stream: spread}}
        if case.until:
            of_tokens |= {"until": inputs["until"] | {stream: ends[stream]}}
        try:
            found = predict(case, component, of_tokens)
        except Exception:  # it takes one time for each sample, and says so in its own way
            continue
        taken = True
        require_same(expected, found, f"the same time for every token of {stream} instead of one for the sample")
        of_last = torch.cat([spread[:, :-1], 0.5 * spread[:, -1:] + 0.5], 1)
        changed = predict(case, component, of_tokens | {"times": of_tokens["times"] | {stream: of_last}})[stream]
        require_other_rows({stream: found[stream]}, {stream: changed}, f"another time of {stream}'s last token")
        spec, cells = case.specs[stream], spread.shape[1]
        grid = component.grid if stream == IMAGE else (1, cells)
        change = (changed - found[stream]).abs().mean(0)
        place = int(torch.stack([change[cell(spec, grid, i)].mean() for i in range(cells)]).argmax())
        require(place == cells - 1, f"another time of {stream}'s last token {cells - 1} shows most in token {place}")
    if not taken:
        does_not_apply("it takes one time for each sample")


def _supports_until(backbone: type[Backbone]) -> bool:
    return backbone.supports_until


@law(BackboneCase, about=_supports_until)
def the_end_of_a_step_is_used(case: BackboneCase) -> None:
    """Told where a step goes, it answers with other velocities for other ends, and with finite ones for no step."""
    if not case.until:
        does_not_apply("this run does not tell it the end of a step")
    component = case.build()
    inputs = case.inputs(component, 1)
    resting = inputs | {"until": inputs["times"]}
    for name, x in predict(case, component, resting).items():
        require(torch.isfinite(x).all(), f"its prediction of {name} is not finite where the step ends at its beginning")
    ahead = {name: t + (1 - t) / 2 for name, t in inputs["times"].items()}
    nearer = predict(case, component, inputs | {"until": ahead})
    further = predict(case, component, inputs | {"until": {name: torch.ones_like(t) for name, t in ahead.items()}})
    require_other_rows(nearer, further, "another end of the step")


@law(BackboneCase, about=_supports_until)
def derivatives_along_the_path_pass(case: BackboneCase) -> None:
    """Forward-mode derivatives with respect to streams and times are those of finite differences.

    Losses that learn mean velocities ask for them, with an attention that has them (SDPBackend.MATH).
    """
    if not case.until:
        does_not_apply("this run does not tell it the end of a step")
    component = case.build()
    inputs = case.inputs(component, 1)
    inputs["until"] = {name: torch.full_like(t, 0.9) for name, t in inputs["until"].items()}
    noisy, times = inputs["noisy"], {name: 0.1 + 0.5 * t for name, t in inputs["times"].items()}
    slope = {name: torch.randn(x.shape, generator=case.generator(8)) for name, x in noisy.items()}

    def answer(streams: Any, moments: Any) -> Any:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            denoised: Denoised = case.ask(component, inputs | {"noisy": streams, "times": moments})
        return predicted(denoised)

    one = {name: torch.ones_like(t) for name, t in times.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's forward mode is made with what torch deprecates
            found: Any = torch.func.jvp(answer, (noisy, times), (slope, one))[1]
    except (RuntimeError, NotImplementedError) as error:
        require(False, f"no forward-mode derivative passes: {' '.join(str(error).split())[:200]}")
        raise
    h = 3e-4  # frequencies of time embeddings go up to 1000, and times are float32
    with torch.no_grad():
        ends = [
            answer({n: x + s * h * slope[n] for n, x in noisy.items()}, {n: t + s * h for n, t in times.items()})
            for s in (1, -1)
        ]
    for name, derivative in found.items():
        expected = (ends[0][name] - ends[1][name]) / (2 * h)
        error = ((derivative - expected).norm() / expected.norm()).item()
        require(error < 0.05, f"the derivative of {name} is off by {error:.0%} of that of finite differences")
