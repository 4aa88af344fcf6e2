"""evals.jsonl: every score of a run that was ever measured, a line each; nothing is overwritten."""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from vco.errors import UserError
from vco.storage.files import write_atomic

TRAINING: Final = "training"
"""Who has measured: a run in the midst of training, ..."""
RUN: Final = "vco-run"
"""... the same at its end, ..."""
EVAL: Final = "vco eval"
"""... a user afterwards, ..."""
SWEEP: Final = "vco eval sweep"
"""... or a search for settings, whose scores are not to be reported."""


def require_writable(path: Path) -> None:
    """Raises `UserError` if no line can be added to a file, before hours are spent on what it would say."""
    try:
        path.open("a").close()
    except OSError as error:
        raise UserError(
            f"scores cannot be added to {path} ({error.strerror}); name another file: --evals FILE"
        ) from error


def append(path: Path, record: Mapping[str, Any], by: str) -> dict[str, Any]:
    """Adds a line with the time and who has measured, and returns it."""
    full = {"step": record.get("step"), "by": by, "time": datetime.now(UTC).isoformat(timespec="seconds"), **record}
    before = path.read_bytes() if path.exists() else b""
    cut_short = before != b"" and not before.endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * cut_short + json.dumps(full) + "\n")
    return full


def read(path: Path) -> list[dict[str, Any]]:
    """All lines, in their order; what a kill has cut short or somebody has edited is left out."""
    records: list[dict[str, Any]] = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        with suppress(ValueError, RecursionError):
            found: Any = json.loads(line)
            records += [found] if isinstance(found, dict) and "value" in found else []
    return records


def forget_after(path: Path, step: int) -> None:
    """Drops the lines that training will write again: its own after a step. All others stay."""
    records = read(path)
    kept = [
        record
        for record in records
        if record.get("by", TRAINING) != TRAINING or not isinstance(record.get("step"), int) or record["step"] <= step
    ]
    if path.exists():
        write_atomic(path, "".join(json.dumps(record) + "\n" for record in kept))


def find(path: Path, key: str) -> dict[str, Any] | None:
    """The newest line with this key, which says how images were made and measured; None if there is none."""
    return next((record for record in reversed(read(path)) if record.get("key") == key), None)
