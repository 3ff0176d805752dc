"""How the documentation becomes a site: ``sphinx-build -W docs docs/_build``."""

import re
import sys
from pathlib import Path

import fedsc

sys.path.append(str(Path(__file__).parent / "_ext"))

project = "FedSC"
author = "the FedSC authors"
project_copyright = author
release = version = fedsc.__version__

extensions = [
    "mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath", "colon_fence", "html_image"]
myst_heading_anchors = 4

autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False

html_math_renderer = "mathml"  # MathJax would come from another host
html_theme = "sphinx_book_theme"
html_title = "FedSC"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}

_OF_THE_ROOT = re.compile(r"\]\((?:\.\./)*(CHANGELOG|CONTRIBUTING|SECURITY)\.md")


def _link_to_pages(_app, *where_and_content):
    """Lead links to files of the repository's root, which the site includes, to their pages."""
    content = where_and_content[-1]
    content[0] = _OF_THE_ROOT.sub(
        lambda found: f"](/project/{found[1].lower()}.md",
        content[0].replace("](docs/decisions)", "](/decisions/index.md)"),
    )


def setup(app):
    """Register the rewriting of links, for pages and for what they include."""
    app.connect("source-read", _link_to_pages)
    app.connect("include-read", _link_to_pages)
