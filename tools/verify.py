"""Check entries against golden fixtures: `python -m tools.verify FIXTURE_DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from zoo import golden

COLUMNS = ("logits", "ltrb", "quality", "detections", "losses", "gradients", "real image")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of all fixtures below a folder; 1 if any comparison fails."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds NAME.json and NAME.npz, also below it")
    parser.add_argument("--images", type=Path, help="folder of the fixtures' real images")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        fixtures = golden.find(options.folder)
    except FileNotFoundError as error:
        console.print(str(error), style="red")
        return 2
    images = options.images or _images_beside(options.folder)
    table = Table("entry", *COLUMNS, title=f"{len(fixtures)} fixtures, share of the tolerance used")
    failures: list[str] = []
    unstable: list[str] = []
    with Live(table, console=console, refresh_per_second=2):
        for fixture in fixtures:
            cells = dict.fromkeys(COLUMNS, "-")
            try:
                for check in golden.verify(fixture, images):
                    style = "yellow" if check.unstable else "green" if check.passed else "red"
                    text = check.detail.split(" of tolerance")[0].split(", ")[0]
                    cells[check.what] = f"[{style}]{text}[/]"
                    if check.unstable:
                        unstable.append(f"{fixture.entry}: {check.what}: {check.detail}")
                    if not check.passed:
                        failures.append(f"{fixture.entry}: {check.what}: {check.detail}")
            except (LookupError, ValueError, OSError) as error:
                failures.append(f"{fixture.entry}: {error}")
                cells[COLUMNS[0]] = "[red]failed[/]"
            table.add_row(fixture.entry, *cells.values())
    for line in unstable:
        console.print(line, style="yellow", markup=False)
    for failure in failures:
        console.print(failure, style="red", markup=False)
    if images is None:
        console.print("real images not compared: pass their folder as --images")
    console.print(f"{len(fixtures)} fixtures, {len(failures)} failures, {len(unstable)} unstable")
    return 1 if failures else 0


def _images_beside(folder: Path) -> Path | None:
    """Where the fixtures' README says the real images are, from any folder of the fixtures."""
    for parent in (folder, *folder.resolve().parents):
        images = parent / "data" / "coco-mini" / "val2017"
        if images.is_dir():
            return images
    return None


if __name__ == "__main__":
    sys.exit(main())
