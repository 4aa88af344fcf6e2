"""The hook specifications: how a plugin tells vco what it offers.

A plugin is a light module (it must not import torch) named by one entry point of the group `vco`. It implements the
hooks it needs; each returns a dict from the public kebab-case name to "module:Class". Classes are imported when
chosen. There is one hook for each kind of `vco.kinds.KINDS`, and `vco_presets` for {name: "package:path/to/file.yaml"}.

    from vco import hookimpl

    vco_api = 2

    @hookimpl
    def vco_losses() -> dict[str, str]:
        return {"my-loss": "my_package.my_loss:MyLoss"}
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Final

import pluggy

from vco.kinds import KINDS, PRESETS

PROJECT: Final = "vco"
API_VERSION: Final = 2
"""Version of the contracts; a plugin module says which one it was written for, as in `vco_api = 2`."""
hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)


def _specification(name: str, text: str) -> Callable[[], dict[str, str]]:
    def hook() -> dict[str, str]: ...  # pyright: ignore[reportReturnType]

    hook.__name__, hook.__doc__ = f"{PROJECT}_{name}", text
    return hookspec(hook)


SPECIFICATIONS: Final = SimpleNamespace(
    **{
        f"{PROJECT}_{kind.name}": _specification(kind.name, f'{{name: "module:Class"}} of `vco.api.{kind.contract}`.')
        for kind in KINDS.values()
    },
    **{f"{PROJECT}_{PRESETS}": _specification(PRESETS, 'Settings as plain data: {name: "package:path/file.yaml"}.')},
)
"""What pluggy holds the hooks of a plugin against."""
