"""`fcos-zoo bench`, `evaluate` and `report` from end to end, on a small entry and small images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo
from benchmarks import random_weights
from benchmarks.dataset import embedded, read_images
from tools import cli

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
SCRIPT = (
    "import sys\nfrom tools.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's working directory, with folders that are named as ours."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("benchmarks", "tools", "reports", "configs"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('not this one')")
    torch.manual_seed(0)
    detector = zoo.build(ENTRY).eval()
    random_weights.randomize(detector, read_images(embedded(), 1), candidates=50)
    torch.save({"model": detector.state_dict()}, folder / "weights.pth")
    (folder.parent / "fcos-zoo.py").write_text(SCRIPT)  # it imports from its own folder
    return folder


def python(folder: Path, *arguments: str, cwd: Path | None = None) -> str:
    """What Python prints, run in the user's folder without a network and with a cache of its own;
    the first argument may be `fcos-zoo`."""
    script = str(folder.parent / "fcos-zoo.py")
    words = [script if word == "fcos-zoo" else word for word in arguments]
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FCOS_ZOO_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd or folder,
        env={**os.environ, **ours, "FCOS_ZOO_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_measure_then_report_in_a_folder_with_names_like_ours(folder: Path) -> None:
    small = ["--size", "64", "96", "--limit", "1", "--processes", "1", "--seconds", "0"]
    what = ["--metrics", "params,latency,ap", "--weights", f"{ENTRY}={folder / 'weights.pth'}"]
    python(folder, "fcos-zoo", "bench", ENTRY, *what, *small, "--out", "out/results.jsonl")
    rows = [json.loads(line) for line in (folder / "out/results.jsonl").read_text().splitlines()]
    assert [(row["cell"]["metric"], row["status"]) for row in rows] == [
        (metric, "measured") for metric in ("params", "latency", "ap")
    ]
    assert rows[1]["values"]["weights"] == "file"
    assert rows[2]["values"]["split"] == "coco_val_ccby"
    assert (folder / "out/detections" / f"{rows[2]['key']}.json").is_file()
    assert ENTRY in (folder / "out/results.md").read_text()
    report = folder / "out" / "report"
    assert cli.main(["report", str(folder / "out/results.jsonl"), "--out", str(report)]) == 0
    assert "### " in (report / "published.md").read_text()


def test_evaluate_is_the_same_to_the_byte_on_one_process_and_on_two(folder: Path) -> None:
    command = ["fcos-zoo", "evaluate", ENTRY, "--weights", "weights.pth", "--limit", "3"]
    command += ["--device", "cpu"]
    assert "AP50" in python(folder, *command)
    written = folder / "outputs/evaluate" / ENTRY
    assert json.loads((written / "figures.json").read_text())["images"] == 3
    assert len(json.loads((written / "detections.json").read_text())) > 3

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    python(folder, *torchrun, *command, "--out", "both")
    for name in ("detections.json", "figures.json"):
        assert (folder / "both" / name).read_bytes() == (written / name).read_bytes()


def test_multi_scale_testing_has_a_separate_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the shapes are drawn
    found = []
    for options in ([], ["--multi-scale"]):
        out = tmp_path / f"out{len(options)}"
        given = ["FCOS_shapes_tiny", "--limit", "2", "--device", "cpu", "--out", str(out)]
        assert cli.main(["evaluate", *given, *options]) == 0
        found.append(json.loads((out / "detections.json").read_text()))
    assert found[0] != found[1]


def test_a_suite_is_spread_over_jobs_that_share_a_file(folder: Path) -> None:
    command = ["-m", "tools.spread", "--config-name", "suite/quick", "--multirun"]
    command += [f"entries=[FCOS_shapes_tiny,{ENTRY}]", "metrics=[params]"]
    command += ["+shards=2", "+shard=range(2)", f"+out={folder / 'spread.jsonl'}"]
    python(folder, *command, f"hydra.sweep.dir={folder / 'jobs'}", cwd=ROOT)
    rows = [json.loads(line) for line in (folder / "spread.jsonl").read_text().splitlines()]
    assert [row["cell"]["entry"] for row in rows] == ["FCOS_shapes_tiny", ENTRY]
    assert rows[1]["command"].startswith("python -m tools.spread --config-name suite/quick")
    assert "+shard=1" in rows[1]["command"]


def test_an_unknown_entry_is_named_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "FCOS_R_50_1", "--metrics", "params"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "did you mean FCOS_R_50_1x" in line


def test_cases_that_the_budget_leaves_no_time_for_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--set", "metrics=[params]", "--set", "budget=1e-9", "--out", str(tmp_path / "r")]
    assert cli.main(["bench", "--suite", "quick", "--device", "cpu", *given]) == 0
    printed = capsys.readouterr().out
    assert "6 cases not started: the time for this suite was over" in printed
    assert "not started: the suite's 0 s were over" in printed
