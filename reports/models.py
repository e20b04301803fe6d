"""The table of models in the README, and all models in docs/models.md: `python -m reports.models`.

Both are made from the entries and the committed results, and never edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import zoo
from benchmarks import store
from reports.frame import frame
from reports.metrics import BY_NAME, PUBLISHED
from reports.overview import summary
from reports.tables import GAP, markdown
from zoo.published import Column, Row
from zoo.registry import entry_file
from zoo.sources import FileSource, load_yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "reports" / "results"
CARDS = "docs/models.md"
LATEST = "reports/latest/README.md"
BEGIN, END = "<!-- made by `python -m reports.models` -->", "<!-- end of the table -->"
# The columns after model, backbone and AP: their metrics and headings.
FIGURES = {
    "cpu_ms": ("latency_ms", "ms, CPU"),
    "gpu_ms": ("latency_ms", "ms, GPU"),
    "train_gb": ("train_gb", "train GB"),
    "train_gb_predicted": ("train_gb_predicted", "train GB, predicted"),
    "gflops": ("gflops", "GFLOPs"),
    "params_m": ("params_m", "params, M"),
}
BACKBONES = {
    "dla34": "DLA-34",
    "hrnet_w18": "HRNet-W18",
    "hrnet_w32": "HRNet-W32",
    "hrnet_w40": "HRNet-W40",
    "mobilenet_v2": "MobileNetV2",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "resnext101_32x8d": "ResNeXt-101 32x8d",
    "resnext101_64x4d": "ResNeXt-101 64x4d",
    "vovnet39": "VoVNet-39",
    "vovnet57": "VoVNet-57",
    "vovnet75": "VoVNet-75",
    "vovnet93": "VoVNet-93",
    "vovnet99": "VoVNet-99",
}
INTRO = """\
# All models

The most accurate models come first, and each name leads to its card.
[Which model for which budget](../reports/latest/README.md) lists the best models for a budget of
latency or memory. `python -m reports.models` makes this page from the entries and the committed
results."""
CARDS_INTRO = """\
## Cards

What is known of each model, as `fcos-zoo info NAME` shows it together with every setting."""


def models() -> pd.DataFrame:
    """Return a row per model with its measured figures, the most accurate first.

    Columns: `entry`, `backbone`, `ap` as published, `weights` (their license), and the columns of
        `FIGURES` that have figures. `attrs["machines"]` names the machines of `cpu_ms` and
        `gpu_ms`.
    """
    table = pd.DataFrame(
        {
            "entry": zoo.names(),
            "backbone": [backbone(name) for name in zoo.names()],
            "ap": pd.to_numeric([zoo.card(name).published.get("ap") for name in zoo.names()]),
            "weights": [weights(zoo.card(name)) for name in zoo.names()],
        }
    )
    measured = frame(store.newest(store.read(sorted(RESULTS.glob("*.jsonl")))))
    measured = measured[measured["as_published"]]
    machines = {}
    for machine, own in measured.groupby("machine", sort=False):
        ms = "gpu_ms" if (own["device"] != "cpu").any() else "cpu_ms"
        figures = summary(own).set_index("entry").rename(columns={"latency_ms": ms})
        new = figures.columns.intersection(list(FIGURES)).difference(table.columns)
        if ms in new:
            machines[ms] = str(machine)
        table = table.join(figures[new], on="entry")
    table.attrs["machines"] = machines
    return table.sort_values("ap", ascending=False, kind="stable", ignore_index=True)


def backbone(name: str) -> str:
    """Return the backbone of an entry in words, including deformable convolutions."""
    chosen = zoo.card(name).backbone
    own = load_yaml(entry_file(name)).get("backbone") or {}
    return BACKBONES.get(chosen, chosen) + ", deformable" * bool(own.get("deformable"))


def weights(card: zoo.Card) -> str:
    """Return the license of the published weights in short, and whether they are available."""
    terms = card.license.replace("BSD-2-Clause for academic use", "academic use").split(";")[0]
    return terms + ("" if card.live else ", link dead" if card.weights else ", never published")


def rows(table: pd.DataFrame, page: str = "") -> str:
    """Return the table in Markdown; names are links to their cards on `page`."""
    cells = pd.DataFrame({"model": [f"[{name}]({page}#{name.lower()})" for name in table["entry"]]})
    cells["backbone"] = table["backbone"].to_numpy()
    for name, (metric, heading) in {"ap": ("ap", "AP"), **FIGURES}.items():
        if name in table:
            cells[heading] = [_text(metric, value) for value in table[name]]
    cells["license of the weights"] = table["weights"].to_numpy()
    return markdown(cells)


def conditions(table: pd.DataFrame, latest: str) -> str:
    """Explain the columns, and name the machines on which the times were measured.

    Args:
        latest: the path of the page with the noise of the times.
    """
    machines = table.attrs["machines"].items()
    timed = "; ".join(f"{FIGURES[name][1]}: {machine}" for name, machine in machines)
    own = ", `FCOS_shapes_tiny` with its own" if "FCOS_shapes_tiny" in set(table["entry"]) else ""
    return f"""\
