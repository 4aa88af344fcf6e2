"""One deliberate mistake for every law: a line of `sound.py` and what somebody might have written instead."""

from pathlib import Path
from typing import Final

import attrs

SOURCE: Final = Path(__file__).with_name("sound.py")
KINDS: Final = {
    "Net": "backbones", "Eyes": "features", "Lens": "adapters", "Near": "losses", "Head": "losses", "Mates": "losses",
    "Guide": "guidance", "Clock": "processes", "Midpoint": "solvers", "Jitter": "solvers", "Dots": "data",
}  # fmt: skip


@attrs.frozen
class Mistake:
    """`old` in the class `component` of sound.py becomes `new`."""

    component: str
    old: str
    new: str

    def source(self) -> str:
        """The whole file with the mistake in it."""
        text = SOURCE.read_text()
        start = text.index(f"class {self.component}(")
        end = len(text) if self.component == "Dots" else text.index("\nclass ", start)  # _Dots is a part of Dots
        part = text[start:end]
        assert self.old in part, f"{self.component} has no line {self.old!r}"
        return text[:start] + part.replace(self.old, self.new, 1) + text[start + len(part) :]


_TAP = """            if number in taps:
                tapped[number] = Tap(tokens=x[PIXELS], positions=positions)
"""
_STEP = """            x = {name: self.step(block[name], name, x, condition) for name in x}
"""
_LAST = "state = {n: x + h[n] * slope[n].float() if h[n] else x"

