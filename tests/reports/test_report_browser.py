"""The page in a real browser, from the disk: sorted, filtered, on a phone, in the dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rows import ROWS

from reports import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (extra dev)")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")

SCREENS = {"desktop": (1280, 900), "phone": (390, 844)}


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
    """The opened page, with what it asked for and what went wrong in it."""

    page: Any
    address: str
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def column(self, heading: str) -> list[str]:
        """The texts of a column of the measured table, of the rows that are to be seen."""
        headings = self.page.locator("#measured th").all_inner_texts()
        number = headings.index(heading) + 1
        return self.page.locator(
            f"#measured tbody tr:visible td:nth-child({number})"
        ).all_inner_texts()

    def head(self, heading: str) -> Any:
        return self.page.get_by_role("columnheader", name=heading, exact=True).first


@pytest.fixture(params=[(s, c) for s in SCREENS for c in ("light", "dark")], ids="-".join)
def view(request: pytest.FixtureRequest, browser: Any, file: Path) -> Iterator[View]:
    screen, scheme = request.param
    width, height = SCREENS[screen]
    opened = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    opened.set_default_timeout(10_000)
    view = View(opened, file.as_uri())
    opened.on("request", lambda one: view.requests.append(one.url))
    opened.on("pageerror", lambda error: view.errors.append(str(error)))
    opened.on("console", lambda said: view.errors.append(said.text))
    opened.goto(view.address)
    yield view
    opened.close()
    assert view.errors == []
    assert {url.partition("#")[0] for url in view.requests} == {view.address}


def test_a_click_sorts_and_another_turns_it_round(view: View) -> None:
    assert view.column("ms") == ["80.0", "120.0", "9.0"]
    view.head("ms").click()
    assert view.column("ms") == ["9.0", "80.0", "120.0"]
    assert view.head("ms").get_attribute("aria-sort") == "ascending"
    view.head("ms").click()
    assert view.column("ms") == ["120.0", "80.0", "9.0"]
    assert view.head("ms").get_attribute("aria-sort") == "descending"


def test_the_keyboard_sorts_too_and_gaps_come_last(view: View) -> None:
    view.head("AP").press("Enter")
    assert [text.split()[0] for text in view.column("AP")] == ["37.1", "-", "-"]
    view.head("AP").press("Enter")
    assert [text.split()[0] for text in view.column("AP")] == ["37.1", "-", "-"]


def test_typing_filters_by_every_word(view: View) -> None:
    view.page.get_by_role("searchbox").fill("r_ 5L")
    assert view.column("ms") == ["80.0", "120.0"]
    assert view.page.locator("#count").inner_text() == "2 of 3"
    view.page.get_by_role("searchbox").fill("nothing like it")
    assert view.column("ms") == []
    view.page.get_by_role("searchbox").fill("")
    assert len(view.column("ms")) == 3


def test_the_address_keeps_the_view(view: View) -> None:
    view.page.get_by_role("searchbox").fill("r_")
    view.head("ms").click()
    view.head("ms").click()
    kept = view.page.url
    view.page.goto("about:blank")
    view.page.goto(kept)
    assert view.column("ms") == ["120.0", "80.0"]


def test_it_fits_the_screen_and_is_readable_on_it(view: View) -> None:
    across, screen = view.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert across <= screen
    name = view.page.locator("#measured tbody td").first.bounding_box()
    assert name["width"] < screen / 2  # the first column stays when the others are scrolled
    ink, paper = view.page.evaluate(
        """() => ["color", "backgroundColor"].map((name) =>
            getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).map(Number))"""
    )
    assert abs(sum(ink) - sum(paper)) > 3 * 128
    dark = view.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (sum(paper) < sum(ink)) is dark


def test_plots_are_drawn_in_the_page_s_own_colour(view: View) -> None:
    assert view.page.locator("figure svg").count() == 5
    for figure in view.page.locator("figure svg").all():
        assert figure.bounding_box()["width"] > 450  # on a phone it scrolls, to be readable
    text = view.page.locator("figure svg text").first
    ink = view.page.evaluate("getComputedStyle(document.body).color")
    assert text.evaluate("(node) => getComputedStyle(node).fill") == ink
