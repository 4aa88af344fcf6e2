"""A plugin that offers every starter where it is, under the name that it has there."""

from vco import hookimpl
from vco.hooks import SECTIONS

for kind, section in SECTIONS.items():
    offered = {f"my-{section}": f"vco.starter.{section}:My{section.capitalize()}"}
    globals()[f"vco_{kind}"] = hookimpl(lambda offered=offered: offered)
