"""vco: a plugin framework for representation-aligned diffusion.

Importing this package is cheap (no torch), so that listing plugins and printing help stay instant. The contracts for
plugin authors are in `vco.api`.
"""

from typing import TYPE_CHECKING, Any

from vco.hooks import API_VERSION, hookimpl

if TYPE_CHECKING:
    from vco.opened_run import open_run as open_run

__version__ = "0.2.0"
__all__ = ["API_VERSION", "__version__", "hookimpl", "open_run"]


def __getattr__(name: str) -> Any:
    if name == "open_run":  # imports torch, which whoever only lists plugins need not wait for
        from vco.opened_run import open_run

        return open_run
    raise AttributeError(f"module 'vco' has no attribute {name!r}")
