"""The table of `vco check`: every law on every component of a plugin, with what is to be said of each."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from time import perf_counter
from typing import Any

from vco.errors import UserError
from vco.testing.examine import examine, laws_of
from vco.testing.law import Law, NotApplicableError, ViolationError
from vco.testing.subject import Subject, discover

WORDS = ("ok", "BROKEN", "skipped", "xfail")
"""What is said of a check."""


def check(
    plugin: str, only: str = "", slow: bool = False, options: Sequence[str] = (), xfail: Sequence[str] = ()
) -> int:
    """Checks every law on everything that a plugin registers, and prints a table.

    Args:
        plugin: module with the hooks, or name of an entry point.
        only: beginning of the ids to check, as in "loss/" or "loss/hybrid"; empty for all.
        slow: whether laws that take seconds are checked too.
        options: what components are tested with, as in "data/my-data.root=FOLDER".
        xfail: ids of checks that are broken on purpose, as in "loss/hybrid/rows-do-not-mix"; they have to be.

    Returns:
        0 if the broken laws are those of `xfail`, else 1.

    Raises:
        UserError: if there is no such plugin, component or option.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    offered = discover(plugin, settings_from(options))
    ids = {(subject.id, law.name): f"{subject.id}/{law.name}" for subject in offered for law in laws_of(subject)}
    subjects = [subject for subject in offered if any(ids[key].startswith(only) for key in ids if key[0] == subject.id)]
    if not subjects:
        known = ", ".join(subject.id for subject in offered)
        raise UserError(f"{plugin} registers nothing whose id begins with {only!r}; it has {known}")
    if unknown := set(xfail) - set(ids.values()):
        raise UserError(f"--xfail names no checks, as in loss/my-loss/rows-do-not-mix: {', '.join(sorted(unknown))}")
    counts: dict[str, int] = dict.fromkeys(WORDS, 0)
    for subject in subjects:
        print(f"\n{subject.id}", flush=True)
        for law in laws_of(subject):
            if ids[subject.id, law.name].startswith(only) and (slow or not law.slow):
                counts[_report(law, subject, ids[subject.id, law.name] in xfail)] += 1
    total = f"{len(subjects)} components and presets, {sum(counts.values())} checks: {counts['ok']} ok"
    others = f"{counts['skipped']} skipped, {counts['xfail']} expected to be broken, {counts['BROKEN']} broken"
    print(f"\n{total}, {others}", flush=True)
    if find_spec("hypothesis") is None:
        print("only fixed sizes were tried; with `pip install hypothesis` it tries others too", flush=True)
    return 1 if counts["BROKEN"] else 0


def _report(law: Law, subject: Subject, expected: bool) -> str:
    """Checks a law on a component, and prints and returns what is to be said; `expected` to be broken or not."""
    start, verdict, reason = perf_counter(), "ok", ""
    try:
        examine(law, subject)
    except NotApplicableError as error:
        verdict, reason = "skipped", str(error)
    except ViolationError as error:
        verdict, reason = "BROKEN", str(error)
    if expected:
        reason = reason or "it holds, although --xfail says that it does not"
        verdict = "BROKEN" if verdict == "ok" else "xfail"
    time = perf_counter() - start
    seconds = f"{time:.1f} s" if time >= 1 else ""
    print(f"  {verdict:<8} {law.name:<34} {reason if verdict == 'skipped' else seconds}".rstrip(), flush=True)
    if verdict == "BROKEN":
        print(f"           law: {law.claim}")
        print("\n".join(f"           {line}" for line in reason.splitlines()), flush=True)
    return verdict


def settings_from(options: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What was set, by component.

    ["data/my-data.root=FOLDER", "backbone/mine.streams.features=16x8"] becomes {"data/my-data": {"root": "FOLDER"},
    "backbone/mine": {"streams.features": "16x8"}}.
    """
    settings: dict[str, dict[str, Any]] = {}
    for option in options:
        target, equals, value = option.partition("=")
        component, dot, name = target.partition(".")
        if not (equals and dot and "/" in component):
            raise UserError(f"--set {option}: write SECTION/NAME.OPTION=VALUE, as in data/my-data.root=FOLDER")
        field, shape, stream = name.partition(".")
        settings.setdefault(component, {})[field.replace("-", "_") + shape + stream] = value
    return settings
