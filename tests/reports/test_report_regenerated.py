"""The published tables again: row for row, with measurement and ratio beside each figure."""

from __future__ import annotations

import pytest
from rows import OWN, ap, flops, latency, memory, row

from reports import regenerated
from reports.lines import lines
from zoo import published

TABLE = published.read(published.DIRECTORY / "hrnet_backbone_gflops.yaml")
ENTRY = "FCOS_R_50_5l_2x"


def table_line(rows: list, entry: str = ENTRY, table: published.Table = TABLE) -> list[str]:
    found = {line.entry: line for line in lines(rows)}
    index = next(i for i, row in enumerate(table.rows) if row.entry == entry)
    return regenerated.regenerate(table, found, "here").cells[index]


def test_every_figure_has_its_measurement_and_ratio() -> None:
    rows = [flops(ENTRY, 90.61), latency(ENTRY, 142.0), ap(ENTRY), memory(ENTRY, 3.0, 3.6)]
    assert table_line(rows) == [
        *(ENTRY, "29.3", "28.8", "0.983", "No", "No", "71ms", "142.0", "2.000"),
        *("90.6", "90.6", "1.000", "37.1", "37.1", "1.000", "-"),
    ]


def test_predictions_and_random_weights_are_marked() -> None:
    line = table_line([latency(ENTRY, 71.0, "random"), memory(ENTRY, 3.0)])
    assert line[2] == "24.0 [1]"
    assert line[7] == "71.0 [2]"


@pytest.mark.parametrize("table", published.tables(), ids=lambda table: table.id)
def test_all_tables_come_out_row_for_row_with_footnotes_when_nothing_was_measured(
    table: published.Table,
) -> None:
    again = regenerated.regenerate(table, {}, "nowhere")
    assert len(again.cells) == len(table.rows)
    for cells, printed in zip(again.cells, table.rows, strict=True):
        assert len(cells) == len(again.headings)
        for column in table.columns:
            cell = printed[column.key]
            if column.unit != "url" and not isinstance(cell, list):
                assert column.text(cell) in cells
    for footnote in table.footnotes:
        assert f"> {footnote}" in again.markdown()
    assert table.measured_on.gpu in again.markdown()
    assert len(again.csv().splitlines()) >= 1 + len(table.rows)


def test_an_ap_on_other_images_is_not_held_against_the_published_one() -> None:
    found = {line.entry: line for line in lines([ap(ENTRY, "coco_val_ccby", 31)])}
    assert "measured on coco_val_ccby alone" in regenerated.regenerate(TABLE, found, "here").notes


def test_other_sizes_and_precisions_do_not_stand_in_for_the_published_ones() -> None:
    rows = [latency(ENTRY, 9.0, size=(256, 427)), latency(ENTRY, 9.0, precision="bf16")]
    assert "9.0" not in regenerated.page(rows, [TABLE])
    [again] = regenerated.all_tables([flops(ENTRY, 90.61), *rows], [TABLE])
    assert again.cells[0][9] == "90.6"


def test_reasons_reach_the_table() -> None:
    rows = [latency(ENTRY, 71.0), row(ENTRY, "ap", reason="weights unreachable")]
    assert "weights unreachable" in regenerated.page(rows, [TABLE])


def test_units_are_those_of_the_table() -> None:
    tables = published.tables()
    mmdet = next(t for t in tables if any(c.key == "training_memory_per_gpu_gb" for c in t.columns))
    entry = next(r.entry for r in mmdet.rows if r.entry)
    line = table_line([memory(entry, 3.0)], entry, mmdet)
    assert any(cell.startswith("3.0") for cell in line)
    seconds = next((c for t in tables for c in t.columns if c.key == "time_s"), None)
    assert seconds is None or regenerated.MEASURES["time_s"].figure({"median": 70.0}) == 0.07
    assert regenerated.MEASURES["fps"].figure({"median": 20.0}) == 50.0


def test_a_later_run_on_few_images_does_not_hide_the_ap_of_val2017() -> None:
    rows = [ap(ENTRY), ap(ENTRY, "2 images of val2017", 2, limit=2)]
    for order in (rows, rows[::-1]):
        [again] = regenerated.all_tables(order, [TABLE])
        assert again.cells[0][13:15] == ["37.1", "1.000"]


def test_threads_and_weights_do_not_hide_each_other_s_figures() -> None:
    rows = [latency(ENTRY, 71.0), ap(ENTRY, threads=1), latency(ENTRY, 142.0, threads=2)]
    [again] = regenerated.all_tables([*rows, latency(ENTRY, 9.0, "random")], [TABLE])
    assert (again.cells[0][7], again.cells[0][13]) == ("142.0", "37.1")


def test_a_user_s_own_weights_get_no_ratio() -> None:
    own = [latency(ENTRY, 71.0, "file"), ap(ENTRY, weights=OWN)]
    [again] = regenerated.all_tables(own, [TABLE])
    assert again.notes[-1] == "measured with weights of a file of the user's alone"
    assert again.cells[0][7:9] == again.cells[0][13:15]
    assert again.cells[0][8] == "-"
    [again] = regenerated.all_tables([ap(ENTRY), *own], [TABLE])
    assert again.cells[0][14] == "1.000"


def test_a_time_that_is_in_doubt_says_so_as_the_measured_table_does() -> None:
    [again] = regenerated.all_tables([latency(ENTRY, 71.0, throttled=True)], [TABLE])
    assert "the GPU was throttled meanwhile: not a valid time" in again.notes
    [again] = regenerated.all_tables([latency(ENTRY, 71.0, "random", noise=0.2)], [TABLE])
    assert "random weights; noise over 10% or not known" in again.notes
