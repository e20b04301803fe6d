"""Everything on one page that needs nothing but itself: measured, published, plots, machines."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reports import plots, regenerated, tables
from reports.captions import captions
from reports.lines import lines as gather

FOLDER = Path(__file__).parent


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """The HTML page of result rows.

    Its state is in the address: `#q=R_50&sort=3&down` filters by words and sorts by a column.
    """
    headings, cells, notes = tables.grid(rows)
    lines = gather(rows)
    machines = [line.machine for line in lines]
    if len(set(machines)) > 1:
        headings = [*headings, "machine"]
        cells = [[*texts, machine] for texts, machine in zip(cells, machines, strict=True)]
    table = _table(headings, cells, "measured")
    parts = {
        "style": (FOLDER / "page.css").read_text(),
        "script": (FOLDER / "page.js").read_text(),
        "summary": _escape(
            f"{len(rows)} measurements of {len({ln.entry for ln in lines})} detectors"
        ),
        "measured": table + _notes(notes) + _paragraphs(captions(rows)),
        "plots": "".join(
            f"<figure><figcaption>{_escape(title)}</figcaption>{svg}</figure>"
            for title, svg in plots.all_plots(lines).items()
        ),
        "published": "".join(_published(table) for table in regenerated.all_tables(rows)),
        "machines": _machines(rows),
    }
    page = (FOLDER / "page.html").read_text()
    for name, content in parts.items():
        page = page.replace(f"<!-- {name} -->", content, 1)
    return page


def _table(headings: Sequence[str], cells: Iterable[Sequence[str]], name: str = "") -> str:
    head = "".join(f'<th scope="col">{_escape(text)}</th>' for text in headings)
    body = "".join(
        f"<tr>{''.join(f'<td>{_escape(text)}</td>' for text in texts)}</tr>" for texts in cells
    )
    attribute = f' id="{name}"' if name else ""
    return (
        f'<div class="scroll"><table{attribute}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _published(again: regenerated.Regenerated) -> str:
    source = again.table.source
    date = f", {source.date}" if source.date else ""
    footnotes = "".join(f"<li>{_escape(note)}</li>" for note in again.table.footnotes)
    return (
        f"<details><summary>{_escape(again.table.title)}</summary>"
        f'<p><a href="{_escape(source.url)}">source</a>{_escape(date)}. '
        f"{_escape(again.hardware)}</p>"
        f"{_table(again.headings, again.cells)}{_notes(again.notes)}<ul>{footnotes}</ul></details>"
    )


def _machines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Software, code and commands of each machine's rows, and the environment of the last one."""
    by_machine: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_machine.setdefault(row["machine"], []).append(row)
    parts = []
    for machine, mine in by_machine.items():
        last = max(mine, key=lambda row: row.get("time", ""))["environment"]
        facts = [(key, str(value)) for key, value in last.items() if value is not None]
        told = "".join(f"<li>{_escape(text)}</li>" for text in tables.circumstances(mine))
        parts.append(
            f"<details><summary>{_escape(machine)}</summary><ul>{told}</ul>"
            f"{_table(('', ''), facts)}</details>"
        )
    return "".join(parts)


def _notes(notes: Sequence[str]) -> str:
    return f"<ol>{''.join(f'<li>{_escape(note)}</li>' for note in notes)}</ol>" if notes else ""


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{_escape(text)}</p>" for text in texts)


def _escape(text: str) -> str:
    return html.escape(text)
