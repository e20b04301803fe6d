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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's working directory, with folders called as ours."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("benchmarks", "tools", "reports", "configs"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('not this one')")
    torch.manual_seed(0)
    detector = zoo.build(ENTRY).eval()
    random_weights.randomize(detector, read_images(embedded(), 1), candidates=50)
    torch.save({"model": detector.state_dict()}, folder / "weights.pth")
    return folder


def surroundings(folder: Path) -> dict[str, str]:
    """An environment without network, with a cache of its own."""
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FCOS_ZOO_OFFLINE": "1"}
    return {**os.environ, **ours, "FCOS_ZOO_HOME": str(folder / "home")}


def fcos_zoo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as its script does, that looks in its own folder, not the working one."""
    script = folder.parent / "fcos-zoo.py"
    script.write_text(
        "import sys\nfrom tools.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    return started(folder, [str(script), *arguments])


def started(
    folder: Path, arguments: list[str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with the user's surroundings, in the user's folder if not in another."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd or folder,
        env=surroundings(folder),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_measure_then_report_in_a_folder_with_names_like_ours(folder: Path) -> None:
    small = ["--size", "64", "96", "--limit", "1", "--processes", "1", "--seconds", "0"]
    metrics = "params,latency,ap"
    weights = f"{ENTRY}={folder / 'weights.pth'}"
    first = ["bench", ENTRY, "--metrics", metrics, "--weights", weights, "--threads", "1", *small]
    done = fcos_zoo(folder, *first, "--out", "out/results.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (folder / "out/results.jsonl").read_text().splitlines()]
    assert [(row["cell"]["metric"], row["status"]) for row in rows] == [
        (metric, "measured") for metric in metrics.split(",")
    ]
    assert rows[1]["values"]["weights"] == "file"
    assert rows[2]["values"]["split"] == "coco_val_ccby"
    assert (folder / "out/detections" / f"{rows[2]['key']}.json").is_file()
    assert ENTRY in (folder / "out/results.md").read_text()

    done = fcos_zoo(folder, "report", "out/results.jsonl", "--out", "out/report")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "### " in (folder / "out/report/published.md").read_text()


def test_evaluate_is_the_same_to_the_byte_on_one_process_and_on_two(folder: Path) -> None:
    arguments = [ENTRY, "--weights", "weights.pth", "--limit", "3", "--device", "cpu"]
    alone = fcos_zoo(folder, "evaluate", *arguments)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert "AP50" in alone.stdout
    written = folder / "outputs/evaluate" / ENTRY
    assert json.loads((written / "figures.json").read_text())["images"] == 3
    assert len(json.loads((written / "detections.json").read_text())) > 3

    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    script = [str(folder.parent / "fcos-zoo.py"), "evaluate", *arguments, "--out", "both"]
    both = started(folder, [*torchrun, *script])
    assert both.returncode == 0, both.stdout + both.stderr
    for name in ("detections.json", "figures.json"):
        assert (folder / "both" / name).read_bytes() == (written / name).read_bytes()


def test_multi_scale_testing_has_a_result_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the shapes are drawn
    given = ["FCOS_shapes_tiny", "--limit", "2", "--device", "cpu"]
    plain, several = tmp_path / "plain", tmp_path / "several"
    assert cli.main(["evaluate", *given, "--out", str(plain)]) == 0
    assert cli.main(["evaluate", *given, "--out", str(several), "--multi-scale"]) == 0
    found = [json.loads((folder / "detections.json").read_text()) for folder in (plain, several)]
    assert found[0] != found[1]


def test_a_suite_is_spread_over_jobs_that_share_a_file(folder: Path) -> None:
    command = ["-m", "tools.spread", "--config-name", "suite/quick", "--multirun"]
    command += [f"entries=[FCOS_shapes_tiny,{ENTRY}]", "metrics=[params]"]
    command += ["+shards=2", "+shard=range(2)", f"+out={folder / 'spread.jsonl'}"]
    done = started(folder, [*command, f"hydra.sweep.dir={folder / 'jobs'}"], cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (folder / "spread.jsonl").read_text().splitlines()]
    assert [row["cell"]["entry"] for row in rows] == ["FCOS_shapes_tiny", ENTRY]
    assert rows[1]["command"].startswith("python -m tools.spread --config-name suite/quick")
    assert "+shard=1" in rows[1]["command"]


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "FCOS_R_50_1", "--metrics", "params"]) == 1
    told = capsys.readouterr().err
    assert "did you mean FCOS_R_50_1x" in told
    assert len(told.splitlines()) == 1


def test_cases_that_the_budget_leaves_no_time_for_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "--set",
        "metrics=[params]",
        "--set",
        "budget=1e-9",
        "--out",
        str(tmp_path / "r.jsonl"),
    ]
    assert cli.main(["bench", "--suite", "quick", "--device", "cpu", *given]) == 0
    assert "6 cases not started: the time for this suite was over" in capsys.readouterr().out
