"""The kit as a command: `vco check MODULE`."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from time import perf_counter
from typing import Any

from vco.errors import UserError


def main(argv: Sequence[str]) -> int:
    """The verb with its options; returns and raises as `check` does."""
    parser = argparse.ArgumentParser(
        prog="vco check", description="Check that a plugin keeps its contracts, law by law."
    )
    parser.add_argument("plugin", metavar="MODULE", help="module with the hooks, or name of an entry point")
    parser.add_argument("--only", default="", metavar="ID", help="only ids that begin so, as in loss/my-loss")
    parser.add_argument("--slow", action="store_true", help="also laws that take seconds, such as torch.compile")
    parser.add_argument(
        "--set", action="append", default=[], metavar="ID.OPTION=VALUE", help="test with this, as in data/mine.root=DIR"
    )
    parser.add_argument("--xfail", action="append", default=[], metavar="ID", help="a check that is broken on purpose")
    args = parser.parse_args(argv)
    return check(args.plugin, args.only, args.slow, args.set, args.xfail)


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
    from vco.testing.case import examine, laws_of
    from vco.testing.law import NotApplicableError, ViolationError
    from vco.testing.subject import discover

    offered = discover(plugin, _settings(options))
    ids = {(subject.id, law.name): f"{subject.id}/{law.name}" for subject in offered for law in laws_of(subject)}
    subjects = [subject for subject in offered if any(ids[key].startswith(only) for key in ids if key[0] == subject.id)]
    if not subjects:
        known = ", ".join(subject.id for subject in offered)
        raise UserError(f"{plugin} registers nothing whose id begins with {only!r}; it has {known}")
    if unknown := set(xfail) - set(ids.values()):
        raise UserError(f"--xfail names no checks, as in loss/my-loss/rows-do-not-mix: {', '.join(sorted(unknown))}")
    counts = {"ok": 0, "BROKEN": 0, "skipped": 0, "xfail": 0}
    for subject in subjects:
        print(f"\n{subject.id}", flush=True)
        for law in laws_of(subject):
            if (law.slow and not slow) or not ids[subject.id, law.name].startswith(only):
                continue
            start, verdict, reason = perf_counter(), "ok", ""
            try:
                examine(law, subject)
            except NotApplicableError as error:
                verdict, reason = "skipped", str(error)
            except ViolationError as error:
                verdict, reason = "BROKEN", str(error)
            if f"{subject.id}/{law.name}" in xfail:
                holds, reason = verdict == "ok", reason or "it holds, although --xfail says that it does not"
                verdict = "BROKEN" if holds else "xfail"
            counts[verdict] += 1
            time = perf_counter() - start
            seconds = f"{time:.1f} s" if time >= 1 else ""
            print(f"  {verdict:<8} {law.name:<34} {reason if verdict == 'skipped' else seconds}".rstrip(), flush=True)
            if verdict == "BROKEN":
                print(f"           law: {law.claim}")
                print("\n".join(f"           {line}" for line in reason.splitlines()), flush=True)
    print(f"\n{len(subjects)} components and presets, {sum(counts.values())} checks: {counts['ok']} ok, ", end="")
    print(
        f"{counts['skipped']} skipped, {counts['xfail']} expected to be broken, {counts['BROKEN']} broken", flush=True
    )
    if find_spec("hypothesis") is None:
        print("only fixed sizes were tried; with `pip install hypothesis` it tries others too", flush=True)
    return 1 if counts["BROKEN"] else 0


def _settings(options: Sequence[str]) -> dict[str, dict[str, Any]]:
    """["data/my-data.root=FOLDER"] -> {"data/my-data": {"root": "FOLDER"}}."""
    settings: dict[str, dict[str, Any]] = {}
    for option in options:
        target, equals, value = option.partition("=")
        component, dot, name = target.rpartition(".")
        if not (equals and dot and "/" in component):
            raise UserError(f"--set {option}: write SECTION/NAME.OPTION=VALUE, as in data/my-data.root=FOLDER")
        settings.setdefault(component, {})[name.replace("-", "_")] = value
    return settings
