"""Presets: each fits together, none asks for more than its paper does, and V-Co's rows say what their scripts say."""

import re
from pathlib import Path
from typing import Any

import pytest

from vco.config.command_line import parse
from vco.config.resolve import resolve
from vco.config.settings import RunConfig
from vco.plugins.discovery import load_catalog
from vco.run import assemble

CATALOG = load_catalog()
METHODS = Path(__file__).resolve().parents[2] / "docs" / "methods.md"


def preset(name: str) -> RunConfig:
    return resolve(parse(["--preset", name]), CATALOG).config


def guidance(name: str, *options: str) -> tuple[Any, ...]:
    config = preset(name).part("guidance").config
    return tuple(getattr(config, option) for option in options)


@pytest.mark.parametrize("name", CATALOG.names("presets"))
def test_a_preset_fits_together_and_groups_batches_only_for_a_loss_that_needs_it(name: str) -> None:
    config = preset(name)
    assemble(config, CATALOG, device="meta")
    grouped = any(part.component.grouped for part in config.all_of("loss").values())
    assert bool(config.train.samples_per_class) == grouped


@pytest.mark.parametrize(
    ("name", "scale", "feature_scale"),
    [
        ("vco-table1-token-concat", 2.9, None),
        ("vco-table2-independent-mask", 2.9, None),
        ("vco-table2-zero", 2.9, None),
        ("vco-table2-learned", 5.0, 2.5),
        ("vco-table2", 2.9, None),
        ("vco-table3-no-loss", 2.3, None),
        ("vco-table3-repa", 2.5, None),
        ("vco-table3-perceptual", 2.1, None),
        ("vco-table3-drifting", 2.4, None),
        ("vco-table4-uncalibrated", 2.0, None),
        ("vco-table4-time-shift", 2.0, None),
        ("imagenet256-b16", 1.8, None),
        ("imagenet256-l16", 1.8, None),
        ("imagenet256-h16", 1.5, None),
    ],
)
def test_every_row_is_guided_with_the_scale_of_its_script(name: str, scale: float, feature_scale: float | None) -> None:
    assert guidance(name, "scale", "feature_scale", "low", "high") == (scale, feature_scale, 0.1, 1.0)


@pytest.mark.parametrize(
    ("name", "null", "drops"),
    [
        ("vco-table1-token-concat", "zero", (0.0, 0.1, 0.2)),
        ("vco-table2-independent-mask", "mask", (0.0, 0.1, 0.2)),
        ("vco-table2-zero", "zero", (0.0, 0.1, 0.2)),
        ("vco-table2-learned", "learned", (0.0, 0.1, 0.2)),
        ("vco-table2", "mask", (0.2, 0.0, 0.0)),
        ("vco-table3-no-loss", "mask", (0.1, 0.0, 0.0)),
        ("vco-table4", "mask", (0.1, 0.0, 0.0)),
        ("imagenet256-b16", "mask", (0.1, 0.0, 0.0)),
    ],
)
def test_every_row_hides_what_its_script_hides(name: str, null: str, drops: tuple[float, ...]) -> None:
    assert guidance(name, "null") == (null,)
    assert guidance(name, "drop", "drop_label", "drop_features") == drops


def test_only_the_rows_on_fusion_guide_with_a_null_branch_that_sees_the_features() -> None:
    names = [name for name in CATALOG.names("presets") if name.startswith("vco-") and "jit" not in name]
    seeing = {name for name in names if guidance(name, "label_only") == (True,)}
    assert seeing == {name for name in names if name.startswith("vco-table1")}


@pytest.mark.parametrize(
    ("name", "samples_per_class"),
    [
        ("imagenet256-b16", 128),
        ("imagenet256-l16", 16),
        ("imagenet256-h16", 16),
        ("vco-table3-drifting", 32),
        ("vco-table4", 32),
        ("vco-table4-uncalibrated", 32),
        ("vco-table4-time-shift", 32),
    ],
)
def test_class_groups_are_as_large_as_on_a_gpu_of_the_published_runs(name: str, samples_per_class: int) -> None:
    assert preset(name).train.samples_per_class == samples_per_class


def test_token_concatenation_is_the_published_network() -> None:
    objective = assemble(preset("vco-table1-token-concat"), CATALOG, device="meta").objective
    assert sum(parameter.numel() for parameter in objective.backbone.parameters()) == 265_125_624


def test_the_row_on_repa_aligns_the_fifth_block_to_the_feature_stream() -> None:
    config = preset("vco-table3-repa").part("loss.repa").config
    assert (config.weight, config.block, config.target) == (0.1, 5, "stream")


def test_the_row_on_drifting_has_the_published_settings() -> None:
    config = preset("vco-table3-drifting").part("loss.drifting").config
    assert (config.weight, config.temperatures, config.pooling) == (0.01, (0.05, 0.125, 0.5), "cls")


def test_the_page_on_methods_names_presets_that_exist() -> None:
    named = set(re.findall(r"\b(?:vco-table\d[a-z0-9-]*|imagenet256-b16)\b", METHODS.read_text()))
    assert {name for name in CATALOG.names("presets") if name.startswith("vco-table")} <= named
    assert named <= set(CATALOG.names("presets"))
