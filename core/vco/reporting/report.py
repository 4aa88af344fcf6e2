"""report.html: one self-contained page with the result, the samples as they grew, the losses and the settings."""

import base64
import html
import math
from io import BytesIO

from vco.folder import RunFolder
from vco.storage.files import write_atomic

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
figure { display: inline-block; margin: 0 1rem 1rem 0 } figcaption { color: #666; font-size: .85rem }
img { max-width: 100% } figure img { image-rendering: pixelated }
pre { background: #f5f5f2; padding: 1rem; overflow-x: auto; font-size: .85rem }
"""


def write_report(folder: RunFolder, title: str) -> None:
    """Writes report.html from the files of a run folder; what is not there yet is left out."""
    records = folder.records()
    parts = [f"<h1>{html.escape(title)}</h1>", _score(folder), _samples(folder), _curves(records), _settings(folder)]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    write_atomic(folder.report, page)


def _score(folder: RunFolder) -> str:
    score = folder.score()
    if score is None:
        return "<p>Not evaluated.</p>"
    return (
        f"<table><tr><th>{html.escape(score['metric'])}</th><td class=number>{score['value']:.3f}</td>"
        f"<td>{score['samples']} generated images against the held-out images; lower is better</td></tr>"
        f"<tr><th>real images</th><td class=number>{score['real_value']:.3f}</td>"
        f"<td>training images against the same held-out images: what a perfect generator would get</td></tr></table>"
    )


def _samples(folder: RunFolder) -> str:
    grids = list(folder.grids().items())
    if not grids:
        return ""
    every = math.ceil(len(grids) / 6)  # six pictures tell the story; the last one is always among them
    shown = [grid for number, grid in enumerate(grids) if (len(grids) - 1 - number) % every == 0]
    figures = "".join(
        f'<figure><img alt="samples after step {step}" src="{_inline(path.read_bytes())}">'
        f"<figcaption>step {step}</figcaption></figure>"
        for step, path in shown
    )
    return f"<h2>Samples of the EMA model, from the same noise each time</h2>{figures}"


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


def _settings(folder: RunFolder) -> str:
    text = folder.config.read_text() if folder.config.exists() else ""
    return f"<h2>Settings</h2><pre>{html.escape(text)}</pre>" if text else ""
