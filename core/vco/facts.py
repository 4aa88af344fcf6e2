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

    def plain(self) -> dict[str, Any]:
        """As plain data, in the shape of facts.yaml."""
        return {
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "features": [
                {"name": name, "tokens": list(spec.tokens), "grid": list(spec.grid), "pooled": spec.pooled}
                for name, spec in self.features.items()
            ],
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
                )
                for item in plain["features"]
            }
            return cls(image_shape=(channels, height, width), num_classes=int(plain["num_classes"]), features=specs)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"it is not what vco wrote ({type(error).__name__}: {error})") from error
