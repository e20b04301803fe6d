"""The page: complete in itself, the same each time."""

from __future__ import annotations

import html.parser

from rows import ROWS, memory

from reports import page, plots
from reports.lines import lines


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
    assert (
        "<title>FCOS_R_50_5l_2x: 80, 37.1 (AP and time, Some CPU, 2 cores)</title>"
        in drawn["AP against time"]
    )


def test_plots_tell_machines_and_what_was_predicted_apart() -> None:
    other = [{**row, "machine": "Some GPU"} for row in ROWS]
    drawn = plots.all_plots(lines([*ROWS, *other]))
    for machine in ("Some CPU, 2 cores", "Some GPU"):
        assert f"80, 37.1 (AP and time, {machine})" in drawn["AP against time"]
        assert f"AP and predicted memory, {machine}" in drawn["AP against training memory"]
        assert f"FCOS_R_50_5l_2x fp32 ({machine})" in drawn["Where the time goes"]
    assert "published AP and memory" in drawn["AP against training memory"]
    measured = plots.all_plots(lines([memory("FCOS_R_50_5l_2x", 3.06, 3.2)]))
    assert "3.2, 37.1 (published AP, measured memory of" in measured["AP against training memory"]


def test_there_is_no_plot_of_nothing() -> None:
    assert list(plots.all_plots([])) == ["AP by epoch, as published"]


def test_no_two_series_of_a_plot_look_the_same() -> None:
    assert len({plots.look(number) for number in range(36)}) == 36


def test_memory_that_is_published_for_one_gpu_is_in_the_plot() -> None:
    svg = plots.ap_against_memory(lines([memory("FCOS_MM_R_50_1x", 3.0)]))
    assert "FCOS_MM_R_50_1x: 3.6, 36.6 (published AP and memory)" in svg


def test_every_command_of_a_machine_is_told() -> None:
    other = {**ROWS[0], "command": "fcos-zoo bench --suite speed"}
    assert "fcos-zoo bench --suite speed" in page.render([other, *ROWS[1:]])
