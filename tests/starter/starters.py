"""A plugin that offers every starter where it is, under the name that it has there."""

from vco import hookimpl
from vco.kinds import KINDS

vco_api = 2

for kind in KINDS.values():
    offered = {f"my-{kind.section}": f"vco.starter.{kind.section}:My{kind.section.capitalize()}"}
    globals()[f"vco_{kind.name}"] = hookimpl(lambda offered=offered: offered)
