"""The page about scale: its tables follow from what is counted, and that from the code."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "scale.md").read_text()


@pytest.fixture(scope="module")
def scale() -> Any:
    """The script that computes the tables."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.find_spec("scale")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.pop(0)


def numbers(line: str) -> list[float]:
    """The first number of each cell but the first."""
    return [float(cell.split()[0].replace(",", "")) for cell in line.strip("|").split("|")[1:]]


def counted(scale: Any) -> list[Any]:
    """The networks of the page's first table."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and "GFLOP" in line]
    assert [line.split()[1] for line in lines] == list(scale.PRESETS)
    networks = [scale.Network(line.split()[1], *numbers(line)[:4]) for line in lines]
    assert [network.row for network in networks] == lines
    return networks


def test_the_tables_follow_from_what_is_counted(scale: Any) -> None:
    for lines in scale.tables(counted(scale)):
        assert "\n".join(lines) in PAGE


def test_published_and_measured_figures_are_those_of_the_script(scale: Any) -> None:
    assert f"{scale.SHARE} x {scale.PEAK / 1e12:.0f} TFLOP/s" in PAGE
    assert f"{scale.NVLINK / 1e9:.0f} GB/s within a node of {scale.NODE}" in PAGE
    assert f"{scale.NETWORK / 1e9:.0f} GB/s between nodes" in PAGE
    assert f"{scale.JPEG} JPEG files per second" in " ".join(PAGE.split())
    rates = (ROOT / "docs" / "data.md").read_text()
    assert f"| folder of JPEG files | {scale.JPEG} | 1.0 x | {scale.JPEG_BYTES / 1e3:.0f} |" in rates


@pytest.mark.slow  # a step of the B preset, without values
def test_what_is_counted_is_what_the_code_takes(scale: Any) -> None:
    import memory  # pyright: ignore[reportMissingImports] (beside the script)

    found = memory.counted(scale.PRESETS["B"])
    of_page = counted(scale)[0]
    assert round(found.parameters / 1e6) == of_page.parameters
    assert round(found.operations / 1e9) == of_page.operations
    assert found.image[0] / 1e6 == pytest.approx(of_page.kept, rel=0.05)  # libraries may keep a little more or less
    assert found.image[1] / 1e6 == pytest.approx(of_page.recomputed, rel=0.05)
