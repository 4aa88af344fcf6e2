"""The hook specifications: how a plugin tells vco what it offers.

A plugin is a light module (it must not import torch) named by one entry point of the group `vco`. It implements the
hooks it needs; each returns a dict from the public kebab-case name to "module:Class". Classes are imported when
chosen.

    from vco import hookimpl

    @hookimpl
    def vco_losses() -> dict[str, str]:
        return {"my-loss": "my_package.my_loss:MyLoss"}
"""

from typing import Final

import pluggy

PROJECT: Final = "vco"
API_VERSION: Final = 1
"""Version of the contracts; a plugin module may say `vco_api = 1` (the promise: docs/concepts.md, "Plugins")."""
hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)

# kind (also the name of its hook, less the prefix) -> the contract in `vco.api` that its classes implement
CONTRACTS: Final = {
    "backbones": "Backbone", "features": "FeatureSource", "adapters": "Adapter", "losses": "Loss",
    "guidance": "Guidance", "processes": "Process", "solvers": "Solver", "data": "Data",
}  # fmt: skip
SECTIONS: Final = {
    "backbones": "backbone", "features": "features", "adapters": "adapter", "losses": "loss",
    "guidance": "guidance", "processes": "process", "solvers": "solver", "data": "data",
}  # fmt: skip
"""Kind -> its section on the command line, as in --loss; also its word for `vco new`."""


@hookspec
def vco_backbones() -> dict[str, str]:  # pyright: ignore[reportReturnType]
    """Networks that denoise the streams: {name: "module:Class"} of `vco.api.Backbone`."""


@hookspec
def vco_features() -> dict[str, str]:  # pyright: ignore[reportReturnType]
    """Frozen encoders: {name: "module:Class"} of `vco.api.FeatureSource`."""


@hookspec
def vco_adapters() -> dict[str, str]:  # pyright: ignore[reportReturnType]
    """Maps from encoder features to denoised streams: {name: "module:Class"} of `vco.api.Adapter`."""


@hookspec
def vco_losses() -> dict[str, str]:  # pyright: ignore[reportReturnType]
    """Alignment losses: {name: "module:Class"} of `vco.api.Loss`."""


@hookspec
def vco_guidance() -> dict[str, str]:  # pyright: ignore[reportReturnType]
    """Guidance rules: {name: "module:Class"} of `vco.api.Guidance`."""


@hookspec
def vco_processes() -> dict[str, str]:  # pyright: ignore[reportReturnType]
    """Joint laws of the streams' times: {name: "module:Class"} of `vco.api.Process`."""


@hookspec
def vco_solvers() -> dict[str, str]:  # pyright: ignore[reportReturnType]
    """Integrators: {name: "module:Class"} of `vco.api.Solver`."""


@hookspec
def vco_data() -> dict[str, str]:  # pyright: ignore[reportReturnType]
    """Labelled image sets: {name: "module:Class"} of `vco.api.Data`."""


@hookspec
def vco_presets() -> dict[str, str]:  # pyright: ignore[reportReturnType]
    """Settings as plain data: {name: "package:path/to/file.yaml"}."""
