"""The measured tables: they fit the terminal, and every gap has its reason."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from rows import COMMAND, OWN, ROWS, ap, flops, latency, memory, row

from reports import tables
from reports.frame import frame, wide
from reports.overview import summary

ENTRY = "FCOS_R_50_5l_2x"
LONG = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"


def printed(rows: list[Any], width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO())
    for part in tables.terminal(rows, width, "results.md"):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def first_row(rows: list[Any]) -> dict[str, str]:
    """The first row of the terminal's table by heading."""
    table = tables.terminal(rows, 400)[0]
    assert isinstance(table, Table)
    return {str(column.header): str(next(iter(column.cells))) for column in table.columns}


def section(rows: list[Any], title: str) -> tables.Section:
    return next(one for one in tables.sections(frame(rows)) if one.title == title)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_the_terminal_and_names_omitted_columns(width: int) -> None:
    rows = [latency(LONG, 1234.5, noise=0.2, precision=p, compiled=True) for p in ("fp32", "bf16")]
    rows += [ap(LONG), memory(LONG, 12.5, 13.5), flops(LONG, 1234.5), *ROWS]
    text = printed(rows, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert LONG in text  # no name is cut
    headings = lines[0].split()
    assert headings[:4] == ["model", "settings", "AP", "ms"]
    assert len(headings) == len(set(headings)) or width > 80
    assert "Left out for the width: " in text
    assert "results.md" in text
    assert "Left out" not in printed(rows, 400)


def test_a_narrow_terminal_shows_no_rows_of_dashes() -> None:
    table, *notes = tables.terminal([latency(ENTRY, 80), flops(LONG, 90.6)], 44, "results.md")
    assert isinstance(table, Table)
    assert [list(map(str, column.cells)) for column in table.columns] == [[ENTRY], ["80.0"]]
    assert str(notes[-1]).endswith(", and 1 row of these alone; see results.md.")


def test_long_names_and_settings_are_folded_for_the_most_important_figures() -> None:
    settings = {"precision": "bf16", "compiled": True, "layout": "contiguous", "size": (256, 427)}
    rows = [latency(LONG, 1234.5, threads=threads, **settings) for threads in (1, 16)]
    lines = printed([*rows, ap(LONG)], 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["model", "settings", "AP", "ms"]
    assert lines[1].split()[0].endswith("_")  # not within a word
    assert any("1234.5" in line for line in lines)


def test_rows_with_winograd_s_convolutions_say_so() -> None:
    lines = printed([latency(ENTRY, 80), latency(ENTRY, 70, winograd=True)]).splitlines()
    assert any("fp32 Winograd" in line and "70" in line for line in lines)


def test_a_single_row_of_settings_is_a_note_and_not_a_column() -> None:
    row = first_row([latency(ENTRY, 80.04), flops(ENTRY, 90.6)])
    assert row == {
        **{"model": ENTRY, "ms": "80.0", "GFLOPs": "181.2", "backbone GFLOPs": "90.6"},
        **{"network ms": "64.0", "postprocess ms": "8.0"},
        **{"preprocess ms": "8.0", "p90 ms": "96.0"},
    }
    assert "fp32, cpu" in printed([latency(ENTRY, 80.04)])


def test_gaps_are_listed_with_their_reason() -> None:
    rows = [latency(ENTRY, 80), row(ENTRY, "ap", reason="weights unreachable")]
    assert f"Not measured: AP of {ENTRY}: weights unreachable." in printed(rows)
    assert f"- AP of {ENTRY}: weights unreachable" in tables.page(rows)


def test_random_weights_and_other_images_are_mentioned() -> None:
    assert f"Random weights, for speed and memory only: {ENTRY}." in printed(
        [latency(ENTRY, 80, "random")]
    )
    rows = [ap(ENTRY, "coco_val_ccby", 31, size=(256, 427))]
    assert "AP on 31 images of coco_val_ccby at 256/427, not on val2017" in printed(rows)
    assert "not on val2017" not in printed([ap(ENTRY)])
    own = printed([latency(ENTRY, 80, "file"), ap(ENTRY, weights=OWN)])
    assert f"Weights from a file of the user's: {ENTRY}." in own
    exported = printed([latency("model.onnx", 40, "file", runtime="ONNX Runtime 1.32.0")])
    assert "Weights that the file was exported with: model.onnx." in exported
    assert "of the user's" not in exported


def test_noise_over_a_tenth_or_of_a_single_process_is_marked() -> None:
    assert first_row([latency(ENTRY, 80)])["ms"] == "80.0"
    assert first_row([latency(ENTRY, 80, noise=0.11)])["ms"] == "80.0 ~"
    assert first_row([latency(ENTRY, 80, processes=1)])["ms"] == "80.0 ~"


def test_the_runtime_is_a_column_if_runtimes_differ() -> None:
    exported = latency("model.onnx", 40, "file", runtime="ONNX Runtime 1.32.0")
    rows = [latency(ENTRY, 80), exported]
    assert first_row(rows)["runtime"] == "PyTorch 2.9"
    assert "runtime" not in first_row(rows[:1])
    assert "fp32, cpu, PyTorch 2.9" in printed(rows[:1])
    assert section(rows, "Latency").cells.iloc[:, :3].to_numpy().tolist() == [
        [ENTRY, "fp32", "PyTorch 2.9"],
        ["model.onnx", "fp32", "ONNX Runtime 1.32.0"],
    ]
    assert list(tables.compact(summary(frame(rows)))["runtime"])[1] == "ONNX Runtime 1.32.0"
    newer = latency(ENTRY, 70, facts={"torch": "2.10"})
    newest = section([rows[0], newer], "Latency").cells.iloc[0]
    assert list(newest[["weights", "ms"]]) == ["published", "70.0"]  # the version is in the notes


def test_each_precision_is_a_row_and_parameters_belong_to_all() -> None:
    rows = [flops(ENTRY, 90.6), latency(ENTRY, 40, precision="bf16"), latency(ENTRY, 80)]
    cells = wide(frame(rows))
    assert list(cells["settings"]) == ["fp32", "bf16"]
    assert list(cells["latency_ms"]) == [80, 40]
    assert list(cells["gflops"]) == [181.2, 181.2]
    half = row(ENTRY, "training_memory", memory(ENTRY, 1.8)["values"], precision="bf16")
    cells = wide(frame([flops(ENTRY, 90.6), memory(ENTRY, 3.06), half]))
    assert list(cells["train_gb_predicted"]) == [3.06, 1.8]


def test_the_page_names_machine_software_and_command() -> None:
    page = tables.page([flops(ENTRY, 90.6)])
    for text in ("Some CPU, 2 cores", "torch 2.9", "commit 0123456789", f"`{COMMAND}`"):
        assert text in page
    assert f"| {ENTRY} | 181.2 | 90.6 |" in page


def test_batch_sizes_and_precisions_are_columns() -> None:
    sweep = section(ROWS, "Throughput")
    assert list(sweep.cells.columns[-2:]) == ["images/s, batch 1", "images/s, batch 2"]
    cells = [ENTRY, "fp32", "published", "5.0 ~", "10.0 ~"]
    assert sweep.cells.to_numpy().tolist() == [cells]
    half = row(ENTRY, "training_memory", memory(ENTRY, 1.8)["values"], precision="bf16")
    memories = section([memory(ENTRY, 3.06), half], "Memory of training")
    predicted = {"predicted train GB, fp32": "3.06", "predicted train GB, bf16": "1.80"}
    assert memories.cells.to_dict("records") == [{"model": ENTRY, **predicted}]


def test_different_thread_counts_are_rows_of_their_own() -> None:
    rows = [latency(ENTRY, 80, threads=1), latency(ENTRY, 50, threads=2)]
    cells = wide(frame(rows))
    assert list(cells["settings"]) == ["fp32 1 thread", "fp32 2 threads"]
    assert list(cells["latency_ms"]) == [80, 50]
    default = latency(ENTRY, 50, facts={"threads": 2})
    assert list(wide(frame([rows[1], default]))["settings"]) == ["fp32"]


def test_the_rows_of_a_model_stay_together_with_the_published_size_first() -> None:
    rows = [latency(ENTRY, 8, size=(256, 427)), latency("FCOS_MS_R_101_2x", 90), latency(ENTRY, 80)]
    cells = wide(frame(rows))
    assert cells[["entry", "settings", "latency_ms"]].to_numpy().tolist() == [
        [ENTRY, "fp32", 80.0],
        [ENTRY, "fp32 256/427", 8.0],
        ["FCOS_MS_R_101_2x", "fp32", 90.0],
    ]


def test_times_of_a_throttled_gpu_are_not_valid() -> None:
    slowed = latency(ENTRY, 80, throttled=True)
    swept = row(ENTRY, "throughput", {**slowed["values"], "images_per_second": 12.5})
    for rows in ([slowed], [swept]):
        text = printed(rows)
        assert "The GPU was throttled during the measurement: not a valid time" in text


def test_markup_in_a_name_is_text() -> None:
    assert "[bold]" in printed([latency("mine:[bold]", 10)])


def test_errors_and_calibration_have_a_table_of_their_own() -> None:
    values = {
        "tide": {"cls": 0.0533, "loc": "many"},  # of another type: left out
        "bootstrap": {"low": 0.36, "high": 0.38, "ap": [0.36, 0.38]},
        "oce": 0.41,
    }
    rows = [ap(ENTRY, values=values)]
    shown = section(rows, "AP: interval, errors, calibration")
    cells = shown.cells.iloc[0]
    assert cells["AP from"] == "36.0"
    assert cells["dAP class"] == "5.3"
    assert cells["OCE"] == "0.41"
    assert "dAP location" not in cells
    assert "AP from" not in printed(rows)  # the terminal has the main figures only


def test_few_models_with_many_figures_have_a_row_per_figure_with_its_meaning() -> None:
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs")
    shown = section([ap(ENTRY, values=dict.fromkeys(keys, 0.5))], "AP")
    assert list(shown.cells.columns) == ["figure", f"{ENTRY} fp32 published", "meaning"]
    assert shown.cells.iloc[1].to_list() == ["AP50", "50.0", "AP at IoU 0.50"]


def test_the_noise_of_a_time_and_the_ap_in_noise_are_two_columns() -> None:
    values = {"corrupted": {"noise": [0.3, 0.2, 0.1]}, "mean": 0.2, "split": "val2017"}
    rows = [latency(ENTRY, 80, noise=0.05), row(ENTRY, "robustness", values)]
    figures = tables.compact(summary(frame(rows)), every=True).iloc[0]
    assert (figures["noise"], figures["AP noise"]) == ("5%", "20.0")


def test_robustness_has_the_mean_of_each_corruption() -> None:
    values = {"corrupted": {"blur": [0.3, 0.2, 0.1]}, "mean": 0.2, "relative": 0.5}
    robust = row(ENTRY, "robustness", {**values, "split": "val2017", "images": 5000})
    shown = section([robust], "Robustness")
    cells = shown.cells.iloc[0]
    names = ("AP corrupted", "of AP", "AP blur")
    assert [cells[name] for name in names] == ["20.0", "50.0", "20.0"]
