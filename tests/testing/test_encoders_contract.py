"""Encoders keep the contract in the other formats that they read, too (test_contract.py has one each)."""

from pathlib import Path

import pytest
from tiny_encoders import CASES, SIDE, Case

import vco_plugins
from vco.testing.examine import examine, laws_of
from vco.testing.subject import discover

EXCEPTIONS = {"siglip2-naflex": "stays-on-its-device"}
"""The library reads the images' grids back to the CPU."""


@pytest.mark.parametrize("case", [case for case in CASES if "-" in case.id], ids=lambda case: case.id)
def test_an_encoder_with_weights_keeps_the_contract(case: Case, tmp_path: Path) -> None:
    case.save(tmp_path)
    names = {subject.component: subject.id for subject in discover(vco_plugins) if subject.entry.kind == "features"}
    settings = {names[case.source]: {"weights": str(tmp_path), "resolution": SIDE}}
    (source,) = (subject for subject in discover(vco_plugins, settings) if subject.id == names[case.source])
    for law in laws_of(source):
        if law.name != EXCEPTIONS.get(case.id):
            examine(law, source)
