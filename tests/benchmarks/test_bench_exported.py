"""`fcos-zoo bench` measures an exported file as it measures an entry, and says what ran it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import zoo
from benchmarks import measure, workload
from benchmarks.cases import Case, MissingError
from benchmarks.suite import Suite
from fcos import export, export_formats
from tools.cli import main

ENTRY = "FCOS_shapes_tiny"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny entry as an ONNX file for images of its test size."""
    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    detector, size = zoo.get(ENTRY), (160, 160)
    graph = export.program(detector, size, 1, batched_nms=True)
    export_formats.write_onnx(graph, path, export_formats.describe(detector, size, 1))
    return str(path)


def test_ap_and_latency_of_a_file_are_rows_with_its_runtime(file: str, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    arguments = [file, "--metrics", "params,latency,ap", "--limit", "2", "--seconds", "0"]
    arguments += ["--runs", "1", "--processes", "1", "--threads", "1", "--device", "cpu"]
    assert main(["bench", *arguments, "--out", str(out)]) == 0
    params, latency, ap = map(json.loads, out.read_text().splitlines())
    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    assert latency["cell"]["runtime"] == ap["cell"]["runtime"] == runtime
    assert latency["values"]["median"] > 0
    assert ap["values"]["AP"] > 0.5
    assert params["reason"].startswith("cannot be counted in an exported file")
    assert f"| {runtime} |" in out.with_suffix(".md").read_text()


def test_the_runtime_has_the_threads_of_the_case(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, threads = onnxruntime.InferenceSession, []

    def started(path: str, options: Any, **rest: Any) -> Any:
        threads.append(options.intra_op_num_threads)
        return session(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", started)
    for number in (1, 2):
        case = Case(file, "latency", threads=number)
        workload.configure_process(case)
        workload.load_exported(case)
    workload.configure_process(Case(file, "latency", threads=1))
    assert threads == [1, 2]


def test_cases_that_a_file_does_not_support_are_missing_with_a_reason(file: str) -> None:
    with pytest.raises(MissingError, match="its size is part of the file"):
        workload.load_exported(Case(file, "latency", size=(96, 96)))
    with pytest.raises(MissingError, match="cannot be counted in an exported file"):
        measure.measure(Case(file, "training_memory"))


def test_a_file_has_one_precision_and_no_layout(file: str, tmp_path: Path) -> None:
    many = {"precisions": ("fp32", "bf16"), "compiled": (False, True), "folder": tmp_path}
    [case] = Suite([file], metrics=["latency"], **many).cases()
    assert (case.precision, case.compiled) == ("fp32", False)


def test_a_missing_runtime_is_one_line_that_names_the_extra(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["bench", file, "--metrics", "latency"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "onnxruntime is not installed: pip install 'fcos-zoo[onnx]'" in line
