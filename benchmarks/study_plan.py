"""What the study consists of: data sets, methods, runs, and the pieces of work that each of them needs."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

CONFIG = Path(__file__).with_suffix("").with_name("study.yaml")
REFERENCE = "JiT"
"""The method whose cost is the budget at equal FLOPs and at equal time."""
SWEEP_SEEDS = (1000, 1001)
SAMPLING_SEEDS = (0, 1)
SMALL: Mapping[str, Any] = {"steps": 6, "point": 2, "samples": 40, "sweep_samples": 40}


@attrs.frozen(kw_only=True)
class Dataset:
    """One data set of the study."""

    name: str
    common: str
    spaces: Sequence[str]
    judge: str
    wide: int
    steps: int
    point: int
    samples: int
    sweep_samples: int
    scales: Sequence[float]
    beyond: Sequence[float] = ()
    """Scales that are tried in turn while the largest so far is the best."""
    encoder: str = ""
    """How the encoder that methods align to is trained; empty where it ships."""
    second_judge: str = ""
    images: str = ""
    """The folder of images, where they do not ship."""
    more: str = ""
    """Options that --small adds to every training."""


@attrs.frozen(kw_only=True)
class Run:
    """One training: a method on a data set with a seed."""

    data: Dataset
    method: str
    options: str
    seed: int
    work: Path

    @property
    def folder(self) -> Path:
        """Its run folder."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.method).strip("-")
        return self.work / self.data.name / f"{name}-{self.config}-seed{self.seed}"

    @property
    def config(self) -> str:
        """A hash of all settings but the seed: results of other settings are other results."""
        data = self.data
        depends = [data.common, data.more, data.judge, data.spaces, data.steps, data.samples, self.options]
        depends += [options for options in (data.encoder, data.second_judge) if options]
        return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:8]

    @property
    def training(self) -> list[str]:
        """The options of its `vco-run`; it is scored afterwards."""
        data = self.data
        fixed = ["--metric", "none", "--guidance.scale", "1", "--eval.labels", "data", "--seed", str(self.seed)]
        fixed += ["--train.steps", str(data.steps), "--train.checkpoint-every", str(data.point)]
        fixed += ["--train.keep-checkpoints", str(data.steps // data.point + 1), "--output-dir", str(self.folder)]
        chosen = self._filled(data.common) + self._filled(self.options)
        if data.encoder:  # the control has the initial weights of the same network
            chosen = [f"random:{self._network(data.encoder)}" if word == "random" else word for word in chosen]
        return [*chosen, *data.more.split(), *fixed]

    @property
    def networks(self) -> Mapping[Path, list[str]]:
        """Folder -> options of `vco train-encoder`, of every network that the study has to train first."""
        data = self.data
        return {
            self._network(options): [*self._filled(options), "--output", str(self._network(options))]
            for options in (data.encoder, data.judge, data.second_judge)
            if options
        }

    @property
    def metrics(self) -> list[str]:
        """Options that name the feature spaces, neither of which the run is aligned to."""
        data = self.data
        chosen = ["--metric", ",".join(f"fd={space}" for space in data.spaces), "--labels", "data"]
        for space, options in (("timm", data.judge), ("timm:second", data.second_judge)):
            if space in data.spaces:
                chosen += [f"--metric.fd.{space}.weights", str(self._network(options))]
        return chosen

    def _network(self, options: str) -> Path:
        """The folder of a network that is trained with these options."""
        kind = "encoder" if options == self.data.encoder else "judge"
        return self.work / self.data.name / f"{kind}-{hashlib.sha256(options.encode()).hexdigest()[:8]}"

    def _filled(self, options: str) -> list[str]:
        """Options with the places that are known by now."""
        places = {"{images}": self.data.images, "{encoder}": str(self._network(self.data.encoder))}
        return [places.get(word, word) for word in options.split()]


def read_config() -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """The data sets and the methods of study.yaml."""
    plain = yaml.safe_load(CONFIG.read_text())
    return plain["datasets"], {name: " ".join(options.split()) for name, options in plain["methods"].items()}


def datasets(names: Sequence[str], *, small: bool, images: str = "") -> list[Dataset]:
    """The data sets of these names; with tiny networks and a few steps, if it is a rehearsal.

    Args:
        names: keys of study.yaml.
        small: whether it is a rehearsal.
        images: the folder of images, for a data set that does not ship.
    """
    found: list[Dataset] = []
    for name in names:
        plain = dict(read_config()[0][name])
        options, tiny = "", plain.pop("small")
        if small:
            plain |= {**SMALL, "scales": plain["scales"][:2], "beyond": ()}
            plain |= {key: f"{plain[key]} --epochs 1" for key in ("judge", "second_judge", "encoder") if key in plain}
            options = f"{tiny} --train.fit-samples 60 --train.log-every 2 --sample.steps 1 --mixed-precision fp32"
        found.append(Dataset(name=name, more=options, images=images, **plain))
    return found


def run_of(data: Dataset, method: str, seed: int, work: Path) -> Run:
    """The training of a method with a seed."""
    options = read_config()[1][method].format(wide=data.wide)
    return Run(data=data, method=method, options=options, seed=seed, work=work)


def runs(chosen: Sequence[Dataset], methods: Sequence[str], seeds: int, work: Path) -> Iterator[Run]:
    """All trainings: every method with the first seed, then with the next one; plain JiT first, as others need it."""
    ordered = sorted(methods, key=lambda method: method != REFERENCE)
    for seed in range(seeds):
        for data in chosen:
            for method in ordered:
                yield run_of(data, method, seed, work)
