"""New Python environments that see everything of this one and can be installed into, without a network."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

COMMANDS = {
    "vco": "{python} -c 'import sys; from vco.cli import main_vco; sys.exit(main_vco())' \"$@\"",
    "vco-run": '{python} -m vco.cli "$@"',
    "pytest": '{python} -m pytest "$@"',
    "pip": '{this} -m pip --python {python} "$@" --no-deps --no-build-isolation',
}
"""Command -> what it stands for in a new environment, whose Python is `python`; `this` is the one that has pip."""


def environment(folder: Path) -> Path:
    """The Python of a new environment."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    parents = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    lines = [f"import site; site.addsitedir({parent!r})" for parent in sorted(parents)]
    (site / "parent.pth").write_text("\n".join(lines) + "\n")
    return python


class Shell:
    """A shell in a new environment, with the commands that a user has."""

    def __init__(self, folder: Path) -> None:
        python = environment(folder)
        for name, command in COMMANDS.items():
            script = python.with_name(name)
            script.write_text(f"#!/bin/sh\nexec {command.format(python=python, this=sys.executable)}\n")
            script.chmod(0o755)
        path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
        self.variables = os.environ | {"PATH": path, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def __call__(self, line: str, folder: Path) -> str:
        """Runs a line in a folder; gives what it printed."""
        done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, env=self.variables)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout
