"""The measured table: every figure in its place, every gap with its reason."""

from __future__ import annotations

from rows import OWN, ap, flops, latency, memory, row

from reports import tables
from reports.lines import lines

ENTRY = "FCOS_R_50_5l_2x"


def cells(rows: list) -> tuple[dict[str, str], list[str]]:
    """The first line by heading; a published figure under the heading before it."""
    headings, texts, notes = tables.grid(rows)
    named: dict[str, str] = {}
    for before, heading, text in zip(["", *headings], headings, texts[0], strict=False):
        named[f"{before} published" if heading == "published" else heading] = text
    return named, notes


def test_measured_and_published_stand_side_by_side() -> None:
    named, notes = cells([flops(ENTRY, 90.61), latency(ENTRY, 80.04), ap(ENTRY)])
    assert named["entry"] == ENTRY
    assert (named["of backbone"], named["of backbone published"]) == ("90.6", "90.6")
    assert (named["ms"], named["ms published"]) == ("80.0", "71")
    assert (named["AP"], named["AP published"]) == ("37.1 [1]", "37.1")
    assert notes == ["AP on the 5,000 images of val2017, as published"]


def test_a_gap_is_a_dash_with_its_reason() -> None:
    named, notes = cells([latency(ENTRY, 80), row(ENTRY, "ap", reason="weights unreachable")])
    assert named["AP"] == "- [2]" if notes[0].startswith("random") else "- [1]"
    assert "weights unreachable" in notes


def test_random_weights_and_a_small_set_are_told() -> None:
    rows = [latency(ENTRY, 80, "random"), row(ENTRY, "ap", reason="none")]
    assert "random weights: speed and memory only" in cells(rows)[1]
    _, notes = cells([ap(ENTRY, "coco_val_ccby", 31, size=(256, 427))])
    assert notes == ["AP on 31 images of coco_val_ccby at 256/427, not on val2017 as published"]


def test_a_part_of_val2017_is_told_once() -> None:
    _, notes = cells([ap(ENTRY, "2 images of val2017", 2, limit=2)])
    assert notes == ["AP on 2 images of val2017, not on val2017 as published"]


def test_noise_over_a_tenth_or_of_a_single_process_is_marked() -> None:
    assert cells([latency(ENTRY, 80)])[0]["ms"] == "80.0"
    assert cells([latency(ENTRY, 80, noise=0.11)])[0]["ms"] == "80.0 ~"
    assert cells([latency(ENTRY, 80, processes=1)])[0]["ms"] == "80.0 ~"


def test_each_precision_is_a_line_and_parameters_belong_to_all() -> None:
    rows = [flops(ENTRY, 90.6), latency(ENTRY, 80), latency(ENTRY, 40, precision="bf16")]
    _, lines, _ = tables.grid(rows)
    assert [line[1] for line in lines] == ["fp32", "bf16"]
    assert lines[0][2:4] == lines[1][2:4]


def test_training_memory_has_a_line_a_precision_where_nothing_else_was_run() -> None:
    half = row(ENTRY, "training_memory", memory(ENTRY, 1.8)["values"], precision="bf16")
    headings, lines, _ = tables.grid([flops(ENTRY, 90.6), memory(ENTRY, 3.06), half])
    assert [line[headings.index("train GB")] for line in lines] == ["3.06 [1]", "1.80 [1]"]
    assert [line[headings.index("GFLOPs")] for line in lines] == ["181.2", "181.2"]


def test_what_was_predicted_says_so_and_gives_way_to_what_was_measured() -> None:
    named, notes = cells([memory(ENTRY, 3.06)])
    assert named["train GB"] == "3.06 [1]"
    assert notes == ["predicted, not measured"]
    assert cells([memory(ENTRY, 3.06, 3.21)])[0]["train GB"] == "3.21"


def test_an_entry_that_nobody_published_has_no_published_figures() -> None:
    named, _ = cells([latency("mine:detector", 10)])
    assert named["ms published"] == "-"


def test_the_page_names_machine_software_and_command() -> None:
    page = tables.page([flops(ENTRY, 90.6)])
    for text in ("Some CPU, 2 cores", "torch 2.9", "commit 0123456789", "`fcos-zoo bench`"):
        assert text in page
    assert f"| {ENTRY} |" in page


def test_threads_that_differ_make_lines_of_their_own() -> None:
    rows = [latency(ENTRY, 80, threads=1), latency(ENTRY, 50, threads=2)]
    _, lines, _ = tables.grid(rows)
    assert [line[1:3] for line in lines] == [["fp32 1 thread", "80.0"], ["fp32 2 threads", "50.0"]]
    own_choice = {**latency(ENTRY, 50), "environment": {**rows[0]["environment"], "threads": 2}}
    _, lines, _ = tables.grid([rows[1], own_choice])
    assert [line[1] for line in lines] == ["fp32"]


def test_a_size_that_is_not_the_published_one_is_told_and_an_entry_s_lines_stay_together() -> None:
    rows = [latency(ENTRY, 8, size=(256, 427)), latency("FCOS_MS_R_101_2x", 90), latency(ENTRY, 80)]
    _, lines, _ = tables.grid(rows)
    assert [line[:3] for line in lines] == [
        [ENTRY, "fp32", "80.0"],
        [ENTRY, "fp32 256/427", "8.0"],
        ["FCOS_MS_R_101_2x", "fp32", "90.0"],
    ]


def test_a_user_s_own_weights_are_told_and_are_not_as_published() -> None:
    named, notes = cells([latency(ENTRY, 80, "file"), ap(ENTRY, weights=OWN)])
    assert named["entry"] == f"{ENTRY} [1]"
    assert notes == ["weights of a file of the user's", "AP on the 5,000 images of val2017"]


def test_times_of_a_throttled_gpu_are_not_valid_nor_are_its_images_a_second() -> None:
    slowed = latency(ENTRY, 80, noise=0.2, throttled=True)
    swept = row(ENTRY, "throughput", {**slowed["values"], "images_per_second": 12.5})
    for rows, heading, text in (
        ([slowed], "ms", "80.0 ~ [1]"),
        ([swept], "images/s", "12.5 ~ [1]"),
    ):
        named, notes = cells(rows)
        assert named[heading] == text
        assert notes == ["the GPU was throttled meanwhile: not a valid time"]


def test_a_time_over_more_images_stands_before_one_over_fewer() -> None:
    many, few = latency("FCOS_R_50_1x", 50.0), latency("FCOS_R_50_1x", 40.0, limit=2)
    many["values"]["images"] = 100
    for rows in ([many, few], [few, many]):
        [line] = lines(rows)
        assert line.results["latency"] is many
