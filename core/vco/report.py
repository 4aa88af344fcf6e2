"""report.html: one self-contained page with the result, the samples as they grew, the losses and the settings."""

import base64
import html
import json
import math
from io import BytesIO
from pathlib import Path

from vco.files import write_atomic
from vco.log import read_lines

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
figure { display: inline-block; margin: 0 1rem 1rem 0 } figcaption { color: #666; font-size: .85rem }
img { max-width: 100% } figure img { image-rendering: pixelated }
pre { background: #f5f5f2; padding: 1rem; overflow-x: auto; font-size: .85rem }
"""


def write_report(folder: Path, title: str) -> None:
    """Writes `folder`/report.html from the files of a run folder; what is not there yet is left out."""
    records = list(read_lines(folder / "metrics.jsonl").values())
    parts = [f"<h1>{html.escape(title)}</h1>", _score(folder), _samples(folder), _curves(records), _settings(folder)]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    write_atomic(folder / "report.html", page)


def _score(folder: Path) -> str:
    path = folder / "eval.json"
    if not path.exists():
        return "<p>Not evaluated yet.</p>"
    score = json.loads(path.read_text())
    return (
        f"<table><tr><th>{html.escape(score['metric'])}</th><td class=number>{score['value']:.3f}</td>"
        f"<td>{score['samples']} generated images against the held-out images; lower is better</td></tr>"
        f"<tr><th>real images</th><td class=number>{score['real_value']:.3f}</td>"
        f"<td>training images against the same held-out images: what a perfect generator would get</td></tr></table>"
    )


def _samples(folder: Path) -> str:
    grids = sorted((folder / "samples").glob("step-*.png"))
    if not grids:
        return ""
    every = math.ceil(len(grids) / 6)  # six pictures tell the story; the last one is always among them
    figures = "".join(
        f'<figure><img alt="samples after step {_step(grid)}" src="{_inline(grid.read_bytes())}">'
        f"<figcaption>step {_step(grid)}</figcaption></figure>"
        for grid in grids[::-1][::every][::-1]
    )
    return f"<h2>Samples of the EMA model, from the same noise each time</h2>{figures}"


def _step(grid: Path) -> int:
    return int(grid.stem.removeprefix("step-"))


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _curves(records: list[dict[str, float]]) -> str:
    """One small plot per logged value."""
    names = list(dict.fromkeys(name for record in records for name in record if name != "step"))
    if not names:
        return ""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 3
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4 * columns, 2.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, i + 1)
        steps = [record["step"] for record in records if name in record]
        values = [record[name] for record in records if name in record]
        axes.plot(steps, values, linewidth=1)
        axes.set_title(name, fontsize=9, parse_math=False)
        axes.tick_params(labelsize=7)
        if min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f'<h2>Training</h2><img alt="curves of everything logged" src="{_inline(buffer.getvalue())}">'


def _settings(folder: Path) -> str:
    path = folder / "config.yaml"
    return f"<h2>Settings</h2><pre>{html.escape(path.read_text())}</pre>" if path.exists() else ""
