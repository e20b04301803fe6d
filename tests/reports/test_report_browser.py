"""The page in a real browser, opened from the disk, on three screens, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rows import ROWS

from reports import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (extra dev)")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")

HRNET = "FCOS_HRNet_W18_5l_2x"
SCREENS = {"desktop": (1440, 900), "tablet": (1024, 768), "phone": (390, 844)}
VIEWS = [("desktop", "light"), ("tablet", "dark"), ("phone", "light"), ("phone", "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(page.render(ROWS), encoding="utf-8")
    return path


@dataclass
class View:
    """The opened page."""

    page: Any

    def column(self, heading: str) -> list[str]:
        """The texts of a column of the table of models, of the visible rows."""
        headings = self.page.locator("#models th").all_text_contents()
        number = headings.index(heading) + 1
        cells = self.page.locator(f"#models tbody tr:visible td:nth-child({number})")
        return [text.strip() for text in cells.all_text_contents()]

    def head(self, heading: str) -> Any:
        return self.page.locator("#models").get_by_role("columnheader", name=heading, exact=True)

    def show_column(self, heading: str) -> None:
        columns = self.page.locator("#columns")
        columns.evaluate("node => { node.open = true }")
        columns.get_by_label(heading, exact=True).check()


@pytest.fixture(params=VIEWS, ids="-".join)
def view(request: pytest.FixtureRequest, browser: Any, file: Path) -> Iterator[View]:
    screen, scheme = request.param
    width, height = SCREENS[screen]
    opened = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    opened.set_default_timeout(10_000)
    requests: list[str] = []
    errors: list[str] = []
    opened.on("request", lambda one: requests.append(one.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text))
    opened.goto(file.as_uri())
    yield View(opened)
    opened.close()
    assert errors == []
    assert {url.partition("#")[0] for url in requests} == {file.as_uri()}


def test_clicks_and_the_keyboard_sort_and_gaps_come_last(view: View) -> None:
    view.show_column("ms")
    assert view.column("ms") == ["120.0", "9.0", "80.0"]  # the most accurate model first
    for order, times in {"ascending": [9.0, 80.0, 120.0], "descending": [120.0, 80.0, 9.0]}.items():
        view.head("ms").click()
        assert view.column("ms") == list(map(str, times))
        assert view.head("ms").get_attribute("aria-sort") == order
    view.show_column("AP")
    view.head("AP").press("Enter")
    assert view.column("AP") == ["37.1", "-", "-"]
    view.head("AP").press("Enter")
    assert view.column("AP") == ["37.1", "-", "-"]


def test_typing_filters_by_every_word(view: View) -> None:
    view.page.get_by_role("searchbox").fill("r_ 5L")
    assert view.column("ms") == ["120.0", "80.0"]
    assert view.page.locator("#count").inner_text() == "2 of 3"
    faint = view.page.locator(".mark:not(.chosen)")
    assert {mark.get_attribute("data-entry") for mark in faint.all()} == {HRNET}
    view.page.get_by_role("searchbox").fill("nothing like it")
    assert view.column("ms") == []
    view.page.get_by_role("searchbox").fill("")
    assert len(view.column("ms")) == 3


def test_the_address_keeps_the_view(view: View) -> None:
    view.page.get_by_role("searchbox").fill("r_")
    view.show_column("ms")
    view.head("ms").click()
    view.head("ms").click()
    kept = view.page.url
    view.page.goto("about:blank")
    view.page.goto(kept)
    assert view.column("ms") == ["120.0", "80.0"]


def test_columns_are_chosen_and_fewer_are_shown_on_a_phone(view: View) -> None:
    narrow = view.page.evaluate("innerWidth") < 640
    shown = [head for head in view.page.locator("#models th").all() if head.is_visible()]
    assert len(shown) == 3 if narrow else len(shown) > 3
    view.show_column("network ms")
    assert view.head("network ms").is_visible()


def test_pointing_at_a_mark_shows_its_figures_and_a_click_selects_the_model(view: View) -> None:
    mark = view.page.locator(f'.mark[data-entry="{HRNET}"]:visible').first
    mark.hover()
    assert HRNET in view.page.locator("#tip").inner_text()
    mark.click()
    assert view.page.locator("#models tr.chosen td").first.inner_text() == HRNET
    assert {
        mark.get_attribute("data-entry") for mark in view.page.locator(".mark.chosen").all()
    } == {HRNET}
    view.page.get_by_role("button", name="clear selection").click()
    assert view.page.locator("#models tr.chosen").count() == 0


def test_charts_have_the_colour_of_the_page_and_logarithmic_or_linear_axes(view: View) -> None:
    assert view.page.locator("figure").count() == 5
    text = view.page.locator("figure svg text").first
    ink = view.page.evaluate("getComputedStyle(document.body).color")
    assert text.evaluate("(node) => getComputedStyle(node).fill") == ink
    assert view.page.locator(".log:visible").count() == 3
    view.page.get_by_label("logarithmic axes").uncheck()
    assert view.page.locator(".log:visible").count() == 0
    assert view.page.locator(".linear:visible").count() == 3


def test_it_fits_the_screen_and_is_readable_on_it(view: View) -> None:
    across, screen = view.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert across <= screen
    name = view.page.locator("#models tbody td").first.bounding_box()
    assert name["width"] < screen / 2  # the first column stays when the others are scrolled
    for figure in view.page.locator("figure svg:visible").all():
        assert figure.bounding_box()["width"] <= screen
    heights = view.page.locator("figure svg text:visible").evaluate_all(
        "texts => texts.map((text) => text.getBoundingClientRect().height)"
    )
    assert min(heights) >= 9  # pixels, the smallest letters of the charts
    view.page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true })")
    words = view.page.locator("code .whole")
    assert "--metrics" in words.all_text_contents()
    assert set(words.evaluate_all("all => all.map((one) => one.getClientRects().length)")) == {1}
    ink, paper = view.page.evaluate(
        """() => ["color", "backgroundColor"].map((name) =>
            getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).map(Number))"""
    )
    assert abs(sum(ink) - sum(paper)) > 3 * 128
    dark = view.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (sum(paper) < sum(ink)) is dark
