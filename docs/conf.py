"""Sphinx settings. `make docs` builds the site from these pages, the docstrings and the executed notebooks.

Pages are MyST markdown. What can be derived is derived before reading (`pages.py`): the reference from
`clipattr.CONTENTS`, the command line from its parser, the notebooks from `notebooks/`. Formulas become MathML when the
site is built, so that it reads without a network.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import formulas_html  # noqa: E402
import pages  # noqa: E402

import clipattr  # noqa: E402

project = "clipattr"
author = "clipattr contributors"
copyright = author
version = release = clipattr.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "README.md"]
templates_path: list[str] = []

# Docstrings are Google style and mark code with single backticks.
default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

myst_enable_extensions = ["dollarmath", "deflist", "fieldlist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks carry their outputs; running them is the business of the tests
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "furo"
html_title = f"clipattr {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False


def escape_bars(app, what, name, obj, options, lines):
    """Docstrings write |x| for a length; to docutils that is a substitution."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", escape_bars)
    app.add_html_math_renderer("mathml", (formulas_html.inline, None), (formulas_html.display, None))
    app.connect("config-inited", lambda app, config: pages.write(HERE))
