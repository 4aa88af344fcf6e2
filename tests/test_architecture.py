"""What keeps the project small and its parts apart."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "core" / "vco").glob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
CORE_BUDGET = 2_475
"""Lines of code of the core, neither blank, nor comment, nor docstring.

The contract kit and the starters of `vco new`, which no run imports, are not counted.
"""


def lines_of_code(source: str) -> int:
    strings = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    text = {line for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {line for t in tokens if t.type not in layout for line in range(t.start[0], t.end[0] + 1)}
    return len(code - text)


def test_lines_of_code_are_neither_blank_nor_comment_nor_docstring() -> None:
    assert lines_of_code('"""Doc.\n\nMore.\n"""\n\nx = (  # why\n    1,\n)\n"""About x."""\n') == 3


def test_core_stays_within_its_budget() -> None:
    sizes = {path.name: lines_of_code(path.read_text()) for path in CORE}
    assert sum(sizes.values()) <= CORE_BUDGET, sizes


def test_the_file_a_plugin_author_reads_is_read_in_one_sitting() -> None:
    assert len((ROOT / "core" / "vco" / "api.py").read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.stem)
def test_every_plugin_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_importing_all_built_ins_imports_no_heavy_library() -> None:
    modules = [".".join(path.relative_to(ROOT / "plugins").with_suffix("").parts) for path in PLUGINS]
    code = (
        "import importlib, sys\n"
        f"for module in {modules!r}: importlib.import_module(module.removesuffix('.__init__'))\n"
        "heavy = {'transformers', 'timm', 'open_clip', 'torch_fidelity', 'sklearn', 'matplotlib', 'torchvision'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
