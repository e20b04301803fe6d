from __future__ import annotations

from pathlib import Path

import pytest

import zoo
from zoo import published

# How many rows each page prints, counted by hand.
ROWS = {
    "adelaidet": 6,
    "adelaidet_early": 6,
    "adelaidet_iou": 5,
    "adelaidet_rt": 3,
    "adelaidet_rt_bn": 3,
    "adelaidet_rt_bn_early": 3,
    "adelaidet_rt_early": 3,
    "adelaidet_vovnet": 9,
    "fcos_early": 3,
    "fcos_imprv": 8,
    "fcos_mobilenet": 3,
    "fcos_original": 4,
    "hrnet": 12,
    "hrnet_backbone_gflops": 13,
    "openmmlab_fcos": 7,
    "openmmlab_hrnet": 7,
    "torchvision": 1,
    "vovnet": 6,
    "vovnet_imagenet": 4,
    "xytpai": 1,
    "xytpai_coco": 1,
    "xytpai_coco_early": 1,
    "xytpai_curves": 1,
    "xytpai_curves_early": 1,
    "xytpai_curves_voc": 1,
    "xytpai_early": 1,
}

# Tables that also hold rows that are not detectors of the zoo.
BESIDE = {"adelaidet_vovnet", "vovnet_imagenet", "xytpai", "xytpai_coco", "xytpai_curves"}
BESIDE |= {"xytpai_curves_voc"}

UNPUBLISHED = {"FCOS_shapes_tiny", "FCOS_V_75_FPN_2x"}  # the latter only as a config


def table(name: str) -> published.Table:
    return next(table for table in published.tables() if table.id == name)


def column(name: str, key: str) -> list[published.Cell]:
    return [row[key] for row in table(name).rows]


def test_every_table_has_the_rows_its_page_prints() -> None:
    assert {table.id: len(table.rows) for table in published.tables()} == ROWS


def test_every_row_has_a_cell_of_each_column() -> None:
    """YAML reads an unquoted Yes as a boolean and an unquoted date as a date: both are quoted."""
    for table in published.tables():
        for row in table.rows:
            assert row.cells.keys() == {"printed", *(column.key for column in table.columns)}
            assert row.links.keys() <= row.cells.keys()
            for cell in row.cells.values():
                for value in cell if isinstance(cell, list) else [cell]:
                    assert isinstance(value, float | int | str | None)
                    assert not isinstance(value, bool)


def test_every_entry_of_the_zoo_is_published_and_no_other() -> None:
    named = {table.id: {row.entry for row in table.rows} for table in published.tables()}
    assert {name for name, entries in named.items() if None in entries} == BESIDE
    assert set().union(*named.values()) - {None} == {*zoo.names()} - UNPUBLISHED


@pytest.mark.parametrize(
    ("name", "entry", "cells"),
    [
        ("adelaidet", "FCOS_R_50_1x", {"fps": 16, "ap": 38.7, "ap_test_dev": 38.8}),
        ("adelaidet", "FCOS_MS_X_101_32x8d_dcnv2_2x", {"fps": 4.6, "ap": 46.6}),
        ("adelaidet_rt", "FCOS_RT_MS_DLA_34_4x_shtw", {"fps": 52, "ap": 39.1, "ap_test_dev": 39.2}),
        ("adelaidet_vovnet", "FCOS_MS_V_99_3x", {"time_s": 0.070, "ap": 45.2, "ap_large": 57.3}),
        ("fcos_original", "FCOS_R_50_FPN_1x", {"time_ms": 45, "ap": 37.1, "ap_test_dev": 37.4}),
        ("openmmlab_fcos", "FCOS_MM_R_50_1x", {"fps": 22.7, "training_memory_per_gpu_gb": 3.6}),
        ("torchvision", "FCOS_TV_R_50", {"params_m": 32.27, "gflops": 128.2, "ap": 39.2}),
        ("vovnet", "FCOS_V_93_FPN_2x", {"time_ms": 113, "ap": 42.1, "ap_small": 26.2}),
        ("vovnet", "FCOS_X_101_32x8d_FPN_2x", {"time_ms": 171, "ap": 42.5, "link": None}),
        ("xytpai", None, {"ap_paper": 36.6, "ap_official": 38.7, "ap": 37.3}),
        ("xytpai_coco", None, {"ap": 0.373, "ap_75": 0.398, "ar_large": 0.639}),
        ("xytpai_coco_early", "FCOS_R_50_noctr_2x", {"ap_50": 0.554, "ar_1": 0.302}),
    ],
)
def test_cells_are_the_page_s(
    name: str, entry: str | None, cells: dict[str, published.Cell]
) -> None:
    (row,) = [row for row in table(name).rows if row.entry == entry]
    assert {key: row[key] for key in cells} == cells


@pytest.mark.parametrize(
    ("name", "epochs", "last"),
    [
        ("xytpai_curves", 24, (0.37, 0.5511, 0.3962)),
        ("xytpai_curves_early", 24, (0.3684, 0.5489, 0.3952)),
        ("xytpai_curves_voc", 30, (0.5368, 0.7732, 0.5819)),
    ],
)
def test_curves_have_a_point_an_epoch(name: str, epochs: int, last: tuple[float, ...]) -> None:
    (row,) = table(name).rows
    cells = [row["map_mean"], row["map_50"], row["map_75"]]
    curves = [cell for cell in cells if isinstance(cell, list)]
    assert [len(curve) for curve in curves] == [epochs] * 3
    assert tuple(curve[-1] for curve in curves) == last


def test_an_entry_s_rows_come_from_every_version_of_its_page() -> None:
    printed = {table.id: row["ap"] for table, row in published.rows("FCOS_R_50_FPN_1x")}
    assert printed == {"fcos_early": 36.6, "fcos_original": 37.1, "vovnet": 37.5}
    assert published.rows("no such entry") == []


def test_a_column_writes_its_cells_as_printed() -> None:
    seconds = next(c for c in table("adelaidet_vovnet").columns if c.key == "time_s")
    milliseconds = next(c for c in table("hrnet").columns if c.key == "time_ms")
    assert (seconds.text(0.12), milliseconds.text(71), milliseconds.text(None)) == (
        "0.120",
        "71ms",
        "-",
    )


def test_a_table_that_lacks_a_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("title: A page\nsystem: fcos\n")
    with pytest.raises(ValueError, match=r"bad\.yaml: KeyError\('source'\)"):
        published.read(path)
