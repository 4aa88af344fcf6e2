"""report.html: one page with the scores, losses, samples, cost and settings of a run, and everything else it logged."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from vco import __version__
from vco.errors import UserError
from vco.folder import RunFolder
from vco.reporting import panels
from vco.reporting.curves import short
from vco.reporting.history import History
from vco.reporting.pictures import Picture, embed
from vco.reporting.scores import by_metric, own, read_scores
from vco.sampling.averages import young_average
from vco.sampling.sample import grid_classes
from vco.storage.files import write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment

SHOWN: Final = 6
"""Sample grids on the page: the last one, and some that are spread over the training."""
FAILED: Final = "ended by an error"
"""How the state of a run begins that has failed."""


def write_report(folder: RunFolder, state: str = "") -> None:
    """Writes report.html from the files of a run folder; what is not there yet is left out.

    Args:
        folder: the run.
        state: how far it is; by default it is taken for one that has ended.
    """
    history = History(folder)
    readings = read_scores(folder)
    records, grids = history.records, _grids(folder)
    columns, long_names = class_columns(folder)
    page = (
        environment()
        .get_template("report.html")
        .render(
            version=__version__,
            title=folder.path.name or str(folder.path.resolve().name),
            state=_state(history, state),
            failed=state.startswith(FAILED),
            running=bool(state) and not state.startswith(FAILED),
            summary=_summary(history),
            young="" if state else _young(history),  # every average is young for a while
            newest=[found[-1] for found in by_metric(own(readings, folder)).values()],
            first=panels.scores(readings, folder) + panels.losses(records),
            grids=grids,
            real=embed(folder.real),
            trajectory=embed(folder.trajectory),
            more=[
                ("Loss by noise level", "", panels.noise_levels(records)),
                ("Feature streams", "", panels.features(records)),
                ("Pace", "", panels.pace(records)),
            ],
            components=panels.components(records),
            cost=_cost(history),
            model=_model(history),
            session=_session(history.sessions[-1]) if history.sessions else {},
            earlier=[_session(session) for session in history.sessions[-2::-1]],
            settings=folder.config.read_text() if folder.config.exists() else "",
            columns=columns,
            classes=", ".join(columns) if long_names else "",
        )
    )
    write_atomic(folder.report, page)


@cache
def environment() -> "Environment":
    """Jinja's environment with the templates beside this file; whatever they show is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("vco.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _grids(folder: RunFolder) -> list[tuple[int, Picture]]:
    """Step -> sample grid, the last one among them."""
    found = list(folder.grids().items())
    every = max(1, math.ceil(len(found) / SHOWN))
    chosen = [grid for number, grid in enumerate(found) if (len(found) - 1 - number) % every == 0]
    return [
        (step, shown)
        for step, path in chosen
        if (shown := embed(path, 1600 if step == chosen[-1][0] else 640)) is not None
    ]


def class_columns(folder: RunFolder) -> tuple[Sequence[str], bool]:
    """The classes of the columns of a sample grid, and whether their names are too long to stand above these."""
    try:
        facts = folder.read_facts()
    except UserError:
        return (), False
    numbers: list[int] = grid_classes(facts.num_classes).tolist()
    names = [facts.class_names[n] if n < len(facts.class_names) else str(n) for n in numbers]
    return names, any(len(name) > 4 for name in names)


def _state(history: History, state: str) -> str:
    """How far the run is."""
    if state:
        return f"{state} (as of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC)"
    whole = history.steps is None or history.step >= history.steps
    return f"Trained for {history.step:,}{'' if whole else f' of {history.steps:,}'} steps."


def _young(history: History) -> str:
    """A sentence if the average that is sampled from is still much like the weights that training began with."""
    train = history.settings.get("train")
    decays = train.get("ema_decays") if isinstance(train, Mapping) else None
    first = decays[0] if isinstance(decays, list) and decays else None
    return young_average(first, history.step).replace("`", "") if isinstance(first, float) else ""


def _summary(history: History) -> str:
    """The run in one line: which components, which data."""
    chosen = {
        section: value.get("name") if isinstance(value, Mapping) else " and ".join(str(v.get("name")) for v in value)
        for section in ("data", "backbone", "features", "adapter", "loss", "guidance")
        if isinstance(value := history.settings.get(section), Mapping | list)
    }
    with suppress(UserError):
        chosen["features"] = " and ".join(history.folder.read_facts().encoders) or chosen.get("features")
    return ", ".join(f"{section} {name}" for section, name in chosen.items() if name)


def _cost(history: History) -> dict[str, str]:
    """What the run has cost so far."""
    rows: dict[str, str] = {}
    step, records = history.step, history.records
    if (images := history.amount("images", step)) is not None and step:
        rows["images seen"] = f"{images:,.0f} ({step:,} steps of {history.batch_size:,})"
    if (seconds := history.seconds(step)) is not None:
        rest = history.seconds(step, "rest") or 0.0
        rows["training time"] = f"{_duration(seconds)}, and {_duration(rest)} for samples, scores and checkpoints"
    if records and "images_per_second" in records[-1]:
        rows["speed"] = f"{records[-1]['images_per_second']:,.0f} images/s"
    if (flops := history.flops_per_image) is not None:
        total = history.amount("flops", step) or 0.0
        rows["arithmetic"] = f"{short(flops)} floating-point operations per image, {short(total)} so far"
    if records and "memory_gib" in records[-1]:
        rows["GPU memory"] = f"{records[-1]['memory_gib']:.2f} GiB"
    return rows


def _model(history: History) -> dict[str, str]:
    """Parameters of each component."""
    trained = dict(history.cost.get("parameters") or {})
    frozen = dict(history.cost.get("frozen_parameters") or {})
    rows = {name: f"{size:,} parameters" for name, size in trained.items()}
    rows |= {"all that is trained": f"{sum(trained.values()):,} parameters"} if len(trained) > 1 else {}
    return rows | {name: f"{size:,} parameters, frozen" for name, size in frozen.items()}


def _session(session: Mapping[str, Any]) -> dict[str, str]:
    """How the run was started, as rows of a table."""
    rows = {name: value for name, value in session.items() if value not in ("", None, {}, [])}
    return {
        name: ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, Mapping) else str(value)
        for name, value in rows.items()
    }


def _duration(seconds: float) -> str:
    """Seconds as people say them: "42 s", "3 min", "5.2 h"."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