AP is the published one on val2017 or minival. Times were measured here ({timed}), in fp32, for
one image of the published test size, from the decoded image to its boxes, with random weights{own};
[which model for which budget]({latest}) states their noise. GFLOPs are of one image of that size,
training memory is that of a step of 2 images in fp32. *Academic use* means that the authors grant
commercial use on request."""


def readme_table(table: pd.DataFrame) -> str:
    """Return the most accurate model of each backbone among those with downloadable weights."""
    live = [zoo.card(name).live for name in table["entry"]]
    known = table[live].dropna(subset=["ap"]).drop_duplicates("backbone")
    known.attrs = table.attrs
    return f"{rows(known, CARDS)}\n\n{conditions(known, LATEST)}"


def page(table: pd.DataFrame) -> str:
    """Return docs/models.md: all models, and a card for each."""
    cards = "\n\n".join(card(zoo.card(name)) for name in zoo.names())
    return (
        "\n\n".join([INTRO, rows(table), conditions(table, f"../{LATEST}"), CARDS_INTRO, cards])
        + "\n"
    )


def card(facts: zoo.Card) -> str:
    """Return the facts of a model in Markdown."""
    own = f"configs/entry/{facts.name}.yaml"
    origin = f" Published as `{facts.source}` of <{facts.repository}>." if facts.tables else ""
    lines = [
        f"### {facts.name}\n",
        f"Backbone: {backbone(facts.name)}. Entry: [`{own}`](../{own}).{origin}\n",
    ]
    for table, row in facts.tables:
        columns = [
            column
            for column in table.columns
            if column.key != "printed" and column.unit != "url" and row[column.key] is not None
        ]
        date = f", {table.source.date}" if table.source.date else ""
        lines.append(f"- [{table.title}{date}]({table.source.url}): {_cells(columns, row)}")
    lines.append(f"- License of the weights: {facts.license}")
    lines += [f"- {_source(place)}" for place in facts.weights]
    return "\n".join(lines)


def _cells(columns: Sequence[Column], row: Row) -> str:
    """Return the printed cells of a row, joined by heading, with only the last value of a curve."""
    cells: dict[str, list[str]] = {}
    for column in columns:
        value, heading = row[column.key], column.heading
        if isinstance(value, list):
            heading = f"{heading} of epoch {len(value)}"
            value = value[-1]
        if len(heading) > 30 and column.key in PUBLISHED:  # a line of COCO's summary
            heading = BY_NAME[PUBLISHED[column.key].metric].heading
        text = column.text(value) + (" s" if column.unit == "s" else "")
        cells.setdefault(heading, []).append(text)
    return ", ".join(f"{heading} {' / '.join(texts)}" for heading, texts in cells.items())


def _source(place: FileSource) -> str:
    """Return the address of a file, with its size and hash if known."""
    address = "part of the package" if place.url.startswith("/") else f"`{place.url}`"
    size = f"{place.size:,} bytes" if place.size else ""
    cut = "…" if len(place.digest or "") < 64 else ""
    digest = f"SHA-256 `{place.digest}{cut}`" if place.digest else ""
    known = [fact for fact in (address, size, digest, place.note) if fact]
    return ("Weights, dead link: " if place.dead else "Weights: ") + ", ".join(known)


def _text(metric: str, value: float) -> str:
    """Return a figure as other tables print it; times of over 100 ms in whole milliseconds."""
    if pd.isna(value):
        return GAP
    return f"{value:.0f}" if metric == "latency_ms" and value > 100 else BY_NAME[metric].text(value)


def write(root: Path = ROOT) -> None:
    """Renew the table of the README, and docs/models.md."""
    table = models()
    readme = root / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    renewed = f"{before}{BEGIN}\n\n{readme_table(table)}\n\n{END}{after}"
    readme.write_text(renewed, encoding="utf-8")
    (root / CARDS).parent.mkdir(exist_ok=True)
    (root / CARDS).write_text(page(table), encoding="utf-8")


if __name__ == "__main__":
    write()
