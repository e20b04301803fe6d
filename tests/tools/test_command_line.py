"""The `fcos-zoo` command: what it prints, what it writes, and errors in one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import zoo
from fcos import Detector, ShortestSide
from tools.cli import COMMANDS, main
from tools.predict import category_ids, drawings
from zoo.golden import Fixture

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
PHOTOGRAPH = REPOSITORY / "benchmarks" / "data" / "coco_val_ccby" / "images" / "000000062554.jpg"

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _narrow_terminal_and_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path / "home"))


def test_help_names_every_command(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)
    assert main([]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "no command 'fly'; there are list, info"),
        (["[/x]"], "no command '[/x]'"),
        (["list", "YOLO*"], "no entry matches 'YOLO*'"),
        (["info", "FCOS_R_50_x1"], "no entry 'FCOS_R_50_x1' in the zoo: did you mean FCOS_R_50_1x"),
        (["predict", SMALL, "nowhere.jpg"], "no image at nowhere.jpg"),
        (["predict", "YOLO", str(PHOTOGRAPH)], "no entry 'YOLO' in the zoo"),
        (["predict", SMALL, str(PHOTOGRAPH), "--weights", "no.pth"], "no.pth cannot be read"),
    ],
)
def test_an_error_is_one_line_and_a_non_zero_exit(
    capsys: Capture, arguments: list[str], message: str
) -> None:
    assert main(arguments) > 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("fcos-zoo")
    assert message in captured.err


def test_arguments_are_checked(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["predict", SMALL])
    assert stop.value.code == 2
    assert "images" in capsys.readouterr().err


def test_the_version_is_told(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"fcos-zoo \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_debug_shows_where_an_error_is_from() -> None:
    with pytest.raises(LookupError, match="no entry matches"):
        main(["list", "YOLO*", "--debug"])


@pytest.mark.parametrize("wrong", [["--batch", "0"], ["--limit", "-1"]])
def test_numbers_of_images_begin_at_one(wrong: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", SMALL, *wrong])
    assert stop.value.code == 2
    assert "no whole number from 1 on" in capsys.readouterr().err


def test_list_cuts_no_name_however_narrow_the_terminal(capsys: Capture) -> None:
    assert main(["list", "FCOS_*syncbn*"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in zoo.names("FCOS_*syncbn*"))


def test_list_as_json_is_read_back(capsys: Capture) -> None:
    assert main(["list", "FCOS_*R_50*", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert sorted(rows) == zoo.names("FCOS_*R_50*")
    assert rows["FCOS_R_50_1x"]["ap"] == 38.7


def test_list_can_be_of_what_may_be_used_and_had(capsys: Capture) -> None:
    assert main(["list", "--license", "permissive", "--served", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == zoo.names(license="permissive", weights=True)
    assert all(row["permissive"] and row["served"] and row["license"] for row in rows)
    assert main(["list", "FCOS_V_*", "--license", "permissive"]) == 1
    assert "no entry matches" in capsys.readouterr().err


def test_info_prints_figures_sources_and_the_whole_configuration(capsys: Capture) -> None:
    assert main(["info", "FCOS_imprv_dcnv2_R_50_FPN_1x"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "33.24 M",
        "hf://tianzhi/FCOS/FCOS_imprv_dcnv2_R_50_FPN_1x.pth",
        "AP (minival) 42.3",
        "deformable: [false, true, true, true]",
        "box: relu",
    ):
        assert text in printed


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Detector:
    """What `zoo.get` gives: an entry with random weights and a small test size."""
    state = Fixture(REPOSITORY / "tests" / "golden" / f"{SMALL}.json").state_dict()
    detector = zoo.build(SMALL).eval()
    zoo.load_checkpoint(detector, state)
    detector.resize = ShortestSide(64, 96)
    monkeypatch.setattr("tools.predict.zoo.get", lambda *arguments: detector)
    return detector


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two small photographs and a text."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    with Image.open(PHOTOGRAPH) as photograph:
        photograph.resize((128, 86)).save(folder / "000000000042.jpg")
        photograph.resize((86, 128)).save(folder / "upright[a].png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def results_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "results.json").read_text())


def test_predict_draws_and_writes_coco_results(
    capsys: Capture, tmp_path: Path, pictures: Path
) -> None:
    weights, out = tmp_path / "published.pth", tmp_path / "out"
    fixture = Fixture(REPOSITORY / "tests" / "golden" / f"{SMALL}.json")
    torch.save({"model": fixture.state_dict()}, weights)
    picture = pictures / "000000000042.jpg"
    arguments = [str(picture), "--weights", str(weights), "--out", str(out), "--device", "cpu"]
    assert main(["predict", SMALL, *arguments, "--score-threshold", "0.1"]) == 0
    assert "1 pictures and results.json" in capsys.readouterr().out
    with Image.open(out / picture.name) as drawn:
        assert drawn.size == (128, 86)
    rows = results_of(out)
    assert rows
    for row in rows:
        assert row["image_id"] == 42
        assert row["category_id"] in zoo.card(SMALL).config["category_ids"]
        assert row["score"] >= 0.1
        x, y, width, height = row["bbox"]
        assert min(x, y, width, height) >= 0
        assert x + width <= 128 + 1  # this system counts the last pixel
        assert y + height <= 86 + 1


@pytest.mark.usefixtures("fast")
def test_predict_takes_folders_and_globs_each_image_once(
    capsys: Capture, tmp_path: Path, pictures: Path
) -> None:
    out = tmp_path / "out"
    arguments = [str(pictures), str(pictures / "*.jpg"), "--out", str(out)]
    assert main(["predict", SMALL, *arguments, "--score-threshold", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert "2 pictures" in printed
    assert str(pictures / "upright[a].png") in printed
    assert sorted(p.name for p in out.iterdir()) == [
        "000000000042.jpg",
        "results.json",
        "upright[a].jpg",
    ]
    assert {row["image_id"] for row in results_of(out)} == {42, "upright[a].png"}


@pytest.mark.usefixtures("fast")
def test_predict_looks_at_every_image_more_than_once(tmp_path: Path, pictures: Path) -> None:
    picture = str(pictures / "000000000042.jpg")
    found = []
    for more in ([], ["--multi-scale"]):
        arguments = [picture, "--out", str(tmp_path / "out"), "--score-threshold", "0.1"]
        assert main(["predict", SMALL, *arguments, *more]) == 0
        found.append({tuple(row["bbox"]) for row in results_of(tmp_path / "out")})
    assert found[1] - found[0]


@pytest.mark.usefixtures("fast")
def test_an_unreadable_image_stops_no_other(
    capsys: Capture, tmp_path: Path, pictures: Path
) -> None:
    (pictures / "000000000000.jpg").write_text("not a picture")
    out = tmp_path / "out"
    assert main(["predict", SMALL, str(pictures), "--out", str(out), "--score-threshold", "0"]) == 1
    printed = capsys.readouterr().out
    assert "2 pictures and results.json" in printed
    assert "000000000000.jpg: not a readable image" in printed
    assert {row["image_id"] for row in results_of(out)} == {42, "upright[a].png"}


def test_results_are_kept_when_interrupted(
    fast: Detector, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect: Callable[..., Any] = fast.detect

    def interrupted(path: Path, **options: Any) -> Any:
        if path.name.startswith("upright"):
            raise KeyboardInterrupt
        return detect(path, **options)

    monkeypatch.setattr(fast, "detect", interrupted)
    out = tmp_path / "out"
    arguments = [str(pictures), "--out", str(out), "--score-threshold", "0.1"]
    assert main(["predict", SMALL, *arguments]) == 130
    assert {row["image_id"] for row in results_of(out)} == {42}


def test_category_ids_are_the_datasets_only_for_its_own_classes() -> None:
    assert category_ids(zoo.build(SMALL))[-1] == 90
    assert list(category_ids(zoo.build(SMALL, num_classes=3))) == [1, 2, 3]


def test_drawings_overwrite_neither_each_other_nor_an_input(tmp_path: Path) -> None:
    inputs = [tmp_path / "a.jpg", tmp_path / "a.png", tmp_path / "b" / "a.jpg"]
    elsewhere = drawings(inputs, tmp_path / "out")
    assert [path.name for path in elsewhere] == ["a.jpg", "a_2.jpg", "a_3.jpg"]
    beside = drawings(inputs, tmp_path)
    assert [path.name for path in beside] == ["a_2.jpg", "a_3.jpg", "a_4.jpg"]


def test_it_runs_from_a_folder_with_packages_of_the_same_names(tmp_path: Path) -> None:
    for name in ("tools", "configs", "benchmarks", "zoo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('of another project')")
    script = "from tools.cli import main; main(['list', 'FCOS_R_101*', '--json'])"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in json.loads(done.stdout)] == zoo.names("FCOS_R_101*")
