"""The results as one self-contained HTML page: charts, models, details."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.store import Row
from fcos.text import counted
from reports import overview, plots, published, tables
from reports.frame import frame, provenance

FOLDER = Path(__file__).parent


def render(rows: Sequence[Row]) -> str:
    """Return the HTML page of results rows.

    Its state is in the address: `#q=R_50&sort=3&down` filters by words and sorts by a column.
    """
    machines = [
        (str(machine), table) for machine, table in frame(rows).groupby("machine", sort=False)
    ]
    summaries = {machine: overview.summary(table) for machine, table in machines}
    models = pd.concat(summaries.values(), ignore_index=True)
    parts = {
        "style": (FOLDER / "page.css").read_text(),
        "script": (FOLDER / "page.js").read_text(),
        "summary": html.escape(
            f"{counted(models['entry'].nunique(), 'model')}, measured on {', '.join(summaries)}"
        ),
        "charts": "".join(
            _charts(machine, table, summaries[machine]) for machine, table in machines
        ),
        "models": _models(models),
        "measured": "".join(_measured(machine, table) for machine, table in machines),
        "published": "".join(
            _published(comparison)
            for comparison in published.compare_all(
                rows, published.restricted(set(models["entry"]))
            )
        ),
        "machines": _machines(rows),
    }
    page = (FOLDER / "page.html").read_text()
    for name, content in parts.items():
        page = page.replace(f"<!-- {name} -->", content, 1)
    return page


def _charts(machine: str, table: pd.DataFrame, models: pd.DataFrame) -> str:
    """Return a machine's charts for wide and narrow screens, with both kinds of axes for costs."""
    figures: dict[str, str] = {}
    for name, width in {"wide": plots.WIDE, "narrow": plots.NARROW}.items():
        linear = overview.charts(table, models, log=False, width=width)
        for title, svg in overview.charts(table, models, width=width).items():
            drawn = svg
            if linear[title] != svg:
                drawn = f'<div class="log">{svg}</div><div class="linear">{linear[title]}</div>'
            caption = f"<figcaption>{html.escape(title)}</figcaption>"
            figures[title] = figures.get(title, caption) + f'<div class="{name}">{drawn}</div>'
    drawn = "".join(f"<figure>{content}</figure>" for content in figures.values())
    return f'<h3>{html.escape(machine)}</h3><div class="charts">{drawn}</div>'


def _models(models: pd.DataFrame) -> str:
    """Return a row per model and machine with all figures; first, only main ones are shown."""
    main = list(tables.compact(models).columns)
    return _table(tables.compact(models, every=True), "models", main)


def _measured(machine: str, table: pd.DataFrame) -> str:
    parts = [
        _details(
            f"{section.title}: {machine}",
            _table(section.cells) + _list("ul", section.notes),
        )
        for section in tables.sections(table)
    ]
    if missing := tables.gaps(table):
        parts.append(_details(f"Not measured: {machine}", _list("ul", missing)))
    return "".join(parts)


def _published(comparison: published.Comparison) -> str:
    source = comparison.table.source
    date = f", {source.date}" if source.date else ""
    return _details(
        comparison.table.title,
        f'<p><a href="{html.escape(source.url)}">source</a>{html.escape(date)}. '
        f"{html.escape(comparison.hardware)}</p>"
        f"{_table(comparison.shown)}{_list('ol', comparison.notes)}"
        f"{_list('ul', comparison.remarks)}"
        f"<blockquote>{_list('ul', comparison.table.footnotes)}</blockquote>",
    )


def _machines(rows: Iterable[Row]) -> str:
    """Return software, code and commands of each machine's rows, and its last environment."""
    by_machine: dict[str, list[Row]] = {}
    for row in rows:
        by_machine.setdefault(row["machine"], []).append(row)
    parts = []
    for machine, mine in by_machine.items():
        last = max(mine, key=lambda row: str(row.get("time", "")))["environment"]
        facts = [f"{key}: {value}" for key, value in last.items() if value is not None]
        parts.append(_details(machine, _list("ul", provenance(mine)) + _list("ul", facts)))
    return "".join(parts)


def _table(cells: pd.DataFrame, name: str = "", main: Sequence[str] = ()) -> str:
    """Return a table; the headings in `main` are marked as the columns to show first."""
    kinds = [' class="text"' if text in tables.TEXTS else "" for text in cells.columns]
    head = "".join(
        f'<th scope="col"{kind}{" data-main" if text in main else ""}>{html.escape(text)}</th>'
        for text, kind in zip(cells.columns, kinds, strict=True)
    )
    rows = [
        "".join(f"<td{k}>{_breakable(text)}</td>" for text, k in zip(texts, kinds, strict=True))
        for texts in cells.to_numpy()
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    attribute = f' id="{name}"' if name else ""
    return (
        f'<div class="scroll"><table{attribute}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _details(title: str, content: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def _list(tag: str, texts: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    items = re.sub("`([^`]*)`", lambda code: f"<code>{_whole_words(code[1])}</code>", items)
    return f"<{tag}>{items}</{tag}>" if texts else ""


def _whole_words(command: str) -> str:
    """Return a command whose options and other short words are not broken, as at their hyphens."""
    return re.sub(r"(?<!\S)\S{1,24}(?!\S)", r'<span class="whole">\g<0></span>', command)


def _breakable(name: str) -> str:
    """Return a text that a narrow column may break after an underscore."""
    return html.escape(name).replace("_", "_<wbr>")
