"""One deliberate mistake for every law: a line of `sound.py` and what somebody might have written instead."""

from pathlib import Path
from typing import Final

import attrs

SOURCE: Final = Path(__file__).with_name("sound.py")
KINDS: Final = {
    "Net": "backbones", "Thin": "backbones", "Fold": "codecs", "Eyes": "features", "Lens": "adapters",
    "Near": "losses", "Head": "losses", "Echo": "losses", "Mates": "losses", "Glide": "losses", "Guide": "guidance",
    "Clock": "processes", "Bend": "processes", "Leap": "processes", "Midpoint": "solvers", "Stride": "solvers",
    "Jitter": "solvers", "Push": "optimizers", "Gap": "metrics", "Dots": "data",
}  # fmt: skip
"""Component of sound.py -> its kind."""


def part_of(component: str) -> slice:
    """Where a component stands in sound.py, with the second class that some have."""
    text = SOURCE.read_text()
    start = text.index(f"class {component}(")
    after = {"Dots": "", "Push": "\nclass Gap("}.get(component, "\nclass ")
    return slice(start, text.index(after, start) if after else len(text))


@attrs.frozen
class Mistake:
    """`old` in the class `component` of sound.py becomes `new`."""

    component: str
    old: str
    new: str

    def source(self) -> str:
        """The whole file with the mistake in it."""
        text, part = SOURCE.read_text(), part_of(self.component)
        assert self.old in text[part], f"{self.component} has no line {self.old!r}"
        return text[: part.start] + text[part].replace(self.old, self.new, 1) + text[part.stop :]


_TAP = """            if number in taps:
                tapped[number] = Tap(tokens=x[IMAGE], positions=positions)
"""
_STEP = """            x = {name: self.step(block[name], name, x, condition) for name in x}
"""
_LAST = "state = {n: x + h[n] * slope[n].float() if h[n] else x"

