"""Presets: each fits together, and none asks for more than its paper does."""

import pytest

from vco.plugins import load_catalog
from vco.resolve import resolve
from vco.run import assemble

CATALOG = load_catalog()


@pytest.mark.parametrize("name", CATALOG.names("presets"))
def test_a_preset_fits_together_and_groups_batches_only_for_a_loss_that_needs_it(name: str) -> None:
    config = resolve(["--preset", name], CATALOG).config
    assemble(config, CATALOG, device="meta")
    grouped = any(choice.component.grouped for choice in config.loss.values())
    assert bool(config.train.samples_per_class) == grouped
