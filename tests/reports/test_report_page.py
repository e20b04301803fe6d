"""The page: complete in itself, the same each time, and about the models of the report only."""

from __future__ import annotations

import html.parser
from functools import cache

from rows import ROWS, latency, memory

from reports import overview, page, plots
from reports.frame import frame
from reports.overview import summary

ENTRY = "FCOS_R_50_5l_2x"


class Tags(html.parser.HTMLParser):
    """Every tag with its attributes, and the tags that are still open."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@cache
def rendered() -> str:
    """The page of the example rows."""
    return page.render(ROWS)


def charts(rows: list) -> dict[str, str]:
    table = frame(rows)
    return overview.charts(table, summary(table))


def test_the_page_needs_nothing_but_itself() -> None:
    tags = Tags()
    tags.feed(rendered())
    assert tags.open == []
    for tag, attributes in tags.found:
        assert tag not in ("link", "img", "iframe")
        assert not (tag == "script" and "src" in attributes)


def test_text_of_the_results_is_never_markup() -> None:
    text = rendered()
    assert "&lt;no weights&gt;" in text
    assert "<no weights>" not in text
    assert "<b>" not in page.render([latency("mine:<b>", 10)])


def test_charts_take_the_colour_of_the_page_and_name_their_points() -> None:
    drawn = charts([*ROWS, memory(ENTRY, 3.06)])
    assert list(drawn) == [
        "AP against latency",
        "AP against predicted training memory",
        "AP against time, both as published",
        "Where the time goes",
        "Throughput against batch size",
    ]
    for svg in drawn.values():
        assert svg.startswith("<svg")
        assert plots.INK not in svg
    assert f"<title>{ENTRY}: 80 ± 1% ms per image" in drawn["AP against latency"]


def test_a_report_of_three_models_shows_three() -> None:
    rows = [latency(name, 50) for name in (ENTRY, "FCOS_R_50_1x", "FCOS_MS_R_101_2x")]
    text = page.render(rows)
    tags = Tags()
    tags.feed(text)
    marked = {attributes.get("data-entry") for _, attributes in tags.found} - {None}
    assert marked == {ENTRY, "FCOS_R_50_1x", "FCOS_MS_R_101_2x"}
    for other in ("FCOS_R_101_5l_2x", "FCOS_R_50_noctr_2x", "FCOS_MS_X_101_32x8d_2x"):
        assert other not in text
    assert "AP by epoch" not in text
    assert "AP by epoch" in page.render([latency("FCOS_R_50_noctr_2x", 50)])


def test_machines_and_predictions_are_kept_apart() -> None:
    other = [{**row, "machine": "Some GPU"} for row in ROWS]
    text = page.render([*ROWS, *other])
    for machine in ("Some CPU, 2 cores", "Some GPU"):
        assert f"<h3>{machine}</h3>" in text
        assert f"<summary>Latency: {machine}</summary>" in text
    both = charts([memory(ENTRY, 3.06, 3.2)])
    assert "3.2 GB of a training step of 2 images" in both["AP against training memory"]
    assert "3.06 predicted GB" in both["AP against predicted training memory"]


def test_bars_are_sorted_by_time() -> None:
    rows = [latency("FCOS_R_50_1x", 80), latency("FCOS_V_39_FPN_1x", 9), latency(ENTRY, 40)]
    svg = charts(rows)["Where the time goes"]
    names = ("V_39_FPN_1x", "R_50_5l_2x", "R_50_1x")
    places = [svg.index(f">{name}</text>") for name in names]
    assert places == sorted(places)
