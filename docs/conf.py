"""Sphinx builds the site from the Markdown files of the repository as they are: `make docs`."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from pygments.lexer import inherit
from pygments.lexers.shell import BashLexer
from pygments.token import Name
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
html_use_index = False  # search finds the names
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


class CommandLexer(BashLexer):
    """Bash whose options are marked, so that they are not broken at their hyphens."""

    tokens: ClassVar = {"basic": [(r"(?<=\s)--?[a-z][\w-]*", Name.Attribute), inherit]}


def mark_names(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Let names break after an underscore and paths after a slash, and mark cells by content."""
    for cell in doctree.findall(nodes.entry):
        if len(cell.astext()) > 40:
            cell["classes"].append("sentence")
        if "_" in cell.astext() and " " not in cell.astext():
            cell["classes"].append("name")
            _add_breaks(cell)
    for title in doctree.findall(nodes.title):
        _add_breaks(title)
    for code in doctree.findall(nodes.literal):
        if max(map(len, code.astext().split()), default=0) > 24:
            _add_breaks(code)
        if max(map(len, re.split("[ _/,]", code.astext()))) > 40:
            code["classes"].append("endless")  # such as a hash


def _add_breaks(node: nodes.Element) -> None:
    for text in list(node.findall(nodes.Text)):
        first, *others = re.split("(?<=[_/,])(?=[^_/, ])", text)
        parts: list[nodes.Node] = [nodes.Text(first)]
        for part in others:
            parts += [nodes.raw("", "<wbr>", format="html"), nodes.Text(part)]
        text.parent.replace(text, parts)


def mark_contents(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Let the names in the list of a page's headings break as the headings do."""
    context["toc"] = re.sub("_(?=[^<>]*<)", "_<wbr>", context.get("toc", ""))


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
    for language in ("bash", "sh"):
        app.add_lexer(language, CommandLexer)
    app.connect("doctree-resolved", mark_names)
    app.connect("html-page-context", mark_contents)
    app.connect("autodoc-process-signature", plain_types)
    app.connect("build-finished", copy_sources)
    app.connect("build-finished", add_demo)
