"""The model card of an exported run: what it is, how it was trained and scored, and how to load it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from vco import __version__
from vco.config.settings import RunConfig
from vco.facts import RunFacts
from vco.reporting.scores import Reading


@attrs.frozen(kw_only=True)
class Card:
    """All that a model card tells."""

    title: str
    address: str
    """What `vco.open_run` is given to load it."""
    licence: str
    """Identifier of its licence, as the Hub has them; empty if nobody has said."""
    picture: str
    """File with samples, beside the card; empty if there is none."""
    config: RunConfig
    facts: RunFacts
    parameters: int
    """Parameters of the network."""
    training: str
    """How long it was trained, and which weights these are."""
    published: bool
    """Whether it was imported, so that the settings of training are not known to be those of the authors."""
    begun_with: str
    """What it was begun with (--from); empty if with initial weights."""
    scores: Sequence[Reading]

    def text(self) -> str:
        """The card as Markdown, with the header that the Hub reads."""
        return "\n".join(
            [
                *self._header(),
                f"# {self.title}",
                "",
                f"A diffusion model of images with {self.facts.num_classes} classes, {self.origin}.",
                "",
                *([f"![samples of the run, a column for each class]({self.picture})", ""] if self.picture else []),
                "## Load",
                "",
                "```python",
                "import vco",
                "",
                f'run = vco.open_run("{self.address}")',
                f"images = run.sample(labels={[0, 1][: self.facts.num_classes]}, seed=0)  # uint8 [n, c, h, w]",
                "```",
                "",
                f"`vco sample` and `vco eval` take it too, and `vco-run --from {self.address}` begins another run "
                "with it.",
                "",
                "## What it is",
                "",
                *_table(("", ""), self._facts()),
                "",
                "`config.yaml` has every setting; places of files on the machine that trained it are left out.",
                "",
                "## Scores",
                "",
                *self._scores(),
                "",
                "## Licence",
                "",
                self.licence or "Not stated. Ask those who published it before you use it.",
                "",
            ]
        )

    @property
    def origin(self) -> str:
        """Who has trained it."""
        return f"{'imported into' if self.published else 'trained with'} vco {__version__}"

    def _header(self) -> Iterator[str]:
        yield "---"
        if self.licence:
            yield f"license: {self.licence}"
        yield from ("library_name: vco", "tags:", "- vco", "- diffusion", "- class-conditional-image-generation", "---")

    def _facts(self) -> Iterator[tuple[str, str]]:
        config, facts, train = self.config, self.facts, self.config.train
        yield "backbone", f"{config.part('backbone').name}, {self.parameters:,} parameters"
        yield "codec", config.part("codec").name
        yield "features", ", ".join(facts.encoders) or "none"
        yield "adapter", config.part("adapter").name
        weights = [f"{name} x {part.config.weight:g}" for name, part in config.all_of("loss").items()]
        yield "losses beside denoising", ", ".join(weights) or "none"
        scale = getattr(config.part("guidance").config, "scale", None)
        yield "guidance", config.part("guidance").name + (f", scale {scale:g}" if scale is not None else "")
        yield "process, solver", f"{config.part('process').name}, {config.part('solver').name}"
        shape = "x".join(map(str, facts.image_shape))
        yield "data", f"{config.part('data').name}: {facts.num_classes} classes, {shape}"
        if facts.class_names:
            more = ", ..." if len(facts.class_names) > 10 else ""
            yield "classes", ", ".join(facts.class_names[:10]) + more
        for place, digest in facts.contents.items():
            yield f"SHA-256 of {place}", f"`{digest}`"
        yield "training", self.training
        if not self.published:
            rate = f"{config.part('optimizer').name} at {train.learning_rate:g}"
            yield "batch, optimizer", f"{train.batch_size} images, {rate}"
            yield "seed", str(config.seed)
        if self.begun_with:
            yield "begun with", self.begun_with

    def _scores(self) -> list[str]:
        if not self.scores:
            return ["Of these weights none was measured."]
        rows = [(score.title, f"{score.value:.4g}", _number(score.real_value)) for score in self.scores]
        lines = _table(("score", "value", "of real images"), rows)
        for score in self.scores:
            how = {**score.sampling, **{f"protocol: {key}": value for key, value in score.protocol.items()}}
            lines += ["", f"How {score.title} was measured:", "", *_table(("", ""), _flat(how))]
        return lines


def _flat(plain: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested settings; those that are empty are left out."""
    for key, value in plain.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        elif value not in (None, "", [], ()):
            yield f"{above}{key}", str(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(head: Sequence[str], rows: Any) -> list[str]:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
