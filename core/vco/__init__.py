"""vco: a plugin framework for representation-aligned diffusion.

Importing this package is cheap (no torch), so that listing plugins and printing help stay instant. The contracts for
plugin authors are in `vco.api`.
"""

from vco.hooks import API_VERSION, hookimpl

__version__ = "0.1.0"
__all__ = ["API_VERSION", "__version__", "hookimpl"]
