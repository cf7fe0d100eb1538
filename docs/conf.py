"""What Sphinx reads; `make -C docs html` writes the pages to docs/build/html."""

import re
import shutil
import sys
from pathlib import Path

import stable_ssl

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for keys.py
shutil.rmtree(HERE / "notebooks", ignore_errors=True)  # pages lie below this folder
shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks")

project = "stable-SSL"
release = stable_ssl.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb", "keys"]
exclude_patterns = ["build"]
default_role = "code"  # `name` in a docstring
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
napoleon_use_rtype = False
toc_object_entries = False  # a page by its sections alone
nb_execution_mode = "off"  # notebooks are stored as they ran
html_show_copyright = False
html_theme = "alabaster"
html_theme_options = {"description": "self-supervised learning", "page_width": "1100px"}

PLAIN = re.compile(r"(`[^`]*`)|([*|])")  # code, or what docstrings mean as it is
LINK = re.compile(r"`([^`<]+)<(?:\.\./|docs/)*([\w/]+)\.(?:rst|ipynb)>`_")


def setup(app):
    """Change what is read: links to files, and the marks in docstrings."""
    app.connect("source-read", link_pages)
    app.connect("include-read", link_pages)
    app.connect("autodoc-process-docstring", keep_plain, priority=1)  # before napoleon


def link_pages(app, *arguments):
    """Let what links a file of the repository link the page that is made of it.

    The text is the last argument's only element.
    """
    text = arguments[-1]
    text[0] = text[0].replace("image:: assets/", "image:: ../assets/")
    text[0] = LINK.sub(lambda m: f":doc:`{m[1]}</{page(m[2])}>`", text[0])


def page(name):
    """Return the page that is made of a file, by its name."""
    return "index" if name == "README" else name.lower()


def keep_plain(app, what, name, obj, options, lines):
    """Escape `*` and `|`: docstrings are plain text, in which N * D is a product."""
    lines[:] = [PLAIN.sub(lambda m: m[1] or f"\\{m[2]}", line) for line in lines]
