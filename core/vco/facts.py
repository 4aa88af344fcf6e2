"""What a run folder remembers of its data set and encoders, so that it can be opened where neither is at hand."""

from collections.abc import Mapping
from typing import Any

import attrs

from vco.api import FeatureSpec
from vco.errors import UserError


@attrs.frozen(kw_only=True)
class RunFacts:
    """The facts of a run that its components are built from, beside its settings."""

    image_shape: tuple[int, int, int]
    """(c, h, w) of the images."""
    num_classes: int
    """Number of classes."""
    features: Mapping[str, FeatureSpec]
    """Every encoder that the run uses, by its name, in the order of --features."""
    class_names: tuple[str, ...] = ()
    """Name of each class; empty where nobody has noted them."""
    class_counts: Mapping[str, tuple[int, ...]] = attrs.field(factory=dict[str, tuple[int, ...]])
    """Images of each class in "train" and in "test"; empty where nobody has counted them."""
    contents: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """SHA-256 of what the run was trained on: "data", and every codec and encoder by its place, "features.dinov2"."""

    @property
    def encoders(self) -> list[str]:
        """Names of the encoders for a reader, with what has to be known of them: "timm (random weights)"."""
        return [f"{name} ({spec.remark})" if spec.remark else name for name, spec in self.features.items()]

    def plain(self) -> dict[str, Any]:
        """As plain data, in the shape of facts.yaml."""
        return {
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "features": [
                {"name": name, "tokens": list(spec.tokens), "grid": list(spec.grid), "pooled": spec.pooled}
                | ({"remark": spec.remark} if spec.remark else {})
                for name, spec in self.features.items()
            ],
            "class_names": list(self.class_names),
            "class_counts": {split: list(counts) for split, counts in self.class_counts.items()},
            "contents": dict(self.contents),
        }

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "RunFacts":
        """The facts in plain data.

        Raises:
            UserError: if something is missing or of another form.
        """
        try:
            channels, height, width = map(int, plain["image_shape"])
            specs = {
                str(item["name"]): FeatureSpec(
                    tokens=(int(item["tokens"][0]), int(item["tokens"][1])),
                    grid=(int(item["grid"][0]), int(item["grid"][1])),
                    pooled=int(item["pooled"]),
                    remark=str(item.get("remark", "")),
                )
                for item in plain["features"]
            }
            counts = plain.get("class_counts", {}).items()
            return cls(
                image_shape=(channels, height, width),
                num_classes=int(plain["num_classes"]),
                features=specs,
                class_names=tuple(map(str, plain.get("class_names", ()))),
                class_counts={str(split): tuple(map(int, of)) for split, of in counts},
                contents={str(place): str(digest) for place, digest in plain.get("contents", {}).items()},
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(f"it is not what vco wrote ({type(error).__name__}: {error})") from error
