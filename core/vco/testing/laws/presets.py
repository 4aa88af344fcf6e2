"""The law for presets."""

import attrs

from vco.config.command_line import parse
from vco.config.resolve import Invocation, resolve
from vco.errors import UserError
from vco.plugins.discovery import load_catalog
from vco.testing.case import Case
from vco.testing.law import law, require


@attrs.frozen(kw_only=True)
class PresetCase(Case):
    """A preset, beside all plugins that are installed: its base and its components may be another's."""

    kind = "presets"

    def make(self) -> Invocation:
        """What `vco-run --preset NAME` would run."""
        return resolve(parse(["--preset", self.subject.entry.name]), load_catalog([self.subject.plugin]))


@law(PresetCase, once=True)
def preset_resolves(case: PresetCase) -> None:
    """Its file is there, so is its base, every component is chosen, and each option is known and valid."""
    try:
        case.make()
    except UserError as error:
        require(False, str(error))