MISTAKES: Final[dict[str, Mistake]] = {
    # every kind
    "loads": Mistake("Near", "class Near(Loss):", "class Near(nn.Module):"),
    "can-be-constructed": Mistake(
        "Clock", "self.config, self.streams = config, tuple(setting.streams)", 'raise UserError("never")'
    ),
    "says-what-it-is": Mistake("Clock", '"""Uniform times, the features\' ahead of the image\'s."""', '"""Clock"""'),
    "options-are-documented": Mistake("Net", '        """Token width, at least 1."""\n', ""),
    "config-is-frozen": Mistake("Near", "@attrs.frozen(kw_only=True)", "@attrs.frozen"),
    "config-survives-yaml": Mistake(
        "Near", "root: bool = False", "root: tuple[int, ...] = attrs.field(default=(), converter=lambda v: (*v, 1))"
    ),
    "construction-leaves-the-config-alone": Mistake(
        "Near", "self.config = config", "self.config = attrs.evolve(config, weight=2.0)"
    ),
    "metrics-are-scalars": Mistake(
        "Clock",
        "    def path(",
        "    def learning_rate_scale(self, step: int) -> float:\n        return -1\n\n    def path(",
    ),
    "imports-nothing-heavy": Mistake(
        "Clock",
        'times, the features\' ahead of the image\'s."""',
        'times."""\n\n    if attrs is None:\n        import timm',
    ),
    # tensors in, tensors out
    "output-is-finite": Mistake("Near", "(generated - real).square()", "(generated - real).square() / (real - real)"),
    "inputs-are-untouched": Mistake("Net", "noisy[IMAGE].to(dtype)", "noisy[IMAGE].mul_(0.5).to(dtype)"),
    "same-input-same-output": Mistake("Net", "x[name] + torch.tanh", "x[name] + torch.rand(()) * torch.tanh"),
    "rows-do-not-mix": Mistake("Net", "x[key].mean(1, keepdim=True)", "x[key].mean((0, 1), keepdim=True)"),
    "dtype-follows-the-input": Mistake("Net", "value.to(noisy[name].dtype)", "value.float()"),
    "stays-on-its-device": Mistake("Net", "x[IMAGE].shape[1], device=c.device", "x[IMAGE].shape[1]"),
    "tensors-are-registered": Mistake(
        "Lens",
        'self.register_buffer("mean", torch.zeros(self.spec.tokens[1]))',
        "self.mean = torch.zeros(self.spec.tokens[1])",
    ),
    "nothing-kept-carries-a-gradient": Mistake(
        "Lens", "        losses = {", "        self.seen.copy_(value.square().mean())\n        losses = {"
    ),
    "state-round-trip": Mistake("Net", "self.time = nn.Linear", 'self.__dict__["time"] = nn.Linear'),
    "can-be-copied": Mistake(
        "Net",
        "self.time = nn.Linear(1, self.width)",
        'self.t_layer = nn.Linear(1, self.width)\n        self.__dict__["time"] = lambda t: self.t_layer(t)',
    ),
    "same-seed-same-weights": Mistake("Net", "torch.ones(1)", "torch.full((1,), torch.seed() % 10_007.0)"),
    "can-be-built-on-meta": Mistake(
        "Net",
        "nn.Embedding(setting.num_classes + 1, self.width)",
        'nn.Embedding(setting.num_classes + 1, self.width, device="cpu")',
    ),
    "compiled-equals-eager": Mistake("Net", "if number in taps:", "if number in taps and c.sum().item() < 1e9:"),
    "two-processes-give-what-one-gives": Mistake("Mates", "same.sum(1, keepdim=True)", "len(same)"),
    # backbones
    "predicts-every-stream": Mistake("Net", "in clean.items()}, taps=", "in clean.items() if name == IMAGE}, taps="),
    "taps-are-as-declared": Mistake("Net", "if number in taps:", "if number >= min(taps, default=9):"),
    "tap-k-follows-block-k": Mistake("Net", _STEP + _TAP, _TAP + _STEP),
    "tokens-keep-their-place": Mistake("Net", "clean[IMAGE].transpose(1, 2)", "clean[IMAGE].flip(1).transpose(1, 2)"),
    "gradients-reach-everything": Mistake(
        "Net", "self.register_buffer(", "self.unused = nn.Parameter(torch.ones(1))\n        self.register_buffer("
    ),
    "conditioning-is-used": Mistake("Net", "+ self.time(", "+ 0 * self.time("),
    "streams-see-each-other": Mistake("Net", "[x[name], seen]", "[x[name], 0 * seen]"),
    "blocked-streams-change-nothing": Mistake("Net", "torch.where(rows[", "torch.where(~rows["),
    "refuses-missing-streams": Mistake("Net", "if FEATURES not in streams:", "if not streams:"),
    "images-of-other-sides-are-refused-or-denoised": Mistake("Net", "if height % 2 or width % 2:", "if height < 2:"),
    "is-built-for-the-encoder-that-is-named": Mistake(
        "Thin", "chosen_features(setting.features, config.features)", 'chosen_features(setting.features, "")'
    ),
    "takes-its-own-context-back": Mistake("Thin", "self.guess(x.mean(1))}", "self.guess(x.mean((0, 1)))}"),
    "times-of-tokens-are-obeyed": Mistake("Thin", "else times)", "else times.flip(1) + 0 * times)"),
    "the-end-of-a-step-is-used": Mistake("Thin", "torch.tanh(self.ahead(", "0 * torch.tanh(self.ahead("),
    "derivatives-along-the-path-pass": Mistake("Thin", "self.time(t)", "self.time(t.detach())"),
    "taps-are-valid-in-training": Mistake("Thin", "positions = kept if routed else", "positions ="),
    "draws-decide-in-training": Mistake("Thin", ".argsort(1)", "[:1].argsort(1).expand(len(x), -1)"),
    "trains-with-losses": Mistake(
        "Thin", "self.time = nn", "self.unused = nn.Parameter(torch.ones(1))\n        self.time = nn"
    ),
    "blocks-are-run-once": Mistake("Thin", "return list(self.blocks)", "return [self.blocks]"),
    "blocks-may-be-recomputed": Mistake(
        "Thin",
        "self.blocks = nn.ModuleList(nn.Linear(2 * self.width, self.width) ",
        "self.blocks = nn.ModuleList(nn.utils.parametrizations.spectral_norm(nn.Linear(2 * self.width, self.width)) ",
    ),
    # codecs
    "encoding-is-as-specified": Mistake("Fold", "nn.functional.pixel_shuffle(stream", "(stream"),
    "images-of-other-sizes-fit-or-are-refused": Mistake("Fold", "if height % 2 or width % 2:", "if height < 2:"),
    "noise-scale-is-in-the-spec": Mistake("Fold", ", noise_scale=config.noise_scale", ""),
    "noise-decides-what-is-encoded": Mistake("Fold", "0.01 * noise", "0.01 * torch.randn_like(noise)"),
    "gradients-pass-decoding": Mistake("Fold", "stream / self", "stream.detach() / self"),
    "decoded-images-are-those-encoded": Mistake(
        "Fold", "stream / self.config.gain, 2)", "-stream / self.config.gain, 2)"
    ),
    "loading-is-repeatable": Mistake(
        "Fold", "self.config = config", "self.config = attrs.evolve(config, gain=0.1 + torch.rand(()).item())"
    ),
    # feature sources
    "spec-is-known-before-loading": Mistake(
        "Eyes", "tokens=(self.grid[0] * self.grid[1], 12)", "tokens=(self.grid[0], 12)"
    ),
    "missing-weights-are-named": Mistake(
        "Eyes", "    def load(", '    def check(self) -> None:\n        raise UserError("no weights")\n\n    def load('
    ),
    "features-are-as-specified": Mistake("Eyes", "tokens=tokens, grid", "tokens=tokens.bfloat16(), grid"),
    "always-in-eval-mode": Mistake(
        "Eyes",
        "    def load(",
        "    def train(self, mode: bool = True) -> Any:\n        return nn.Module.train(self, mode)\n\n    def load(",
    ),
    "loading-is-frozen-and-repeatable": Mistake("Eyes", "torch.Generator().manual_seed(3)", "torch.default_generator"),
    "blocks-are-its-own": Mistake("Eyes", "return [self.layer]", "return [self.layer, self.layer]"),
    "images-matter": Mistake("Eyes", "self.dropout(", "0 * self.dropout("),
    "flat-images-have-finite-gradients": Mistake("Eyes", "images.float(), 4)", "images.float() / images.std(), 4)"),
    "gradient-reaches-the-images": Mistake("Eyes", "images.float()", "images.detach().float()"),
    "refuses-what-it-would-crop": Mistake("Eyes", "if height % 4 or width % 4:", "if height < 4 or width < 4:"),
    "views-of-one-pass-are-the-same": Mistake("Eyes", "Features(tokens=2 * tokens,", "Features(tokens=3 * tokens,"),
    "tokens-are-row-major": Mistake("Eyes", "Features(tokens=tokens,", "Features(tokens=tokens.flip(1),"),
    # adapters
    "spec-equals-output": Mistake("Lens", "shape=(self.spec.tokens[0], 8)", "shape=(8, self.spec.tokens[0])"),
    "target-equals-value": Mistake("Lens", "value.detach()", "value.detach() / 2"),
    "target-carries-no-gradient": Mistake("Lens", "value.detach()", "value"),
    "losses-are-scalars": Mistake("Lens", '"size": value', '"size": -value'),
    "features-matter": Mistake("Lens", "tokens.float() - self.mean", "tokens.float().flip(1) - self.mean"),
    "fit-draws-nothing-ambient": Mistake(
        "Lens", "torch.zeros(self.spec.tokens[1], dtype", "torch.rand(self.spec.tokens[1], dtype"
    ),
    "fit-is-idempotent": Mistake("Lens", "self.mean.copy_(total / count)", "self.mean.add_(total / count)"),
    "fit-ignores-order-and-batching": Mistake("Lens", "total += tokens", "total = tokens"),
    "streams-are-centred": Mistake("Lens", "tokens.float() - self.mean", "tokens.float()"),
    "fit-keeps-what-varies": Mistake("Lens", "tokens.float() - self.mean", "self.mean.expand(tokens.shape)"),
    "fit-survives-large-means": Mistake("Lens", "tokens.double()", "tokens.bfloat16().double()"),
    "fit-agrees-with-training": Mistake("Lens", "- self.mean).to", "- self.mean * self.training).to"),
    "fitted-state-round-trip": Mistake(
        "Lens", "torch.zeros(self.spec.tokens[1]))", "torch.zeros(self.spec.tokens[1]), persistent=False)"
    ),
    # losses
    "reads-the-encoder-that-is-named": Mistake("Near", "step.real(self.encoder)", "step.real()"),
    "dropped-tokens-are-understood": Mistake(
        "Head", "tap.of(step.features(self.encoder).tokens)", "step.features(self.encoder).tokens[:, tap.positions]"
    ),
    "gives-named-terms": Mistake("Near", ".mean((1, 2))", ".mean(2)"),
    "gradient-reaches-prediction": Mistake(
        "Near", "step.generated(self.encoder).tokens", "step.generated(self.encoder).tokens.detach()"
    ),
    "no-gradient-into-targets": Mistake("Head", "step.target[FEATURES].detach()", "step.target[FEATURES]"),
    "gradients-reach-its-weights": Mistake(
        "Head", "self.layer = nn.Linear(", "self.unused = nn.Parameter(torch.ones(1))\n        self.layer = nn.Linear("
    ),
    "taps-are-matched-by-position": Mistake(
        "Head", "tap.of(step.features(self.encoder).tokens)", "step.features(self.encoder).tokens"
    ),
    "order-of-samples-is-irrelevant": Mistake("Near", ".mean((1, 2))", ".mean((1, 2)).cumsum(0)"),
    "class-groups-may-be-split": Mistake(
        "Mates", "step.with_mates(pooled), step.with_mates(step.labels)", "pooled, step.labels"
    ),
    "is-independent-of-the-split": Mistake("Near", ".mean((1, 2))", ".mean((1, 2)) * len(real)"),
    "couples-what-it-says": Mistake("Near", "    @attrs", "    couples_batch = True\n\n    @attrs"),
    "is-computed-in-float32": Mistake(
        "Near", ".tokens.float(), step.real(self.encoder).tokens.float()", ".tokens, step.real(self.encoder).tokens"
    ),
    "weight-is-not-applied-twice": Mistake("Near", '"near": (', '"near": self.config.weight * ('),
    "descent-does-not-lead-away": Mistake("Near", "generated - real", "generated + real"),
    "asks-what-belongs-together": Mistake("Echo", "step.noised(later)", "step.noisy"),
    "says-one-time-if-it-is": Mistake(
        "Glide", "return step.asking(", "return step.asking(times=dict.fromkeys(step.times, step.times[IMAGE]), "
    ),
    "times-of-tokens-are-understood": Mistake("Echo", "(share if t.ndim == 2 else share[:, 0])", "share[:, 0]"),
    "denoising-weights-count": Mistake("Glide", "flow.spread(step.denoising_weights[name], error) * error", "error"),
    "options-do-something": Mistake("Echo", "self.config.blend * (near", "(near"),
    # guidance
    "guidance-of-sampling-leaves-training-alone": Mistake(
        "Guide", "< self.config.drop", "< self.config.drop * self.config.scale"
    ),
    "conditions-are-valid": Mistake("Guide", "needs_blocking = True", "needs_blocking = False"),
    "same-generator-same-condition": Mistake(
        "Guide", "torch.rand(len(labels), generator=generator)", "torch.rand(len(labels))"
    ),
    "most-samples-may-be-shown-whole": Mistake("Guide", "< self.config.drop", "> self.config.drop"),
    "shares-are-kept": Mistake("Guide", "< self.config.drop", "< self.config.drop ** 2"),
    "every-branch-is-trained": Mistake(
        "Guide",
        "self.hide(labels, torch.ones_like(labels, dtype=torch.bool))",
        "Condition(labels=labels * 0 + self.num_classes)",
    ),
    "equal-branches-change-nothing": Mistake("Guide", "(v - null[name])", "v"),
    "one-branch-is-conditional": Mistake(
        "Guide", '{"all": Condition(labels=labels)}', '{"all": Condition(labels=labels.flip(0) * 0)}'
    ),
    "scale-1-is-conditional": Mistake("Guide", "if any(self.strength(t) != 1 for t in times.values()):", "if times:"),
    "guides-away-from-the-other-branch": Mistake("Guide", "(v - null[name])", "(null[name] - v)"),
    "options-of-sampling-do-something": Mistake(
        "Guide", "return self.config.scale if inside else 1.0", "return 2.0 if inside else 1.0"
    ),
    "branches-differ": Mistake(
        "Guide",
        "labels, torch.ones_like(labels, dtype=torch.bool)",
        "labels, torch.zeros_like(labels, dtype=torch.bool)",
    ),
    "options-of-training-do-something": Mistake("Guide", "self.config.low == 0 or t > self.config.low", "t > 0.1"),
    "interval-is-respected": Mistake("Guide", "t > self.config.low", "t >= self.config.low"),
    "null-keeps-the-shape": Mistake(
        "Guide",
        "    def strength(",
        "    def null(self, stream: str, x_t: Tensor) -> Tensor:\n        return x_t / 2\n\n    def strength(",
    ),
    "combining-keeps-rows-and-dtypes": Mistake("Guide", "(v - null[name])", "(v - null[name].mean(0))"),
    "sampling-stays-on-the-device": Mistake("Guide", "torch.ones_like(labels, dtype", "torch.ones(len(labels), dtype"),
    # processes
    "path-options-leave-training-alone": Mistake(
        "Clock", "torch.rand(batch, generator=generator)", "torch.rand(batch, generator=generator) ** self.config.power"
    ),
    "times-are-in-range": Mistake("Clock", "t.sqrt()", "2 * t"),
    "same-generator-same-times": Mistake("Clock", "torch.rand(batch, generator=generator)", "torch.rand(batch)"),
    "every-sample-has-its-own-time": Mistake(
        "Clock", "torch.rand(batch, generator=generator)", "torch.rand(1, generator=generator).expand(batch)"
    ),
    "path-runs-from-noise-to-data": Mistake("Clock", "linspace(0, 1,", "linspace(1, 0,"),
    "path-is-fixed": Mistake(
        "Clock",
        "t = torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** self.config.power\n"
        "        return {name: t.clone()",
        "t = self.__dict__.setdefault(steps, torch.linspace(0, 1, steps + 1, dtype=torch.float64))\n"
        "        return {name: t",
    ),
    "path-stays-where-it-was-trained": Mistake(
        "Clock", "t.clone() if name == IMAGE else t.sqrt()", "t.clone() if name == IMAGE else t.square()"
    ),
    "weights-are-factors": Mistake("Clock", "1 / (1.1 - t)", "1 / (0.5 - t)"),
    "clean-streams-do-not-count": Mistake("Clock", "else t.sqrt()", "else (2 * t).clamp(max=1)"),
    "weight-of-a-sample-is-its-own": Mistake("Clock", "1 / (1.1 - t)", "t / t.mean()"),
    # solvers
    "straight-paths-are-exact": Mistake("Midpoint", _LAST, _LAST.replace("h[n] *", "1 / steps *")),
    "order-pays-for-evaluations": Mistake("Midpoint", "velocity(middle, half, end)", "velocity(state, half, end)"),
    "carries-noise-to-data": Mistake("Jitter", "(2 * (1 - t) * h)", "(4 * (1 - t) * h)"),
    "streams-have-times-of-their-own": Mistake(
        "Midpoint",
        "h = {name: end[name] - now[name] for name in path}",
        "h = {name: end[min(path)] - now[min(path)] for name in path}",
    ),
    "asks-along-the-path": Mistake("Midpoint", "(now[name] + end[name]) / 2", "now[name] + end[name]"),
    "resting-streams-stay": Mistake("Midpoint", _LAST, _LAST.replace(" if h[n] else x", "")),
    "state-stays-float32": Mistake("Midpoint", _LAST, _LAST.replace(".float()", "")),
    "same-call-same-result": Mistake(
        "Midpoint", _LAST, _LAST.replace("x + h[n] * slope[n].float()", "x.add_(h[n] * slope[n])")
    ),
    "mean-velocities-are-followed": Mistake("Stride", "velocity(state, now, end)", "velocity(state, now, now)"),
    "each-noise-is-fresh": Mistake("Jitter", "noise(k)", "noise(0)"),
    # optimizers
    "each-parameter-is-in-one-group": Mistake(
        "Push", '"component": group.component', '"component": groups[0].component'
    ),
    "a-step-moves-what-has-a-gradient": Mistake(
        "Push", "if weight.grad is None:", "if weight.grad is None or weight.ndim == 4:"
    ),
    "state-goes-by-name": Mistake(
        "Push", "state = self.state[weight]", 'state = self.__dict__.setdefault("ways", {}).setdefault(weight, {})'
    ),
    "learning-rate-is-obeyed": Mistake("Push", 'weight.sub_(group["lr"] *', "weight.sub_(0.01 *"),
    "goes-downhill": Mistake("Push", "weight.sub_(", "weight.add_("),
    # metrics
    "score-is-a-number-with-a-name": Mistake("Gap", 'f"gap ({self.encoder})"', '"gap"'),
    "batches-do-not-matter": Mistake("Gap", "self.sums[int(generated)] +=", "self.sums[int(generated)] ="),
    "processes-do-not-matter": Mistake(
        "Gap", 'torch.stack([state["sums"] for state in states]).sum(0)', 'states[0]["sums"]'
    ),
    "moments-stand-for-images": Mistake("Gap", "moments.mean * self.counts[0]", "moments.mean"),
    "equal-sets-score-best": Mistake("Gap", "value=value,", "value=value, higher_is_better=True,"),
    "images-are-left-alone": Mistake("Gap", "features.pooled.double()", "features.pooled.mul_(2).double()"),
    "too-few-images-are-refused": Mistake("Gap", "if not self.counts.all():", "if self.counts.sum() < 0:"),
    # data
    "is-described-before-reading": Mistake("Dots", "image_shape = (1, 4, 4)", "image_shape = (4, 4)"),
    "missing-files-are-named": Mistake(
        "Dots", "    def train(", '    def check(self) -> None:\n        raise UserError("no files")\n\n    def train('
    ),
    "images-are-as-described": Mistake("Dots", ".to(torch.uint8)", ".float()"),
    "labels-match": Mistake("Dots", "num_classes = 3", "num_classes = 4"),
    "labels-say-something-about-images": Mistake(
        "Dots", "self.labels[:, None", "self.labels[torch.randperm(size, generator=draws)][:, None"
    ),
    "order-is-fixed": Mistake("Dots", "torch.Generator().manual_seed(key)", "torch.default_generator"),
    "augmentation-comes-from-the-generator": Mistake("Dots", "torch.rand((), generator=generator)", "torch.rand(())"),
    "images-are-not-shared": Mistake("Dots", ".clone()", ""),
    "held-out-images-are-held-out": Mistake("Dots", "_Dots(60, 1)", "_Dots(300, 0)"),
    "extras-are-alike": Mistake("Dots", ".float().mean()}", ".float().mean() + torch.rand(())}"),
    "blocks-are-all-images": Mistake("Dots", "size - size // 2", "size // 3"),
    "any-number-of-workers": Mistake(
        "Dots", "self.images[index]", "self.images[0 if torch.utils.data.get_worker_info() else index]"
    ),
}
"""Law -> the mistake that it catches. The law "listing-is-light" is about the plugin's module, and tested apart."""
MORE: Final[list[tuple[str, Mistake]]] = [
    (
        "gradients-reach-its-weights",
        Mistake(
            "Lens",
            "self.layer = nn.Linear(",
            "self.unused = nn.Parameter(torch.ones(1))\n        self.layer = nn.Linear(",
        ),
    ),
    (
        "gradients-reach-its-weights",
        Mistake("Bend", "self.power = ", "self.unused = nn.Parameter(torch.ones(1))\n        self.power = "),
    ),
    ("losses-are-scalars", Mistake("Bend", "(self.power - 1).square()", "(times[IMAGE] - 1).square()")),
    (
        "reads-the-encoder-that-is-named",
        Mistake("Lens", "chosen_features(setting.features, config.features)", 'chosen_features(setting.features, "")'),
    ),
    (
        "rows-do-not-mix",
        Mistake("Midpoint", "h[n] * slope[n].float() if", "h[n] * slope[n].float() + x.mean(0) / 9 if"),
    ),
    ("images-of-other-sides-are-refused-or-denoised", Mistake("Thin", "if height % 2 or width % 2:", "if height < 2:")),
    ("takes-its-own-context-back", Mistake("Thin", '("seen",)', '("seen", "heard")')),
    ("gives-named-terms", Mistake("Near", '"near": (', '"near": step.denoised.context[FEATURES].mean((1, 2)) + (')),
    ("says-one-time-if-it-is", Mistake("Glide", "replaces_denoising: ", "one_time = True\n    replaces_denoising: ")),
    ("options-do-something", Mistake("Clock", ") ** self.config.power", ")")),
    (
        "asks-along-the-path",
        Mistake("Midpoint", "slope = velocity(state, now, end)", "slope = velocity(state, now, now)"),
    ),
    ("asks-what-belongs-together", Mistake("Echo", "t + (1 - t) * (", "t + 1.2 * (")),
    ("asks-what-belongs-together", Mistake("Echo", "replace(step.condition, until={})", "step.condition")),
    ("asks-what-belongs-together", Mistake("Glide", "(t + 1) / 2", "t / 2")),
    ("asks-what-belongs-together", Mistake("Glide", "(t + 1) / 2", "1 + t / 2")),
    (
        "asks-what-belongs-together",
        Mistake(
            "Glide",
            "return step.asking(cond",
            "step.times.update({IMAGE: until[IMAGE]})\n        return step.asking(cond",
        ),
    ),
    (
        "denoising-weights-count",
        Mistake("Glide", "(step.denoising_weights[name], error)", "(step.denoising_weights[IMAGE], error)"),
    ),
    (
        "denoising-weights-count",
        Mistake("Glide", "step.denoising_weights[name], error)", "step.denoising_weights[name].sqrt(), error)"),
    ),
    ("is-computed-in-float32", Mistake("Echo", "near = first.tokens.float()", "near = first.tokens")),
    (
        "is-computed-in-float32",
        Mistake("Glide", "slopes[name])).square()", "slopes[name])).to(step.denoised.clean[name].dtype).square()"),
    ),
    ("no-gradient-into-targets", Mistake("Glide", "target[name].detach()", "target[name]")),
    (
        "no-gradient-into-targets",
        Mistake("Glide", "flow.velocity(step.target[name].detach(), x_t, step.times[name])", "step.velocity[name]"),
    ),
    (
        "no-gradient-into-targets",
        Mistake(
            "Echo", '{"echo": ', '{"echo": step.denoised.clean[FEATURES].mul(step.clean[FEATURES]).mean((1, 2)) + '
        ),
    ),
    ("output-is-finite", Mistake("Glide", "sdpa_kernel(SDPBackend.MATH), ", "")),
    (
        "images-matter",
        Mistake(
            "Fold",
            "folded = nn.functional.pixel_unshuffle(images, 2)",
            "folded = 0 * nn.functional.pixel_unshuffle(images, 2)",
        ),
    ),
    (
        "images-matter",
        Mistake(
            "Gap",
            "self.sums[int(generated)] += features.pooled.double()",
            "self.sums[int(generated)] += 1 + 0 * features.pooled.double()",
        ),
    ),
]
"""Further mistakes, for laws of one name that several kinds have."""
