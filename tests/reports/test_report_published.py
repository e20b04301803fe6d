"""The published tables again: row for row, with the measurement and the ratio of each figure."""

from __future__ import annotations

from typing import Any

import pytest
from rows import OWN, ap, flops, latency, memory, row

from reports import published
from reports.frame import frame
from reports.metrics import PUBLISHED
from zoo.published import DIRECTORY, Table, read, tables

TABLE = read(DIRECTORY / "hrnet_backbone_gflops.yaml")
ADELAIDET = read(DIRECTORY / "adelaidet.yaml")
ENTRY = "FCOS_R_50_5l_2x"
GPU = {"gpu": "NVIDIA GeForce GTX 1080 Ti", "cuda": "12.8", "cudnn": 9, "driver": "570"}


def cells(rows: list[Any], entry: str = ENTRY, table: Table = TABLE) -> dict[str, str]:
    """The row of an entry by heading."""
    [comparison] = published.compare_all(rows, [table])
    index = next(i for i, row in enumerate(table.rows) if row.entry == entry)
    return dict(comparison.cells.iloc[index])


def notes(rows: list[Any], table: Table = TABLE) -> list[str]:
    [comparison] = published.compare_all(rows, [table])
    return [*comparison.notes, *comparison.remarks]


def test_every_figure_has_its_measurement_and_ratio() -> None:
    rows = [flops(ENTRY, 90.61), latency(ENTRY, 142.0), ap(ENTRY), memory(ENTRY, 3.0, 3.6)]
    texts = cells(rows)
    for heading, printed, measured, ratio in (
        ("Training mem (GB)", "29.3", "28.8", "0.983"),
        ("Backbone GFLOPs", "90.6", "90.6", "1.000"),
        ("AP (minival)", "37.1", "37.1", "1.000"),
    ):
        assert texts[heading] == printed
        assert texts[f"{heading}: measured"] == measured
        assert texts[f"{heading}: ratio"] == ratio


def test_speeds_have_a_ratio_only_on_the_hardware_of_the_table() -> None:
    here = cells([latency("FCOS_R_50_1x", 31.25)], "FCOS_R_50_1x", ADELAIDET)
    assert (here["inf. time"], here["inf. time: measured"]) == ("16 FPS", "32.0 FPS")
    assert "inf. time: ratio" not in here
    there = cells([latency("FCOS_R_50_1x", 31.25, facts=GPU)], "FCOS_R_50_1x", ADELAIDET)
    assert there["inf. time: ratio"] == "2.000"


def test_predictions_and_random_weights_are_marked() -> None:
    rows = [latency(ENTRY, 71.0, "random"), memory(ENTRY, 3.0)]
    texts = cells(rows)
    assert texts["Training mem (GB): measured"] == "24.0 [1]"
    assert texts["Testing time / im: measured"] == "71.0ms [2]"
    assert notes(rows)[:2] == ["predicted, not measured", "random weights"]


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.id)
def test_all_tables_come_out_row_for_row_with_footnotes_when_nothing_was_measured(
    table: Table,
) -> None:
    again = published.compare(table, frame([]), "nowhere")
    curve = table.rows[0].cells.get("map_mean")
    assert len(again.cells) == (len(curve) if isinstance(curve, list) else len(table.rows))
    for texts, printed in zip(again.cells.to_numpy(), table.rows, strict=not curve):
        for column in table.columns:
            cell = printed[column.key]
            if column.unit != "url" and not isinstance(cell, list):
                assert column.text(cell) in texts
    for footnote in table.footnotes:
        assert f"> {footnote}" in again.markdown()
    assert not again.hardware or table.measured_on.gpu in again.markdown()
    assert len(again.csv().splitlines()) >= 1 + len(table.rows)


def test_columns_have_different_headings_and_a_single_row_of_many_is_upright() -> None:
    found = {table.id: published.compare(table, frame([]), "nowhere") for table in tables()}
    for comparison in found.values():
        assert comparison.cells.columns.is_unique
    assert list(found["xytpai_coco"].shown.columns) == ["figure", "value"]
    assert list(found["xytpai_curves"].shown["epoch"][:2]) == ["1", "2"]


def test_other_sizes_and_precisions_do_not_replace_the_published_ones() -> None:
    rows = [latency(ENTRY, 9.0, size=(256, 427)), latency(ENTRY, 9.0, precision="bf16")]
    assert "9.0" not in published.page(rows, [TABLE])
    assert cells([flops(ENTRY, 90.61), *rows])["Backbone GFLOPs: measured"] == "90.6"


def test_figures_have_the_units_of_the_published_table() -> None:
    mmdet = next(
        t for t in tables() if any(c.key == "training_memory_per_gpu_gb" for c in t.columns)
    )
    entry = next(r.entry for r in mmdet.rows if r.entry)
    assert cells([memory(entry, 3.0)], entry, mmdet)["Mem (GB): measured"].startswith("3.0")
    assert PUBLISHED["time_s"].published(70.0) == pytest.approx(0.07)
    assert PUBLISHED["fps"].published(50.0) == 20.0
    for column in PUBLISHED.values():
        assert column.measured(column.published(12.5)) == pytest.approx(12.5)


def test_a_later_run_on_few_images_does_not_hide_the_ap_of_val2017() -> None:
    rows = [ap(ENTRY), ap(ENTRY, "2 images of val2017", 2, limit=2)]
    for order in (rows, rows[::-1]):
        assert cells(order)["AP (minival): ratio"] == "1.000"


def test_figures_of_other_threads_and_weights_do_not_hide_each_other() -> None:
    rows = [latency(ENTRY, 71.0), ap(ENTRY, threads=1), latency(ENTRY, 142.0, threads=2)]
    texts = cells([*rows, latency(ENTRY, 9.0, "random")])
    assert (texts["Testing time / im: measured"], texts["AP (minival): measured"]) == (
        *("142.0ms", "37.1"),
    )


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([ap(ENTRY, "coco_val_ccby", 31)], "on 31 images of coco_val_ccby"),
        ([latency(ENTRY, 71.0, "file"), ap(ENTRY, weights=OWN)], "a file of the user's"),
        (
            [row(ENTRY, "ap", reason="unreachable")],
            "AP (minival) not measured: unreachable; not measured",
        ),
        ([latency(ENTRY, 71.0, throttled=True)], "the GPU was throttled during the measurement"),
        (
            [latency(ENTRY, 71.0, "random", noise=0.2)],
            "random weights; noise over 10% or not known",
        ),
    ],
)
def test_figures_that_cannot_be_compared_are_noted(rows: list[Any], note: str) -> None:
    assert any(note in text for text in notes(rows))
    assert "AP (minival): measured" not in cells(rows)
    assert cells([ap(ENTRY), *rows])["AP (minival): ratio"] == "1.000"


def test_a_table_of_many_columns_shows_measured_figures_below_the_published_ones() -> None:
    [comparison] = published.compare_all([flops(ENTRY, 90.61), ap(ENTRY)], [TABLE])
    assert "90.6<br>90.6<br>" in comparison.markdown()
    assert "Backbone GFLOPs: ratio" in comparison.csv()


def test_a_bar_in_a_heading_does_not_end_its_cell() -> None:
    comparison = published.compare(read(DIRECTORY / "xytpai_coco.yaml"), frame([]), "nowhere")
    assert r"| Average Precision (AP) @[ IoU=0.50:0.95 \| area= all \|" in comparison.markdown()
