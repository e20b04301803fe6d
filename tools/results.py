"""Compare, merge and publish results files: `fcos-zoo bench compare`, `merge` and `push`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from benchmarks.store import Row, Store, newest, read
from fcos.text import TextConsole, counted
from tools.push import DryRun, Private, publish

DEFAULT = Path("outputs/bench/results.jsonl")
HIDDEN = ("rank", "draws")  # columns of the frame that only reports need


def compare_results(
    before: Annotated[Path, typer.Argument(help="Results file to compare with.")],
    after: Annotated[Path, typer.Argument(help="Results file of the same cases, measured later.")],
    tolerance: Annotated[
        float,
        typer.Option(
            help="Accept times and memory that grew by this fraction, beyond their noise."
        ),
    ] = 0.05,
) -> int:
    """Compare two results files: every figure of both, and its ratio.

    The exit code is 1 if a figure got worse by more than the tolerance, or is missing in the
    second file.
    """
    from reports.compare import compare
    from reports.frame import records
    from reports.tables import rich_table

    found = compare(read([before]), read([after]), tolerance)
    figures = found.figures.sort_values("entry", kind="stable")
    if figures.empty:
        raise LookupError(f"{before} and {after} have no case in common")
    console = TextConsole()
    if figures["machine"].nunique() > 1:
        figures["case"] += " on " + figures["machine"]
    rows = [_texts(one) for one in records(figures)]
    columns = {heading: [row[heading] for row in rows] for heading in rows[0]}
    console.print(rich_table(columns, ["red" * bad for bad in figures["regressed"]]))
    skipped = [
        f"{counted(count, 'measured case')} that only {path} has"
        for count, path in ((found.lost, before), (found.added, after))
        if count
    ]
    skipped += [f"{name}, which only one of the files has" for name in found.machines]
    for text in skipped:
        console.print(f"not compared: {text}", style="yellow", soft_wrap=True)
    regressions = figures[figures["regressed"]]
    for one in records(regressions):
        change = one["reason"] or f"{one['before']:.4g} to {one['after']:.4g}"
        text = f"regression: {one['entry']} {one['case']}, {one['figure']}: {change}"
        console.print(text, style="red", soft_wrap=True)
    return 1 if found.lost or len(regressions) else 0


def merge(
    out: Annotated[Path, typer.Argument(help="Results file to which rows are appended.")],
    files: Annotated[list[Path], typer.Argument(help="Results files to read.")],
) -> None:
    """Merge results files: append the newest row of every case that OUT does not have."""
    store = Store(out)
    added = store.merge(row for file in files for row in newest(read([file])))
    TextConsole(soft_wrap=True).print(f"{counted(added, 'row')} added to {out}")


def push_results(
    repository: Annotated[str, typer.Argument(help="hf://datasets/owner/name")],
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="Results files of `fcos-zoo bench`.", show_default=str(DEFAULT)),
    ] = None,
    license: Annotated[str, typer.Option(help="License of the results.")] = "cc-by-4.0",
    private: Private = False,
    dry_run: DryRun = None,
) -> None:
    """Publish results as a dataset on the Hugging Face Hub.

    figures.jsonl has a line per figure with its provenance, results.jsonl the measured rows, and
    README.md the tables and a model-index, which leaderboards read.
    """

    def write(name: str, folder: Path) -> list[Path]:
        rows = newest(read(results or [DEFAULT]))
        contents = {
            "README.md": dataset_card(rows, name, license),
            "figures.jsonl": "".join(json.dumps(line) + "\n" for line in flat_figures(rows)),
            "results.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        }
        for file, text in contents.items():
            (folder / file).write_text(text, encoding="utf-8")
        return [folder / file for file in contents]

    publish(repository, "dataset", write, private, dry_run)


def _texts(one: Mapping[str, Any]) -> dict[str, str]:
    """Return a figure and its change as texts."""
    before, after, ratio, noise = (one[key] for key in ("before", "after", "ratio", "noise"))
    missing = math.isnan(ratio)
    spread = "?" if math.isnan(noise) else f"{noise:.3f}"
    return {
        "model": one["entry"],
        "case": one["case"] if missing or not one["reason"] else f"{one['case']}, {one['reason']}",
        "figure": one["figure"],
        "before": "-" if math.isnan(before) else f"{before:.4g}",
        "after": "-" if math.isnan(after) else f"{after:.4g}",
        "ratio": "-" if missing else f"{ratio:.3f} ± {spread}",
    }


def flat_figures(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield the figures of the tables, a flat row each, with their provenance; None if unknown."""
    from reports.frame import frame, records

    for row in rows:
        for figure in records(frame([row])):
            known = {
                name: None if isinstance(value, float) and math.isnan(value) else value
                for name, value in figure.items()
                if name not in HIDDEN
            }
            yield {**known, "provenance": provenance(row)}


def provenance(row: Row) -> dict[str, Any]:
    """Return the facts for a citation: title, time, code, machine, data and command.

    `sha256` is that of the row in results.jsonl, as JSON with sorted keys and no spaces.
    """
    facts = row["environment"]
    text = json.dumps(row, sort_keys=True, separators=(",", ":"))
    return {
        "title": f"{row['cell']['metric']} of {row['cell']['entry']}",
        "created": row.get("time"),
        "software": f"fcos-zoo {version('fcos-zoo')}",
        "commit": facts.get("commit"),
        "code": facts.get("code"),
        "torch": facts.get("torch"),
        "machine": row["machine"],
        "dataset": row["cell"].get("dataset"),
        "weights": row["cell"].get("weights"),
        "command": row["command"],
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def dataset_card(rows: Sequence[Row], name: str, license: str) -> str:
    """Return the dataset's card: metadata with the model-index, citation, and tables."""
    from reports import tables

    facts = {
        "license": license,
        "pretty_name": name.partition("/")[2],
        "tags": ["object-detection", "fcos", "benchmark"],
        "configs": [
            {"config_name": "figures", "data_files": "figures.jsonl", "default": True},
            {"config_name": "results", "data_files": "results.jsonl"},
        ],
        "model-index": model_index(rows, name),
    }
    author, year = name.partition("/")[0], date.today().year
    return f"""\
---
{yaml.safe_dump(facts, sort_keys=False).strip()}
---
{tables.page(rows, f"Results of {name}")}
## Citation

```bibtex
@misc{{{author}{year}results,
  author = {{{author}}},
  title  = {{{name}: results of FCOS detectors}},
  year   = {{{year}}},
  url    = {{https://huggingface.co/datasets/{name}}}
}}
```
"""


def model_index(rows: Sequence[Row], name: str) -> list[dict[str, Any]]:
    """Return the measured AP of each model in the metadata format of model cards."""
    entries: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        values = row["values"]
        if row["cell"]["metric"] != "ap" or values.get("AP") is None:
            continue
        metrics = [
            {"type": "mAP", "name": key, "value": round(100 * values[key], 2)}
            for key in ("AP", "AP50", "AP75", "APs", "APm", "APl")
            if values.get(key) is not None
        ]
        result = {
            "task": {"type": "object-detection"},
            "dataset": {"type": "coco", "name": str(values.get("split"))},
            "metrics": metrics,
            "source": {"name": row["key"], "url": f"https://huggingface.co/datasets/{name}"},
        }
        entries.setdefault(row["cell"]["entry"], []).append(result)
    return [{"name": entry, "results": results} for entry, results in entries.items()]
