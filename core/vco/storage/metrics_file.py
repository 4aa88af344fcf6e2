"""Files of JSON lines with a step each: metrics.jsonl and evals.jsonl."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from vco.storage.files import write_atomic


def read_lines(path: Path) -> dict[str, dict[str, float]]:
    """The lines of such a file -> the step and the numbers that were logged there.

    Left out are lines without a step, which a kill has cut short or somebody has edited, and what is no number.
    """
    lines: dict[str, dict[str, float]] = {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError, AttributeError, RecursionError):
            found: Any = json.loads(line).items()
            values = {name: float(v) for name, v in found if isinstance(v, int | float) and abs(v) < 1e39}
            lines |= {line: values} if "step" in values else {}
    return lines


def keep_lines(path: Path, step: int) -> None:
    """Drops the lines whose steps will be repeated.

    Args:
        path: the file; it need not exist.
        step: the last step whose line is kept.
    """
    if path.is_file():
        kept = [line for line, values in read_lines(path).items() if values["step"] <= step]
        write_atomic(path, "".join(f"{line}\n" for line in kept))


def append_line(path: Path, step: int, values: dict[str, Any]) -> None:
    """Adds a line."""
    with path.open("a") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")