MISTAKES: Final[dict[str, Mistake]] = {
    # every kind
    "loads": Mistake("Near", "class Near(Loss):", "class Near(nn.Module):"),
    "can-be-constructed": Mistake("Clock", "self.config, self.streams = config, streams", 'raise UserError("never")'),
    "says-what-it-is": Mistake("Clock", '"""Uniform times, the features\' ahead of the pixels\'."""', '"""Clock"""'),
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
        'times, the features\' ahead of the pixels\'."""',
        'times."""\n\n    if attrs is None:\n        import timm',
    ),
    # tensors in, tensors out
    "output-is-finite": Mistake("Near", "(generated - real).square()", "(generated - real).square() / (real - real)"),
    "inputs-are-untouched": Mistake("Net", "noisy[PIXELS].to(dtype)", "noisy[PIXELS].mul_(0.5).to(dtype)"),
    "same-input-same-output": Mistake("Net", "x[name] + torch.tanh", "x[name] + torch.rand(()) * torch.tanh"),
    "rows-do-not-mix": Mistake("Net", "x[key].mean(1, keepdim=True)", "x[key].mean((0, 1), keepdim=True)"),
    "dtype-follows-the-input": Mistake("Net", "value.to(noisy[name].dtype)", "value.float()"),
    "stays-on-its-device": Mistake("Net", "x[PIXELS].shape[1], device=c.device", "x[PIXELS].shape[1]"),
    "tensors-are-registered": Mistake(
        "Lens",
        'self.register_buffer("mean", torch.zeros(features.shape[1]))',
        "self.mean = torch.zeros(features.shape[1])",
    ),
    "state-round-trip": Mistake("Net", "self.time = nn.Linear", 'self.__dict__["time"] = nn.Linear'),
    "can-be-copied": Mistake(
        "Net",
        "self.time = nn.Linear(1, self.width)",
        'self.t_layer = nn.Linear(1, self.width)\n        self.__dict__["time"] = lambda t: self.t_layer(t)',
    ),
    "same-seed-same-weights": Mistake("Net", "torch.ones(1)", "torch.full((1,), torch.seed() % 10_007.0)"),
    "can-be-built-on-meta": Mistake(
        "Net", "nn.Embedding(num_classes + 1, self.width)", 'nn.Embedding(num_classes + 1, self.width, device="cpu")'
    ),
    "compiled-equals-eager": Mistake("Net", "if number in taps:", "if number in taps and c.sum().item() < 1e9:"),
    "two-processes-give-what-one-gives": Mistake("Mates", "same.sum(1, keepdim=True)", "len(same)"),
    # backbones
    "predicts-every-stream": Mistake("Net", "in clean.items()}, taps=", "in clean.items() if name == PIXELS}, taps="),
    "taps-are-as-declared": Mistake("Net", "if number in taps:", "if number >= min(taps, default=9):"),
    "tap-k-follows-block-k": Mistake("Net", _STEP + _TAP, _TAP + _STEP),
    "tokens-keep-their-place": Mistake("Net", "clean[PIXELS].transpose(1, 2)", "clean[PIXELS].flip(1).transpose(1, 2)"),
    "gradients-reach-everything": Mistake(
        "Net", "self.register_buffer(", "self.unused = nn.Parameter(torch.ones(1))\n        self.register_buffer("
    ),
    "conditioning-is-used": Mistake("Net", "+ self.time(", "+ 0 * self.time("),
    "streams-see-each-other": Mistake("Net", "[x[name], seen]", "[x[name], 0 * seen]"),
    "blocked-streams-change-nothing": Mistake("Net", "torch.where(rows[", "torch.where(~rows["),
    "refuses-missing-streams": Mistake("Net", "if FEATURES not in streams:", "if not streams:"),
    # feature sources
    "spec-is-known-before-loading": Mistake(
        "Eyes", "shape=(self.grid[0] * self.grid[1], 12)", "shape=(self.grid[0], 12)"
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
    "images-matter": Mistake("Eyes", "self.dropout(", "0 * self.dropout("),
    "flat-images-have-finite-gradients": Mistake("Eyes", "images.float(), 4)", "images.float() / images.std(), 4)"),
    "gradient-reaches-the-images": Mistake("Eyes", "images.float()", "images.detach().float()"),
    "refuses-what-it-would-crop": Mistake("Eyes", "if height % 4 or width % 4:", "if height < 4 or width < 4:"),
    "tokens-are-row-major": Mistake("Eyes", "Features(tokens=tokens,", "Features(tokens=tokens.flip(1),"),
    # adapters
    "spec-equals-output": Mistake("Lens", "shape=(self.features.shape[0], 8)", "shape=(8, self.features.shape[0])"),
    "target-equals-value": Mistake("Lens", "value.detach()", "value.detach() / 2"),
    "target-carries-no-gradient": Mistake("Lens", "value.detach()", "value"),
    "losses-are-scalars": Mistake("Lens", '"size": value', '"size": -value'),
    "features-matter": Mistake(
        "Lens", "features.tokens.float() - self.mean", "features.tokens.float().flip(1) - self.mean"
    ),
    "fit-draws-nothing-ambient": Mistake(
        "Lens", "torch.zeros(self.features.shape[1], dtype", "torch.rand(self.features.shape[1], dtype"
    ),
    "fit-is-idempotent": Mistake("Lens", "self.mean.copy_(total / count)", "self.mean.add_(total / count)"),
    "fit-ignores-order-and-batching": Mistake("Lens", "total += features", "total = features"),
    "streams-are-centred": Mistake("Lens", "features.tokens.float() - self.mean", "features.tokens.float()"),
    "fit-keeps-what-varies": Mistake(
        "Lens", "features.tokens.float() - self.mean", "self.mean.expand(features.tokens.shape)"
    ),
    "fit-survives-large-means": Mistake("Lens", "features.tokens.double()", "features.tokens.bfloat16().double()"),
    "fit-agrees-with-training": Mistake("Lens", "- self.mean).to", "- self.mean * self.training).to"),
    "fitted-state-round-trip": Mistake(
        "Lens", "torch.zeros(features.shape[1]))", "torch.zeros(features.shape[1]), persistent=False)"
    ),
    # losses
    "gives-named-terms": Mistake("Near", ".mean((1, 2))", ".mean(2)"),
    "gradient-reaches-prediction": Mistake("Near", "step.generated.tokens", "step.generated.tokens.detach()"),
    "no-gradient-into-targets": Mistake("Near", "step.real.tokens.detach()", "step.real.tokens"),
    "gradients-reach-its-weights": Mistake(
        "Head",
        "self.layer = nn.Linear(width, features.shape[1])",
        "self.layer = nn.Linear(width, features.shape[1])\n        self.unused = nn.Parameter(torch.ones(1))",
    ),
    "taps-are-matched-by-position": Mistake("Head", "tokens[:, tap.positions]", "tokens"),
    "order-of-samples-is-irrelevant": Mistake("Near", ".mean((1, 2))", ".mean((1, 2)).cumsum(0)"),
    "is-independent-of-the-split": Mistake("Near", ".mean((1, 2))", ".mean((1, 2)) * len(real)"),
    "couples-what-it-says": Mistake("Near", "    @attrs", "    couples_batch = True\n\n    @attrs"),
    "is-computed-in-float32": Mistake(
        "Near", ".tokens.float(), step.real.tokens.detach().float()", ".tokens, step.real.tokens.detach()"
    ),
    "weight-is-not-applied-twice": Mistake("Near", '"near": (', '"near": self.config.weight * ('),
    "descent-does-not-lead-away": Mistake("Near", "generated - real", "generated + real"),
    # guidance
    "guidance-of-sampling-leaves-training-alone": Mistake(
        "Guide", "< self.config.drop", "< self.config.drop * self.config.scale"
    ),
    "conditions-are-valid": Mistake("Guide", "needs_blocking = True", "needs_blocking = False"),
    "same-generator-same-condition": Mistake(
        "Guide", "torch.rand(len(labels), generator=generator)", "torch.rand(len(labels))"
    ),
    "drops-at-the-set-rate": Mistake("Guide", "< self.config.drop", "> self.config.drop"),
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
    "guides-away-from-the-null-branch": Mistake("Guide", "(v - null[name])", "(null[name] - v)"),
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
        "Clock", "t.clone() if name == PIXELS else t.sqrt()", "t.clone() if name == PIXELS else t.square()"
    ),
    "weights-are-factors": Mistake("Clock", "1 / (1.1 - t)", "1 / (0.5 - t)"),
    "clean-streams-do-not-count": Mistake("Clock", "else t.sqrt()", "else (2 * t).clamp(max=1)"),
    "weight-of-a-sample-is-its-own": Mistake("Clock", "1 / (1.1 - t)", "t / t.mean()"),
    # solvers
    "straight-paths-are-exact": Mistake("Midpoint", _LAST, _LAST.replace("h[n] *", "1 / steps *")),
    "order-pays-for-evaluations": Mistake("Midpoint", "velocity(middle, half)", "velocity(state, half)"),
    "carries-noise-to-data": Mistake("Jitter", "(2 * (1 - t) * h)", "(4 * (1 - t) * h)"),
    "streams-have-times-of-their-own": Mistake(
        "Midpoint",
        "h = {name: t[k + 1].item() - now[name] for name, t in path.items()}",
        "h = {name: path[min(path)][k + 1].item() - now[min(path)] for name in path}",
    ),
    "asks-along-the-path": Mistake("Midpoint", "+ t[k + 1].item()) / 2", "+ t[k + 1].item())"),
    "resting-streams-stay": Mistake("Midpoint", _LAST, _LAST.replace(" if h[n] else x", "")),
    "state-stays-float32": Mistake("Midpoint", _LAST, _LAST.replace(".float()", "")),
    "same-call-same-result": Mistake(
        "Midpoint", _LAST, _LAST.replace("x + h[n] * slope[n].float()", "x.add_(h[n] * slope[n])")
    ),
    "each-noise-is-fresh": Mistake("Jitter", "noise(k)", "noise(0)"),
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
    "any-number-of-workers": Mistake(
        "Dots", "self.images[index]", "self.images[0 if torch.utils.data.get_worker_info() else index]"
    ),
}
"""Law -> the mistake that it catches. The law "listing-is-light" is about the plugin's module, and tested apart."""
