"""Curves as SVG inside a page: sharp at any size, readable on a phone, in the colors of the page."""

import html
import math
import re
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:  # it takes half a second to load
    from matplotlib.axes import Axes

COLORS: Final = 8
"""Colors of lines that the style sheet has, as --line-0 and so on; further lines begin again."""
POINTS: Final = 400
"""More points than this are drawn as means of neighbours: a screen shows no more."""
SIZE: Final = (4.4, 2.6)
"""Inches; at 72 points each, the text is as large as that of the page where a curve fills a phone's screen."""
LOGARITHMIC: Final = 20.0
"""Largest over smallest value from which a vertical axis is logarithmic."""
Numbers = Sequence[int | float]
_INK, _RULE, _LINE = "#a1b2c3", "#a1b2c4", "#a1b2{:02x}"  # stand for variables of the style sheet


@attrs.frozen
class Line:
    """One line of a chart."""

    name: str
    xs: Numbers
    ys: Numbers
    color: int = 0
    low: Numbers = ()
    """Lower edge of a band around the line; none if empty."""
    high: Numbers = ()
    points: bool = False
    """Whether every value is marked, as where there are few."""


@attrs.frozen
class Chart:
    """Lines over a common axis."""

    title: str
    lines: Sequence[Line]
    across: str = "step"
    """What the horizontal axis is."""
    note: str = ""
    """A sentence below the title."""
    level: tuple[str, float] | None = None
    """A horizontal line: its name and where it is."""

    @property
    def last(self) -> str:
        """The last value, of a chart with one line over steps."""
        alone = len(self.lines) == 1 and self.across == "step"
        return f"{self.lines[0].ys[-1]:.4g}" if alone and self.lines[0].ys else ""

    def svg(self) -> str:
        """The chart as an `<svg>` element."""
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.title + self.across, "font.size": 8}):
            figure = Figure(figsize=SIZE)
            FigureCanvasSVG(figure)
            self._draw(figure.add_axes((0.135, 0.155, 0.845, 0.81)))
            buffer = StringIO()
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
        return _for_page(buffer.getvalue(), f"{self.title} over {self.across}")

    def _draw(self, axes: "Axes") -> None:
        values = [y for line in self.lines for y in (*line.ys, *line.low, *line.high)]
        for line in self.lines:
            color = _LINE.format(line.color % COLORS)
            if line.low:
                axes.fill_between(line.xs, line.low, line.high, color=color, alpha=0.2, linewidth=0)
            xs, ys = (line.xs, line.ys) if line.points else thinned(line.xs, line.ys)
            single = line.points or len(xs) < 2
            axes.plot(xs, ys, color=color, linewidth=1.4, marker="o" if single else "", markersize=3)
        if self.level:
            axes.axhline(self.level[1], color=_INK, linewidth=1, linestyle=(0, (4, 3)))
            values.append(self.level[1])
        self._scale(axes, values)
        axes.set_xlabel(self.across, fontsize=8, color=_INK, labelpad=2)
        axes.tick_params(colors=_INK, labelsize=7.5, length=2, which="both")
        axes.grid(True, color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_RULE)
        axes.xaxis.set_major_formatter(lambda value, _: short(value))

    def _scale(self, axes: "Axes", values: Numbers) -> None:
        """The vertical axis: logarithmic for a wide range, and never so narrow that it shows rounding alone."""
        from matplotlib.ticker import LogLocator, NullFormatter

        low, high = min(values, default=0.0), max(values, default=1.0)
        if low > 0 and high > LOGARITHMIC * low:
            axes.set_yscale("log")
            decades = math.log10(high / low)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        elif high - low < 1e-3 * abs(high):
            middle = (low + high) / 2
            axes.set_ylim(middle - 1e-3 * abs(middle), middle + 1e-3 * abs(middle))
        axes.yaxis.set_major_formatter(lambda value, _: short(value))

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Name and color of each line; empty where the title says enough."""
        if len(self.lines) < 2 and not self.level:
            return []
        named = [(line.name, f"var(--line-{line.color % COLORS})") for line in self.lines]
        return named + ([(self.level[0], "currentColor")] if self.level else [])


def thinned(xs: Numbers, ys: Numbers, points: int = POINTS) -> tuple[Numbers, Numbers]:
    """At most so many points: each the mean of neighbours, but for the last, which stays what it is."""
    if len(xs) <= points:
        return xs, ys
    size = math.ceil((len(xs) - 1) / (points - 1))
    starts = range(0, len(xs) - 1, size)
    ends = [min(start + size, len(xs) - 1) for start in starts]

    def means(values: Numbers) -> list[int | float]:
        parts = [values[start:end] for start, end in zip(starts, ends, strict=True)]
        return [sum(part) / len(part) for part in parts] + [values[-1]]

    return means(xs), means(ys)


def short(value: int | float) -> str:
    """A number in few characters: 1500 as "1.5k", 2.5e15 as "2.5e15"."""
    size = abs(value)
    for letter, unit in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if (size < 1e3 * unit and size >= unit) or (letter == "" and size < 1):
            return f"{value / unit:.4g}{letter}"
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(exponent or 0)}" if exponent else mantissa


def _for_page(svg: str, title: str) -> str:
    """Matplotlib's file as an element of a page: without what only a file needs, in the page's font and colors."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = re.sub(r"<!--.*?-->|\n\s*", lambda found: "" if found[0].startswith("<!") else "\n", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    svg = svg.replace(_INK, "currentColor").replace(_RULE, "var(--rule)")
    for color in range(COLORS):
        svg = svg.replace(_LINE.format(color), f"var(--line-{color})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
