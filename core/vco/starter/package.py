"""The package that `vco new` writes: which names it may have, what its files hold, and how they get into place."""

import ast
import os
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from string import Template
from typing import Final

import attrs

import vco
from vco import starter
from vco.errors import UserError
from vco.hooks import API_VERSION, PROJECT
from vco.kinds import KINDS, Kind
from vco.plugins.discovery import misnamed
from vco.plugins.registry import Catalog

_RUN_WITH: Final = {"backbones": " --adapter none --guidance cfg", "metrics": "=digits-cnn"}
"""What follows the name of a component in the command that runs with it.

The backbone denoises no features, and has no attention that could be blocked; a metric looks through an encoder.
"""


@attrs.frozen(kw_only=True)
class Package:
    """A plugin package with one component."""

    kind: Kind
    """Of the component."""
    name: str
    """Of the component, as in "my-loss"."""

    @property
    def section(self) -> str:
        """Its section of a configuration, as in "loss"."""
        return self.kind.section

    @property
    def module(self) -> str:
        """Its import name, as in "vco_my_loss"."""
        return f"vco_{_snake(self.name)}"

    @property
    def component(self) -> str:
        """The file that holds the component, as in "vco_my_loss/loss.py"."""
        return f"{self.module}/{self.section}.py"

    @property
    def run(self) -> str:
        """The command that trains with the component."""
        return f"vco-run --{self.section} {self.name}{_RUN_WITH.get(self.kind.name, '')}"

    def check(self, catalog: Catalog) -> None:
        """Raises `UserError` if the name cannot be had, beside all that is installed."""
        if reason := next(self._objections(catalog), None):
            raise UserError(f"a new {self.kind.noun} cannot be called {self.name!r}: {reason}; choose another name")

    def _objections(self, catalog: Catalog) -> Iterator[str]:
        if reason := misnamed(self.kind.name, self.name):
            yield f"that {reason}"
        if others := catalog.entries.get(self.kind.name, {}).get(self.name):
            yield f"{others[0].plugin} has one of this name"
        if self.name in {PROJECT, *(point.name for point in entry_points(group=PROJECT))}:
            yield "there is a plugin of this name"
        if (cls := _camel(self.name)) in _names(self._starter()) - {_camel(f"my-{self.section}")} or iskeyword(cls):
            yield f"its class would be called {cls}, which stands for something else there"
        spec = find_spec(self.module)
        if spec and spec.origin:  # a folder without a module has none
            yield f"its module {self.module} would hide that of {spec.origin}"
        if self.kind is KINDS["losses"]:
            from vco.api import FEATURES, IMAGE  # imports torch
            from vco.compatibility import is_reserved

            if is_reserved(self.name, (IMAGE, FEATURES)):
                yield "vco itself uses this name"

    def texts(self) -> dict[str, str]:
        """Path in the package -> what the file holds."""
        return {
            self.component: self._named(self._starter()),
            f"{self.module}/__init__.py": self._filled("hooks.py"),
            "tests/test_contract.py": self._filled("test_contract.py"),
            "README.md": self._filled("README.md"),
            "pyproject.toml": self._filled("pyproject.toml"),
        }

    def write(self, folder: Path) -> None:
        """Writes all files aside, then moves them into place at once: after a failure there are none.

        Raises:
            UserError: if there is something in the folder, or it cannot be written.
        """
        folder = Path(os.path.realpath(folder))
        aside = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
        try:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise UserError(f"{folder} exists and is not empty; choose another --folder")
            if folder == Path.cwd():  # the shell would stay in the folder that is replaced
                raise UserError(f"{folder} is the current folder; choose a new one with --folder")
            for path, text in self.texts().items():
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                (aside / path).write_text(text, encoding="utf-8")
            aside.rename(folder)
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}; choose another --folder") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _starter(self) -> str:
        return files(starter).joinpath(f"{self.section}.py").read_text(encoding="utf-8")

    def _named(self, starter: str) -> str:
        """The starter with its name, in every spelling, replaced by this one."""
        spellings = {spell(f"my-{self.section}"): spell(self.name) for spell in (str, _snake, _camel)}
        return re.sub("|".join(spellings), lambda found: spellings[found[0]], starter)

    def _filled(self, template: str) -> str:
        """A template with all that depends on the component."""
        text = files(starter).joinpath("files", f"{template}.template").read_text(encoding="utf-8")
        return Template(text).substitute(
            kind=self.kind.name, section=self.section, noun=self.kind.noun, contract=self.kind.contract, name=self.name,
            module=self.module, cls=_camel(self.name), component=self.component, run=self.run,
            version=vco.__version__, api=API_VERSION,
        )  # fmt: skip


def _snake(name: str) -> str:
    return name.replace("-", "_")


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def _names(source: str) -> set[str]:
    """The names that Python code defines, imports or reads."""
    nodes = list(ast.walk(ast.parse(source)))
    imported = {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
    defined = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    return imported | defined | {node.id for node in nodes if isinstance(node, ast.Name)}
