"""`vco compare`: puts runs beside each other, at equal amounts of training and with the noise between seeds."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vco.commands.arguments import Parser
from vco.errors import UserError

if TYPE_CHECKING:
    from vco.reporting.comparison import Comparison


def main(argv: Sequence[str] | None = None) -> int:
    """Compares the runs that the arguments name; returns the exit status."""
    parser = Parser(
        prog="vco compare",
        description="Compares runs at equal steps, images, FLOPs and hours. Runs that differ in nothing but the seed "
        "count as one; a difference below the noise between seeds is a tie.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", nargs="+", type=Path, help="run folders, two or more")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"also write a page or its tables: {', '.join(FORMATS)} by its ending"
    )
    args = parser.parse_args(argv)
    out: Path | None = args.out
    if out and out.suffix not in FORMATS:
        raise UserError(f"--out {out} ends with none of {', '.join(FORMATS)}; choose the ending for what is wanted")
    from vco.storage.files import require_place, write_atomic

    if out:
        require_place(out, "--out")
    from vco.plugins.discovery import load_catalog
    from vco.reporting.comparison import compare

    comparison = compare(args.run, load_catalog())
    print(_text(comparison))
    if out:
        write_atomic(out, FORMATS[out.suffix](comparison))
        print(f"\nwritten to {out}")
    return 0


def _text(comparison: "Comparison") -> str:
    from vco.reporting.tables import cost_table, differing_table, score_table

    shown = [score_table(comparison, board, table).text() for board in comparison.boards for table in board.tables]
    notes = [
        f"not compared at equal {axis}: {reason}"
        for board in comparison.boards
        for axis, reason in board.left_out.items()
    ]
    more = [differing_table(comparison, shared=True).text()] if comparison.differing else []
    left_out = [*comparison.left_out, *notes, *comparison.apart]
    return "\n\n".join([*shown, *left_out, *more, cost_table(comparison).text()])


def _html(comparison: "Comparison") -> str:
    from vco.reporting.compare_page import page

    return page(comparison)


def _markdown(comparison: "Comparison") -> str:
    from vco.reporting.tables import cost_table, differing_table, runs_table, score_table

    shown = [score_table(comparison, board, table) for board in comparison.boards for table in board.tables]
    shown += [differing_table(comparison), cost_table(comparison), runs_table(comparison)]
    return "\n\n".join([*(one.markdown() for one in shown), *comparison.left_out, *comparison.apart]) + "\n"


def _json(comparison: "Comparison") -> str:
    from vco.reporting.tables import plain

    return json.dumps(plain(comparison), indent=1) + "\n"


def _csv(comparison: "Comparison") -> str:
    from vco.reporting.tables import plain

    rows = plain(comparison)["scores"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


FORMATS: Final[dict[str, "Callable[[Comparison], str]"]] = {
    ".html": _html, ".md": _markdown, ".json": _json, ".csv": _csv,
}  # fmt: skip
