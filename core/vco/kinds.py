"""The kinds of components: one table, from which hooks, options, messages, `vco new` and `vco check` are made.

This module is light (no torch), because listing plugins and printing help read it.
"""

from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class Kind:
    """One kind of component."""

    name: str
    """Plural name; the hook of the kind is this with `vco_` in front."""
    section: str
    """Its section in a configuration, and its option on the command line, as in --loss."""
    contract: str
    """Class in `vco.api` that components of this kind implement."""
    noun: str
    """What one of them is called in a sentence."""
    help: str
    """What it does, for --help and `vco plugins`."""
    default: str | None = None
    """What a configuration without this section means; None where something has to be chosen. "none" is nothing."""
    several: bool = False
    """Whether a run may have several of them, as in --loss repa,hybrid."""
    short_option: str = ""
    """Of several: the option that NAME=VALUE sets, as the weight in --loss hybrid=10; empty if there is none."""
    repeatable: bool = False
    """Of several: whether one may be chosen again, with options of its own, as in --loss repa,repa:deep."""

    def registered(self, name: str) -> str:
        """The name that a plugin has registered: of one that is chosen again, "repa:deep", what precedes the colon."""
        return name.partition(":")[0] if self.repeatable else name


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind(name="data", section="data", contract="Data", noun="data set", help="training and test images"),
        Kind(
            name="codecs",
            section="codec",
            contract="Codec",
            noun="codec",
            help="map from images to the image stream and back",
            default="pixels",
        ),
        Kind(
            name="backbones",
            section="backbone",
            contract="Backbone",
            noun="backbone",
            help="network that denoises the streams",
        ),
        Kind(
            name="features",
            section="features",
            contract="FeatureSource",
            noun="feature source",
            help="frozen encoders that the run is aligned to; of several, the first is the default",
            several=True,
            repeatable=True,
        ),
        Kind(
            name="adapters",
            section="adapter",
            contract="Adapter",
            noun="adapter",
            help="map from encoder features to the feature streams",
        ),
        Kind(
            name="losses",
            section="loss",
            contract="Loss",
            noun="loss",
            help="alignment losses, with weights as in hybrid=10,perceptual=0.5 (one again: repa,repa:deep); or none",
            default="none",
            several=True,
            repeatable=True,
            short_option="weight",
        ),
        Kind(
            name="guidance",
            section="guidance",
            contract="Guidance",
            noun="guidance",
            help="what is hidden in training, and how branches combine in sampling",
        ),
        Kind(
            name="processes",
            section="process",
            contract="Process",
            noun="process",
            help="joint law of the streams' times",
        ),
        Kind(name="solvers", section="solver", contract="Solver", noun="solver", help="integrator of sampling"),
        Kind(
            name="optimizers",
            section="optimizer",
            contract="Optimizer",
            noun="optimizer",
            help="what moves the weights",
            default="adamw",
        ),
        Kind(
            name="metrics",
            section="metric",
            contract="Metric",
            noun="metric",
            help="scores of generated images, with the encoder they look through as in fd=digits-cnn; or none",
            default="none",
            several=True,
            short_option="encoder",
        ),
    )
}
"""Name of a kind -> what is known of it, in the order in which an image meets them."""

SECTIONS: Final = {kind.section: kind for kind in KINDS.values()}
"""Section of a configuration -> its kind."""

PRESETS: Final = "presets"
"""Presets are offered by plugins too, but they are files and no components."""

NONE: Final = "none"
"""On the command line, the name that chooses nothing where several may be chosen."""


def noun_of(kind: str) -> str:
    """What one component of a kind, or a preset, is called in a sentence."""
    return "preset" if kind == PRESETS else KINDS[kind].noun
