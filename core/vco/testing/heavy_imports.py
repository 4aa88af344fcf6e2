"""Which heavy libraries a module imports at its top level, read from the source."""

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.abc import InspectLoader
from typing import Final

HEAVY: Final = (
    "transformers", "timm", "open_clip", "torch_fidelity", "sklearn", "scipy", "pandas", "matplotlib", "torchvision",
    "diffusers", "datasets", "wandb", "tensorboard", "tensorflow", "jax", "gradio", "cv2",
)  # fmt: skip
"""Libraries that take long to import or need not be there."""


def heavy_imports(module: str, more: Sequence[str] = ()) -> list[str]:
    """One sentence for every heavy import that importing `module` runs, in it or in modules of the same package."""
    banned, seen, waiting, found = {*HEAVY, *more}, set[str](), [module], list[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += [parent for parent in [name.rpartition(".")[0]] if parent]
        for imported, line in _imports(name):
            prefixes = {imported[: i or None] for i in _dots(imported)}
            if hit := prefixes & banned:
                found.append(f"{name} imports {sorted(hit)[0]} at its top level (line {line})")
            elif imported.partition(".")[0] == module.partition(".")[0]:
                waiting.append(imported)
    return found


def _dots(name: str) -> list[int]:
    return [i for i, letter in enumerate(name) if letter == "."] + [0]


@lru_cache(maxsize=1024)
def _imports(module: str) -> tuple[tuple[str, int], ...]:
    """Modules (or module.name) that a module's top-level code imports, with line numbers."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return ()
    source = spec.loader.get_source(module) if spec and isinstance(spec.loader, InspectLoader) else None
    package = module if spec and spec.submodule_search_locations else module.rpartition(".")[0]
    return tuple(_walk(ast.parse(source or "").body, package))


def _walk(body: Sequence[ast.stmt], package: str) -> Iterator[tuple[str, int]]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from _walk(node.body, package)
            yield from _walk(node.orelse, package)
        elif isinstance(node, ast.Try):
            for part in (node.body, node.orelse, node.finalbody, *(handler.body for handler in node.handlers)):
                yield from _walk(part, package)
        elif isinstance(node, ast.With | ast.ClassDef):
            yield from _walk(node.body, package)
