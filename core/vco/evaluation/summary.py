"""Scores as a user reads them: a table with mean and spread over seeds, and below it all that they depend on."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, Final

HASH: Final = 12
"""Digits of a hash that are shown."""


def summary(records: Sequence[Mapping[str, Any]]) -> str:
    """Lines about the scores of the same model or images, one record for each seed.

    Args:
        records: lines of evals.jsonl, with the same scores in the same order.
    """
    rows = [["score", "value", "real images", "held against", "protocol"]]
    for scores in zip(*(record["scores"] for record in records), strict=True):
        first, values = scores[0], [float(score["value"]) for score in scores]
        real = "" if first["real_value"] is None else number(first["real_value"])
        rows.append([first["title"], spread(values), real, first["reference"], first["protocol_hash"]])
    lines = [table(rows), ""]
    if len(records) > 1:
        lines.append(f"values: mean ± standard deviation over the seeds {', '.join(str(r['seed']) for r in records)}")
    notes = dict.fromkeys(note for record in records for note in record.get("notes", ()))
    return "\n".join([*lines, *_details(records[0]), *(f"note: {note}" for note in notes)])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as lines with columns of equal width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def spread(values: Sequence[float]) -> str:
    """A value, or the mean of several with their standard deviation, to as many decimals."""
    middle = mean(values)
    if len(values) < 2:
        return number(middle)
    decimals = 3 if abs(middle) >= 0.1 else 5
    return f"{middle:.{decimals}f} ± {stdev(values):.{decimals}f}"


def number(value: float) -> str:
    """Three decimals, or four digits of what is small."""
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.4g}"


def _details(record: Mapping[str, Any]) -> list[str]:
    """What was scored, by which networks, held against which images."""
    protocols = [score["protocol"] for score in record["scores"]]
    shape, labels = "x".join(map(str, protocols[0]["image_shape"])), protocols[0]["labels"]
    lines = [f"images: {protocols[0]['images']:,} of {shape}, labels {labels}"]
    if "solver" in record:
        guidance, decay = record["guidance"], record["ema_decay"]
        scale = f" {guidance['scale']:g}" if isinstance(guidance.get("scale"), int | float) else ""
        lines.append(
            f"model: step {record['step']:,}, {'last weights' if decay is None else f'average of decay {decay:g}'} "
            f"({_hash(record['model'])}); {record['solver']['name']} in {record['sample']['steps']} steps, guidance "
            f"{guidance['name']}{scale}, {record['precision']}"
        )
    networks = {p["encoder"]: p["weights"] for p in protocols if p["encoder"]}
    lines += [f"network: {name} ({_hash(weights)})" for name, weights in networks.items()]
    held = {score["reference"]: score["protocol"] for score in record["scores"] if score["protocol"]["reference"]}
    for name, protocol in held.items():
        count = protocol["reference_images"]
        number_of = "of how many images nobody noted" if count is None else f"{count:,} images"
        lines.append(f"held against: {name}, {number_of} ({_hash(protocol['reference'])})")
    return lines


def _hash(digest: str) -> str:
    return f"SHA-256 {digest[:HASH]}"
