"""Check entries against golden fixtures: `fcos-zoo verify FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Column
from rich.text import Text

from fcos.text import Name, TextConsole, counted, plain_table

COLUMNS = ("logits", "ltrb", "quality", "detections", "losses", "gradients", "real image")


def verify(
    folder: Annotated[
        Path, typer.Argument(help="Folder of fixtures: NAME.json and NAME.npz, also in subfolders.")
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the photographs that the fixtures name.")
    ] = None,
) -> int:
    """Compare entries with numbers of the original code, recorded as golden fixtures.

    The exit code is 1 if a comparison fails. tests/golden/README.md describes the format.
    """
    from zoo import golden

    console = TextConsole()
    fixtures = golden.find(folder)
    images = images or _images_beside(folder)
    columns = [heading for heading in COLUMNS if images or heading != "real image"]
    table = plain_table("entry", *(Column(heading, no_wrap=True) for heading in columns))
    console.print(f"{counted(len(fixtures), 'fixture')}: the share of the tolerance that is used")
    failures: list[str] = []
    unstable: list[str] = []
    with Live(table, console=console, refresh_per_second=2):
        for fixture in fixtures:
            cells = dict.fromkeys(columns, Text("-"))
            try:
                for check in golden.verify(fixture, images):
                    style = "yellow" if check.unstable else "green" if check.passed else "red"
                    text = check.detail.split(" of tolerance")[0].split(", ")[0]
                    cells[check.what] = Text(text, style)
                    line = f"{fixture.entry}: {check.what}: {check.detail}"
                    if check.unstable:
                        unstable.append(line)
                    elif not check.passed:
                        failures.append(line)
            except (LookupError, ValueError, OSError) as error:
                failures.append(f"{fixture.entry}: {error}")
                unfinished = next(what for what, text in cells.items() if text.plain == "-")
                cells[unfinished] = Text("failed", "red")
            table.add_row(Name(fixture.entry), *cells.values())
    if not console.is_terminal:
        console.line()
    for line in unstable:
        console.print(line, style="yellow", markup=False)
    for failure in failures:
        console.print(failure, style="red", markup=False)
    if images is None:
        console.print("real images not compared: pass their folder as --images")
    counts = f"{counted(len(failures), 'failure')}, {len(unstable)} unstable"
    console.print(f"{counted(len(fixtures), 'fixture')}, {counts}")
    return 1 if failures else 0


def _images_beside(folder: Path) -> Path | None:
    """Return the folder of the real images that the fixtures' README names."""
    for parent in (folder, *folder.resolve().parents):
        images = parent / "data" / "coco-mini" / "val2017"
        if images.is_dir():
            return images
    return None


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["verify", *sys.argv[1:]]))
