"""What keeps files readable and imports light; pyproject.toml holds the rules about who imports whom."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
LINES = 320
"""A file is read in one sitting: about 300 lines, documentation among them."""


def test_every_file_is_read_in_one_sitting() -> None:
    files = [*(ROOT / "core").rglob("*.py"), *PLUGINS]
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert len(sizes) > 150
    assert {name: size for name, size in sizes.items() if size > LINES} == {}


def imported(code: str, names: set[str]) -> set[str]:
    """Which of these packages a new process has loaded after some code."""
    code = f"import sys\n{code}\nprint(*{names!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_all_built_ins_imports_no_heavy_library() -> None:
    modules = [".".join(path.relative_to(ROOT / "plugins").with_suffix("").parts) for path in PLUGINS]
    code = "import importlib\n" + (
        f"for module in {modules!r}: importlib.import_module(module.removesuffix('.__init__'))"
    )
    heavy = {"transformers", "timm", "open_clip", "torch_fidelity", "sklearn", "matplotlib", "torchvision"}
    assert imported(code, {*heavy, "torch"}) == {"torch"}


def test_importing_vco_and_the_list_of_built_ins_imports_no_torch() -> None:
    assert imported("import vco, vco_plugins, vco.kinds, vco.hooks", {"torch", "numpy", "vco_plugins"}) == {
        "vco_plugins"
    }
