"""Settings of the documentation site: `sphinx-build -W docs site` builds it from the pages and the docstrings."""

import vco

project = "vco"
author = "the vco authors"
copyright = "the vco authors, Apache-2.0"
version = release = vco.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
master_doc = "index"
exclude_patterns = ["example_plugin", "_build"]

myst_enable_extensions = ["colon_fence", "attrs_inline"]
myst_heading_anchors = 3


autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "undoc-members": False}
autodoc_mock_imports: list[str] = []
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"vco {release}"
html_static_path: list[str] = []
