"""The `fcos-zoo` command: what it prints, what it writes, and errors in one line."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.table import Table

import reports
import zoo
from fcos import Detector, export_formats
from fcos.text import TextConsole
from tools import cli
from tools.cli import PANELS, app, main

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
PHOTOGRAPH = REPOSITORY / "benchmarks" / "data" / "coco_val_ccby" / "images" / "000000062554.jpg"

RESULTS = next(Path(reports.__file__).with_name("results").glob("*.jsonl"))
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _narrow_terminal_and_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path / "home"))


def test_help_names_every_command(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    commands = [*app.registered_commands, *app.registered_groups]
    assert all(f"│ {command.name} " in printed for command in commands)
    places = [printed.index(f"─ {panel} ─") for panel in PANELS]
    assert places == sorted(places)
    assert main([]) == 2


def test_help_shows_no_python_types_and_each_command_as_it_is_typed(capsys: Capture) -> None:
    for words in (["bench"], ["bench", "push"], ["report"], ["predict"], ["data", "shapes"]):
        assert main([*words, "--help"]) == 0
        printed = capsys.readouterr().out
        assert f" Usage: fcos-zoo {' '.join(words)} [OPTIONS]" in printed
        assert not re.search(r"<\w+>|list\[", printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'"),
        (["[/x]"], "No such command '[/x]'"),
        (["predict", SMALL], "images"),
        (["evaluate", SMALL, "--batch", "0"], "should be greater than or equal to 1"),
        (["list", "YOLO*"], "no entry matches 'YOLO*'; `fcos-zoo list` shows all"),
        (["list", "FCOS_V_*", "--license", "permissive"], "no entry matches 'FCOS_V_*' with these"),
        (["list", "--license", "MIT"], "'--license': 'MIT' is not one of"),
        (["info", str(REPOSITORY / "README.md")], "a model's file ends in .pth"),
        (["predict", SMALL, str(PHOTOGRAPH), "--device", "gpu"], "unknown device 'gpu'"),
        (["train", SMALL, "run.device=gpu"], "unknown device 'gpu'; choose cpu, cuda or cuda:N"),
        (["train", SMALL, "epochs"], "settings are KEY=VALUE"),
        (["push", "no.pth", "hf://me/mine", "--dry-run", "."], "no.pth cannot be read"),
        (["data", "shapes", "--count", "1", "--size", "0", "--out", "x"], "equal to 32"),
        (["report", str(RESULTS), "--entry", "YOLO"], "match --entry, --machine and --metrics"),
        (["report", str(REPOSITORY / "README.md")], "no results of `fcos-zoo bench`"),
        (["info", "FCOS_R_50_x1"], "no entry 'FCOS_R_50_x1' in the zoo: did you mean FCOS_R_50_1x"),
        (["predict", SMALL, "nowhere.jpg"], "no image at nowhere.jpg"),
        (["predict", "YOLO", str(PHOTOGRAPH)], "no entry 'YOLO' in the zoo"),
        (["predict", SMALL, str(PHOTOGRAPH), "--weights", "no.pth"], "no.pth cannot be read"),
        (["predict", SMALL, str(PHOTOGRAPH), "--classes", ","], "',' names no class"),
        pytest.param(
            *(["bench", SMALL, "--device", "cuda"], "torch finds no GPU here; use --device cpu"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (["predict", "no.onnx", str(PHOTOGRAPH), "--device", "cuda"], "leave out --device"),
        (
            ["predict", SMALL, str(PHOTOGRAPH), "--score-threshold", "30"],
            "should be less than or equal to 1",
        ),
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


def test_version_is_printed(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"fcos-zoo \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_debug_shows_where_an_error_is_from() -> None:
    with pytest.raises(LookupError, match="no entry matches"):
        main(["list", "YOLO*", "--debug"])


def test_list_cuts_no_name_however_narrow_the_terminal(capsys: Capture) -> None:
    assert main(["list", "FCOS_*syncbn*"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in zoo.names("FCOS_*syncbn*"))


def test_list_as_json_is_read_back(capsys: Capture) -> None:
    assert main(["list", "FCOS_*R_50*", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert sorted(rows) == zoo.names("FCOS_*R_50*")
    assert rows["FCOS_R_50_1x"]["ap"] == 38.7


def test_list_can_be_restricted_by_license_and_availability(capsys: Capture) -> None:
    assert main(["list", "--license", "permissive", "--served", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == zoo.names(license="permissive", weights=True)
    assert all(row["permissive"] and row["served"] and row["license"] for row in rows)
    assert main(["list", "FCOS_V_*", "--license", "permissive"]) == 1
    assert "no entry matches" in capsys.readouterr().err


def test_info_prints_figures_sources_and_the_whole_configuration(capsys: Capture) -> None:
    assert main(["info", "FCOS_imprv_dcnv2_R_50_FPN_1x", "--parameters"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "33.24 M",
        "hf://tianzhi/FCOS/FCOS_imprv_dcnv2_R_50_FPN_1x.pth",
        "AP (minival) 42.3",
        "deformable: [false, true, true, true]",
        "box: relu",
    ):
        assert text in printed


def test_info_folds_facts_below_their_beginning(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["info", "FCOS_R_50_1x"]) == 0
    start = "  license           "
    folded = f"{start}BSD-2-Clause for academic use;\n{' ' * len(start)}commercial use on request"
    assert folded in capsys.readouterr().out


def test_info_counts_the_parameters_of_a_trained_file(capsys: Capture) -> None:
    file = zoo.card("FCOS_shapes_tiny").weights[0].url
    assert main(["info", file, "--parameters"]) == 0
    assert "parameters: 0.58 M" in capsys.readouterr().out
    assert main(["info", "model.onnx", "--parameters"]) == 1
    assert "of an exported file cannot be counted" in capsys.readouterr().err


def test_commands_that_compute_nothing_do_not_import_torch() -> None:
    commands = [["--version"], ["--help"], ["train", "--help"], ["bench", "-h"], ["list"]]
    commands += [["info", "FCOS_R_50_1x"], ["data", "check", str(PHOTOGRAPH.parents[1])]]
    program = (
        "import sys\n"
        "from tools.cli import main\n"
        f"for command in {commands!r}:\n"
        "    if main(command) or 'torch' in sys.modules:\n"
        "        sys.exit(f'{command} failed or imported torch')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "reader", "code"),
    [
        *(("list", "| true", 141), ("list --help", "| true", 141)),
        *(("list", "> /dev/full", 1), ("list", ">&-", 0)),
    ],
)
def test_output_that_cannot_be_written_is_one_line_at_most(
    command: str, reader: str, code: int
) -> None:
    program = f"{{ sleep 0.2; {sys.executable} -m tools.cli {command}; }}"  # `true` ends before
    script = f"{program} {reader}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (code, code == 1)


def test_repeatable_options_take_several_values(tmp_path: Path, capsys: Capture) -> None:
    images = [str(tmp_path / "a.gif"), str(tmp_path / "b.gif")]
    assert main(["report", "curves", "nowhere", "--out", *images]) == 1
    assert "nowhere" in capsys.readouterr().err


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


def test_text_from_outside_is_printed_as_text(capsys: Capture) -> None:
    name = "door [/closed] [red] :dog: \x1b[31m"
    table = Table(name, title=name)
    table.add_row(name)
    console = TextConsole(width=200)
    console.print(name, style="red")
    console.print(table)
    said = capsys.readouterr().out
    assert said.count(r"door [/closed] [red] :dog: \x1b[31m") == 4
    assert main(["info", name]) == 1
    assert main(["evaluate", "--precision", name, "x"]) == 2
    assert "\x1b" not in said + capsys.readouterr().err


def test_control_characters_of_paths_are_escaped(tmp_path: Path, capsys: Capture) -> None:
    drawn, out = str(tmp_path / "a\x1b[31m"), str(tmp_path / "b\x1b[31m")
    assert main(["data", "shapes", "--count", "2", "--size", "64", "--out", drawn]) == 0
    assert main(["data", "check", drawn]) == 0
    assert main(["data", "convert", drawn, out]) == 0
    assert main(["report", str(RESULTS), "--out", out]) == 0
    said = "".join(capsys.readouterr())
    assert said.count(r"\x1b[31m") >= 4
    assert "\x1b" not in said


def test_a_warning_is_one_line_that_is_printed_as_text(tmp_path: Path, capsys: Capture) -> None:
    row = RESULTS.read_text().splitlines()[0]
    results = tmp_path / "re\x1b[31m.jsonl"
    results.write_text(f"{row}\n{{}}\n")
    arguments = ["report", str(results), "--out", str(tmp_path / "report")]
    assert main(arguments) == 0
    problem = r"re\x1b[31m.jsonl:2: not a row of results: key is missing"
    said = " ".join(capsys.readouterr().err.split("\n"))
    assert said.startswith("fcos-zoo report: warning: ")
    assert said.strip().endswith(problem)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: free some"),
        (OSError(errno.EROFS, "Read-only file system", "a.md"), "a.md: Read-only file system: wri"),
        (PermissionError(errno.EACCES, "Permission denied", "a.md"), "a.md: Permission denied"),
        (FileNotFoundError("a.json: no such file"), "a.json: no such file"),
    ],
)
def test_an_error_of_the_system_names_the_file_and_the_remedy(
    error: OSError, line: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: list[str]) -> None:
        raise error

    monkeypatch.setattr(cli, "run", fail)
    assert main(["report", "a.jsonl"]) == 1
    assert capsys.readouterr().err.startswith(f"fcos-zoo report: {line}")


@pytest.mark.parametrize(("chosen", "of_classes"), [("0", 0.0), ("0.3", 0.05)])
def test_the_score_threshold_of_an_export_is_that_of_detections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str, of_classes: float
) -> None:
    described: list[tuple[float, float]] = []

    def describe(detector: Detector, *_: object) -> None:
        described.append((detector.decoder.score_threshold, detector.decoder.min_score))
        raise RuntimeError("far enough")

    monkeypatch.setattr(export_formats, "describe", describe)
    arguments = ["export", "FCOS_shapes_tiny", "--score-threshold", chosen, "--out", str(tmp_path)]
    assert main(arguments) == 1
    assert described == [(of_classes, float(chosen))]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "FCOS_shapes_tiny", "data.train=~/none.json"],
        ["predict", SMALL, str(PHOTOGRAPH), "--weights=~/none.json"],
    ],
)
def test_a_value_may_start_with_the_home_folder(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(arguments) == 1
    assert str(tmp_path / "none.json") in capsys.readouterr().err
