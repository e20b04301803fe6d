"""Results as a dataset on the Hugging Face Hub: `fcos-zoo bench push`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
import yaml

from benchmarks import store
from fcos.text import TextConsole
from tools.push import DryRun, Private, hub, repository_of, upload

DEFAULT = Path("outputs/bench/results.jsonl")
HIDDEN = ("rank", "draws")  # columns of the frame that only reports need


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

    figures.jsonl has a line per figure with where it comes from, results.jsonl the rows as they
    were measured, and README.md the tables and a model-index, which leaderboards read.
    """
    name = repository_of(repository, "datasets/")
    api = None if dry_run else hub()
    rows = store.newest(store.read(results or [DEFAULT]))
    with nullcontext(dry_run) if dry_run else TemporaryDirectory() as place:
        files = write(rows, Path(place), name, license)
        console = TextConsole(soft_wrap=True)
        if api is not None:
            upload(api, name, place, private, "Upload results", "dataset")
            console.print(f"{repository}: {', '.join(file.name for file in files)}")
        else:
            for file in files:
                console.print(str(file))


def write(rows: Sequence[store.Row], folder: Path, name: str, license: str) -> list[Path]:
    """Write the files of the dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "README.md": page(rows, name, license),
        "figures.jsonl": "".join(json.dumps(line) + "\n" for line in figures(rows)),
        "results.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    for file, text in contents.items():
        (folder / file).write_text(text, encoding="utf-8")
    return [folder / file for file in contents]


def figures(rows: Sequence[store.Row]) -> Iterator[dict[str, Any]]:
    """The figures of the tables, a flat row each, with their provenance; None if not known."""
    from reports.frame import frame, records

    for row in rows:
        for figure in records(frame([row])):
            known = {
                name: None if isinstance(value, float) and math.isnan(value) else value
                for name, value in figure.items()
                if name not in HIDDEN
            }
            yield {**known, "provenance": provenance(row)}


def provenance(row: store.Row) -> dict[str, Any]:
    """What a citation or a DOI needs: what, when, with which code, on what, and by which command.

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


def page(rows: Sequence[store.Row], name: str, license: str) -> str:
    """The dataset's card: metadata with the model-index, how to cite it, and the tables."""
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


def model_index(rows: Sequence[store.Row], name: str) -> list[dict[str, Any]]:
    """The measured AP of each model in the metadata format of model cards."""
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
