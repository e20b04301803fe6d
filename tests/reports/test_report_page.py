"""The page: complete in itself, the same each time, sorted and filtered in a real browser."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rows import PUBLISHED, ap, flops, latency, memory, row

from reports import page, plots
from reports.lines import lines

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
ROWS = [
    *(flops("FCOS_R_50_5l_2x", 90.61), memory("FCOS_R_50_5l_2x", 3.06)),
    *(latency("FCOS_R_50_5l_2x", 80.0), ap("FCOS_R_50_5l_2x")),
    *(
        latency("FCOS_R_101_5l_2x", 120.0, "random"),
        row("FCOS_R_101_5l_2x", "ap", reason="<no weights>"),
    ),
    latency("FCOS_HRNet_W18_5l_2x", 9.0),
    *(
        row(
            "FCOS_R_50_5l_2x",
            "throughput",
            {"images_per_second": 5.0 * batch},
            batch=batch,
            weights=PUBLISHED,
        )
        for batch in (1, 2)
    ),
]


class Tags(html.parser.HTMLParser):
    """Every tag with its attributes, and unclosed ones."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself() -> None:
    tags = Tags()
    tags.feed(page.render(ROWS))
    assert tags.open == []
    for tag, attributes in tags.found:
        assert tag not in ("link", "img", "iframe")
        assert not (tag == "script" and "src" in attributes)


def test_what_results_say_is_text_and_never_markup() -> None:
    text = page.render(ROWS)
    assert "&lt;no weights&gt;" in text
    assert "<no weights>" not in text


def test_the_same_results_make_the_same_page_to_the_byte() -> None:
    assert page.render(ROWS) == page.render(ROWS)


def test_plots_take_the_colour_of_the_page_and_name_their_points() -> None:
    drawn = plots.all_plots(lines(ROWS))
    assert list(drawn) == [
        "AP against time",
        "AP against training memory",
        "Where the time goes",
        "Throughput against batch size",
        "AP by epoch, as published",
    ]
    for svg in drawn.values():
        assert svg.startswith("<svg")
        assert plots.INK not in svg
    assert "<title>FCOS_R_50_5l_2x: 80, 37.1 (measured here)</title>" in drawn["AP against time"]


def test_there_is_no_plot_of_nothing() -> None:
    assert list(plots.all_plots([])) == ["AP by epoch, as published"]


def browse(path: Path, address: str) -> list[list[str]]:
    """The visible rows of the measured table after the page's script ran, cell by cell."""
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=120,
        env={"HOME": str(path.parent), "PATH": "/usr/bin:/bin"},
    )
    table = re.search(r'<table id="measured">.*?</table>', done.stdout, re.DOTALL)
    assert table, done.stderr
    rows = re.findall(r"<tr(.*?)>(.*?)</tr>", table[0], re.DOTALL)
    return [
        re.findall(r"<td>(.*?)</td>", cells) for hidden, cells in rows[1:] if "hidden" not in hidden
    ]


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium to open the page")
def test_a_browser_sorts_and_filters(tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(page.render(ROWS), encoding="utf-8")
    column = re.findall(r"<th[^>]*>(.*?)</th>", path.read_text()).index("ms")

    def times(state: str) -> list[str]:
        return [cells[column] for cells in browse(path, f"{path.as_uri()}#{state}")]

    assert times("") == ["80.0", "120.0", "9.0"]
    assert times(f"sort={column}") == ["9.0", "80.0", "120.0"]
    assert times(f"sort={column}&down") == ["120.0", "80.0", "9.0"]
    assert times("q=r_ 5l") == ["80.0", "120.0"]
