"""`fcos-zoo report curves`: AP and losses of training runs, as plots and as text."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.cocoeval import COCOeval

from fcos.coco_eval import FIGURES
from reports import curves
from tools.cli import main

Capture = pytest.CaptureFixture[str]


def run(folder: Path, aps: list[float | None], losses: int = 4) -> Path:
    """A training run with one evaluation an epoch."""
    records = [
        {"iteration": i, "epoch": i / 2, "loss": 2 / i, "loss_cls": 1 / i, "loss_box": 1 / i}
        for i in range(1, losses + 1)
    ]
    records += [
        {"iteration": 2 * i, "epoch": i, **dict.fromkeys(FIGURES, 0.125), "AP": ap, "APl": None}
        for i, ap in enumerate(aps, 1)
    ]
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def test_the_summary_is_that_of_pycocotools() -> None:
    stats = np.linspace(0.1234, 0.9, 12)
    stats[5] = -1
    evaluation = COCOeval(iouType="bbox")
    evaluation.eval = {"precision": np.zeros((10, 101, 1, 4, 3)), "recall": np.zeros((10, 1, 4, 3))}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        evaluation.summarize()
    theirs = [line.rsplit("=", 1)[0] for line in printed.getvalue().splitlines()]
    figures = pd.Series(dict(zip(FIGURES, stats, strict=True))).replace(-1, np.nan)
    ours = curves.summary(figures).splitlines()
    assert [line.rsplit("=", 1)[0] for line in ours] == theirs
    assert [line.rsplit("= ", 1)[1] for line in ours] == [f"{value:0.3f}" for value in stats]


def test_the_table_and_summaries_of_the_last_and_the_best(tmp_path: Path) -> None:
    text = curves.text(curves.load(run(tmp_path / "mine", [0.13454, 0.5, 0.25])))
    heading, columns, first = text.splitlines()[:3]
    assert heading == "mine: 3 evaluations"
    assert columns.split() == ["iteration", "epoch", "AP", "AP50", "AP75"]
    assert first.split()[:3] == ["2", "1.00", "13.5"]
    last, best = text.split("last, ")[1].split("best, ")
    assert last.startswith("epoch 3.00, iteration 6\n")
    assert "maxDets=100 ] = 0.250" in last
    assert best.startswith("epoch 2.00, iteration 4\n")
    assert "maxDets=100 ] = 0.500" in best
    assert "area= large | maxDets=100 ] = -1.000" in best

    text = curves.text(curves.load(run(tmp_path / "another", [None, 0.5])))
    assert text.splitlines()[2].split()[:3] == ["2", "1.00", "-"]
    assert "best and last, epoch 2.00" in text
    assert text.count("(AR)") == 6


def test_a_run_is_drawn_beside_its_records(tmp_path: Path, capsys: Capture) -> None:
    folder = run(tmp_path / "mine", [0.1, 0.2])
    assert main(["report", "curves", str(folder)]) == 0
    assert " AP75\n" in capsys.readouterr().out
    with Image.open(folder / "curves.png") as picture:
        assert picture.width > 800
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    drawn = {colour for _, colour in colours}
    assert {(0x56, 0xB4, 0xE9), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73)} <= drawn


def test_several_runs_are_compared_under_names_of_their_own(
    tmp_path: Path, capsys: Capture
) -> None:
    runs = [
        run(tmp_path / "a" / "0", [0.1]),
        run(tmp_path / "b" / "0", []),
        run(tmp_path / "c", [0.3]),
    ]
    out = tmp_path / "both.svg"
    assert main(["report", "curves", *map(str, runs), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{runs[1]}: no evaluation yet" in printed
    picture = out.read_text()
    assert all(name in picture for name in (str(runs[0]), str(runs[1]), ">c<", "AP50 dashed"))
    assert curves.load(runs[0]).name == "0"
    curves.save(curves.draw(curves.load_all(runs)), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == picture


def test_a_run_that_was_never_evaluated_shows_its_losses(tmp_path: Path) -> None:
    (axes,) = curves.draw([curves.load(run(tmp_path / "mine", []))]).axes
    assert [line.get_label() for line in axes.get_lines()] == ["loss", "loss_cls", "loss_box"]
    assert list(axes.get_lines()[0].get_ydata()) == [2, 1, 2 / 3, 0.5]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, [], "metrics.jsonl has no records: is"),
        ('{"images": []}\n', [], "has no records"),
        ('{"iteration": 1, "epoch": 1, "loss": 1}\n', ["--out", "a.pdf"], "ends in .png or .svg"),
    ],
)
def test_a_folder_that_is_no_run_gives_a_one_line_error(
    tmp_path: Path, capsys: Capture, content: str | None, arguments: list[str], message: str
) -> None:
    if content:
        (tmp_path / "metrics.jsonl").write_text(content)
    assert main(["report", "curves", str(tmp_path), *arguments]) == 1
    assert message in capsys.readouterr().err
