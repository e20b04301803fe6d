"""Sphinx builds the site from the Markdown files of the repository as they are: `make docs`."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from tools.demo import demo

project = "fcos-zoo"
html_title = "fcos-zoo"
root_doc = "docs/index"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    *("docs/*.md", "docs/*.ipynb", "benchmarks/README.md", "tests/golden/README.md"),
    *("reports/*.md", "reports/*/README.md", "reports/latest/*.md"),
]
exclude_patterns = [".*", "build", "outputs", "runs"]  # not searched for pages
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_extra_path = ["../llms.txt", "_static/index.html"]
html_copy_source = False
templates_path = ["_templates"]
html_sidebars = {
    "**": [
        *("sidebar/brand.html", "sidebar/search.html", "sidebar/scroll-start.html"),
        *("sidebar/navigation.html", "demo.html", "sidebar/scroll-end.html"),
    ]
}
myst_heading_anchors = 3
nb_execution_mode = "off"  # a test runs the notebook
default_role = "code"  # `name` in a docstring
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # attributes as a list
python_maximum_signature_line_length = 130  # of qualified names
suppress_warnings = ["toc.not_included"]  # pages that others link to


def mark_cells(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Mark sentences in tables, and names of models, which may break after an underscore."""
    for cell in doctree.findall(nodes.entry):
        if len(cell.astext()) > 40:
            cell["classes"].append("sentence")
        if "_" not in cell.astext() or " " in cell.astext():
            continue
        cell["classes"].append("name")
        for text in list(cell.findall(nodes.Text)):
            first, *others = re.split("(?<=_)(?=.)", text)
            parts: list[nodes.Node] = [nodes.Text(first)]
            for part in others:
                parts += [nodes.raw("", "<wbr>", format="html"), nodes.Text(part)]
            text.parent.replace(text, parts)


def plain_types(*event: Any) -> tuple[str, str]:
    """Signatures without the limits of numbers: `int` for `Annotated[int, Ge(ge=1)]`."""
    signature, returned = event[-2:]
    limited = r"~[\w.]+\.Annotated\[([~\w.]+(\[[^][]*\])?), ~[\w.]+\([^()]*\)\]"
    for _ in range(2):  # they may be nested
        signature = signature and re.sub(limited, r"\1", signature)
    return signature, returned


def copy_sources(app: Sphinx, failure: Exception | None) -> None:
    """Put the Markdown beside the pages, where llms.txt points to."""
    for page in () if failure else app.env.found_docs:
        source = Path(app.env.doc2path(page))
        if source.suffix == ".md":
            shutil.copy(source, app.outdir / f"{page}.md")


def add_demo(app: Sphinx, failure: Exception | None) -> None:
    """Put the page of `fcos-zoo demo` on the site, to which the navigation links.

    Without npm a page that says so takes its place.
    """
    folder = Path(app.outdir) / "demo"
    if failure or (folder / "model.onnx").is_file():
        return
    try:
        demo(out=folder)
    except RuntimeError as error:
        logging.getLogger(__name__).info(f"the demo is left out: {error}")
        text = f"This build of the documentation has no demo: {html.escape(str(error))}."
        (folder / "index.html").write_text(f"<!doctype html>\n<title>demo</title>\n<p>{text}\n")


def setup(app: Sphinx) -> None:
    app.connect("doctree-resolved", mark_cells)
    app.connect("autodoc-process-signature", plain_types)
    app.connect("build-finished", copy_sources)
    app.connect("build-finished", add_demo)
