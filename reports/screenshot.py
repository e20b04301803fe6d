"""Take a screenshot of the report page: `python -m reports.screenshot PAGE.html IMAGE.png`.

Needs Playwright (extra `dev`) and Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

HEIGHT = 800
COLOURS = 256


def take(page: Path, image: Path) -> None:
    """The page on a desktop and, beside it, its table on a phone in dark mode."""
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"))
        desktop = chromium.new_page(viewport={"width": 1180, "height": HEIGHT})
        desktop.goto(page.resolve().as_uri())
        phone = chromium.new_page(viewport={"width": 400, "height": HEIGHT}, color_scheme="dark")
        phone.goto(page.resolve().as_uri())
        phone.get_by_role("heading", name="Models").evaluate("node => node.scrollIntoView()")
        views = [Image.open(io.BytesIO(view.screenshot())) for view in (desktop, phone)]
        chromium.close()
    whole = Image.new("RGB", (sum(view.width for view in views), HEIGHT))
    whole.paste(views[0], (0, 0))
    whole.paste(views[1], (views[0].width, 0))
    whole.quantize(COLOURS).save(image, optimize=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
