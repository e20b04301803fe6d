"""Every command that the documentation prints runs, as printed or at a small scale.

These are the commands in `sh` blocks, sentences and tables, in the order of the pages, because some
read what others wrote. The `bash` blocks of the tutorial, the how-to guides and CONTRIBUTING.md run
as printed in test_docs_pages.py and test_contributing.py.
"""

from __future__ import annotations

import glob
import http.server
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from hydra.core.global_hydra import GlobalHydra
from mirrors import HubServer, own_settings, saved
from PIL import Image
from torch.distributed.run import main as torchrun

import zoo
from fcos.data.shapes import write
from tools import cli, demo
from tools.outputs import VideoWriter
from tools.serve import import_gradio

ROOT = Path(__file__).resolve().parents[2]
BASH_RUNS_ELSEWHERE = ("docs/tutorial.md", "docs/how_to.md", "CONTRIBUTING.md")
PAGES = (
    *("README.md", "docs/models.md", "benchmarks/README.md", "tests/golden/README.md"),
    *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("reports/*.md")),
    *("reports/shapes_tiny/README.md", "reports/eight_images/README.md"),
)
TINY = "FCOS_shapes_tiny"  # its weights are embedded
SMALL = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"  # of COCO's classes; the local host has weights for it
QUICK = f"{TINY} --size 64 96 --limit 1 --processes 1 --rounds 1 --runs 1 --seconds 0"

# What is printed, and what takes its place in this test, one after the other from top to bottom.
SMALLER = {
    # Large models.
    "FCOS_MS_R_101_2x": SMALL,
    "FCOS_MS_R_50_2x": TINY,
    "FCOS_R_50_1x": TINY,
    # Words for which a reader puts something.
    "hf://datasets/OWNER/NAME [FILES]": "hf://datasets/me/results before.jsonl",
    " NAME": f" {TINY}",
    "MODULE:FUNCTION": "mine:detector",
    "FILES": "before.jsonl",
    "IN OUT": "mine converted",
    "A B": "before.jsonl after.jsonl",
    "check FOLDER": "check mine",
    "verify FOLDER": "verify golden",
    "predict --winograd": f"predict {TINY} street.jpg --winograd",
    # Datasets: four drawn images.
    "data.root=/data/coco": "data=mine",
    "data.root=data": "data=mine",
    "annotations/instances_val2017.json val2017": "mine/val/annotations.json mine/val/images",
    "--dataset annotations.json": "--dataset mine/val",
    "--count 60 --size 320": "--count 4 --size 96",
    "--count 40 --size 320": "--count 4 --size 96",
    "--count 60": "--count 4",
    "--count 300": "--count 4 --size 96",
    # Training: one epoch of one step, on two processes in place of GPUs.
    f"train {TINY}": f"train {TINY} epochs=1",
    "-m tools.train ": "-m tools.train epochs=1 ",
    "--multirun solver": "--multirun hydra/job_logging=none epochs=1 solver",
    "epochs=20": "",
    "schedule.iterations=600 schedule.steps=[450]": "",
    "epochs=1": "epochs=1 solver.batch=4 run.device=cpu run.log_every=1 "
    "data.workers=0 data.shapes.train.count=4 data.shapes.test.count=2",
    "--nnodes 2 --nproc-per-node 8": "--nnodes 1 --nproc-per-node 1",
    "--nproc-per-node 8": "--nproc-per-node 2",
    "HOST:29500": "localhost:29517",
    # Measuring: one run of the smallest model.
    "bench 'FCOS_MS_*'": f"bench {QUICK}",
    "bench --": f"bench {QUICK} --",
    f"bench {TINY} --metrics": f"bench {QUICK} --metrics",
    f"bench {TINY} --baseline": f"bench {QUICK} --baseline",
    f"bench {TINY} outputs": f"bench {QUICK} outputs",
    f"bench {TINY} exported": f"bench {QUICK} exported",
    "--suite published": "--suite published --metrics params",
    f"export {TINY}": f"export {TINY} --size 96 96 --images 1",
    "--size 96 96 --images 1 --format onnx --precision fp16": "--format onnx --precision fp16",
    "onnx,openvino --": "onnx --",  # the README exports to OpenVINO
    "--limit 30 --runs 60 --seconds 1 --processes 3": "",
    "2 -m tools.bench": "1 -m tools.bench",
    "shards=8 '+shard=range(8)' hydra/launcher=submitit_slurm": "shards=2 '+shard=range(2)' "
    f"entries=[{TINY}] metrics=[params]",
    "--no-bf16 --rounds 5": "--no-bf16 --rounds 1 --threads 1 --size 64 96",
    "quality_branch": "quality_branch --limit 2",
    "resize_methods": "resize_methods --images 2 --photographs 1",
    "exported_speed --threads 1": f"exported_speed {TINY} --rounds 1 --images 1 --threads 1",
    "export_all": f"export_all {TINY} --report table.md",
    "training_options": f"training_options --entry {TINY} --options fp32 --steps 5 --rounds 1 "
    "--batch 2 --size 64 96 --threads 1",
    "reports/results/*.jsonl": "before.jsonl",
    "report outputs/bench/results.jsonl": "report before.jsonl",
    # Servers: a local one has weights of a few models; the others stop once they have answered.
    "download --all": "download 'FCOS_R_*_FPN_*'",
    "download 'FCOS_MS_*'": "download 'FCOS_R_*_FPN_*'",
    f"demo {TINY}": f"demo outputs/export/{TINY}.onnx --runtime runtime",
    "--serve 8000": "--serve 0",
    ".venv/bin/": "",
}

# What the continuous integration or another test runs, and a word that is to be found there.
ELSEWHERE = {
    r"git clone .*": (".ci/run", "make bench"),
    r"\. \.venv/bin/activate|make env": ("Makefile", "env: $(STAMP)"),
    r"make (bench|test|docs)": (".ci/run", r"make \1"),
    r"make gpu.*": (".ci/run", "make gpu DEVICE=cpu"),
    r"pip install \.": (".ci/wheel.sh", "pip install"),
    r"pip install '.*\[(\w+)\]'": ("pyproject.toml", r"\1 = ["),
    r"fcos-zoo export .*--max-drop 0.5": ("tests/tools/test_export_command.py", "--max-drop"),
    r"sbatch .*": ("tests/tools/test_cluster_commands.py", "train.sbatch"),
    r"python -m reports.models": ("tests/reports/test_report_committed.py", "models.write("),
    r"python tests/weights/faults.py": ("tests/weights/test_faults.py", "report"),
    r"python -m benchmarks.studies.NAME": ("benchmarks/studies/nms_batch.py", "__main__"),
    r"fcos-zoo data (coco.*|NAME)": ("tests/tools/test_data_command.py", '"data", "coco2017"'),
}

# Code in a sentence that only names a command.
NAMED = {
    *map("fcos-zoo {}".format, ("bench", "bench merge", "data shapes", "demo", "export", "report")),
    "fcos-zoo train",
}

# In place of TensorRT's, which needs a GPU.
TRTEXEC = """#!/usr/bin/env python
import sys

import onnx
options = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
shapes = [options.pop(name).split(":") for name in ("minShapes", "optShapes", "maxShapes")]
[entry] = onnx.load(options.pop("onnx")).graph.input
for name, shape in shapes:
    assert name == entry.name
    for size, dim in zip(shape.split("x"), entry.type.tensor_type.shape.dim, strict=True):
        assert dim.dim_param or int(size) == dim.dim_value  # a range needs a dynamic size
assert list(options) == ["saveEngine"]
"""

ADAPTER = """
def detector(device, precision):
    return lambda images: [{"boxes": [], "scores": [], "labels": []} for _ in images]
"""


def printed(page: str) -> Iterator[str]:
    """The commands of a page: lines of its blocks, and code within its text."""
    text = (ROOT / page).read_text().replace("\\\n", "")
    block = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    languages = ("sh",) if page in BASH_RUNS_ELSEWHERE else ("sh", "bash")
    for language, content in block.findall(text):
        lines = content.splitlines() if language in languages else []
        yield from (" ".join(f" {line}".partition(" #")[0].split()) for line in lines)
    start = r"fcos-zoo|python|torchrun|sbatch|trtexec|make|pip|\.venv/\S+"
    for code in re.findall(rf"`((?:{start})\s[^`]+)`", block.sub("", text)):
        yield " ".join(code.split())


PRINTED = {line: page for page in (*PAGES, *BASH_RUNS_ELSEWHERE) for line in printed(page) if line}


def run_elsewhere(line: str) -> tuple[str, str] | None:
    """The file that runs a command, and the word to be found there."""
    for pattern, (file, word) in ELSEWHERE.items():
        if match := re.fullmatch(pattern, line):
            return file, match.expand(word)
    return None


def smaller(line: str) -> str:
    """A command as it is run here."""
    for long, short in SMALLER.items():
        line = line.replace(long, short)
    return line


REHEARSED = dict.fromkeys(
    smaller(line) for line in PRINTED if line not in NAMED and run_elsewhere(line) is None
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of a reader, with the files that the pages name."""
    with pytest.MonkeyPatch.context() as patch, HubServer() as host:
        folder = tmp_path_factory.mktemp("reader") / "folder"
        own_settings(patch, folder)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_ENDPOINT", host.url())
        patch.setenv("FCOS_ZOO_MIRRORS", host.url())
        weights = {name: saved({"model": zoo.build(name).state_dict()}) for name in (SMALL, TINY)}
        host.add(f"{SMALL}.pth", weights[SMALL])
        for name in zoo.names("FCOS_R_*_FPN_*"):
            host.add(f"{name}.pth", b"\x80\x02" + bytes(1000))  # a download is not opened
        Path("my.pth").write_bytes(weights[TINY])
        for split in ("train", "val"):
            write(f"mine/{split}", 4, size=96)
        shutil.copytree("mine/val/images", "photos")
        shutil.copy("photos/000001.jpg", "street.jpg")
        clip = VideoWriter(Path("clip.mp4"), Fraction(10))
        clip.write(Image.open("street.jpg"))
        clip.close()
        for name in ("before.jsonl", "after.jsonl"):
            shutil.copy(ROOT / "reports/exported.jsonl", name)
        Path("reports/shapes_tiny").mkdir(parents=True)
        for name in ("exported.jsonl", "shapes_tiny/metrics.jsonl"):
            shutil.copy(ROOT / "reports" / name, Path("reports", name))
        for name in (f"{SMALL}.json", f"{SMALL}.npz"):
            Path("golden").mkdir(exist_ok=True)
            shutil.copy(ROOT / "tests/golden" / name, "golden")
        Path("runtime").mkdir()
        for name in demo.RUNTIME_FILES:
            Path("runtime", name).touch()
        Path("mine.py").write_text(ADAPTER)
        subprocess.run(["git", "init", "--quiet"], check=True)
        Path("bin").mkdir()
        Path("bin/trtexec").write_text(TRTEXEC)
        Path("bin/trtexec").chmod(0o755)
        venv = Path(sys.executable).parent
        patch.setenv("PATH", f"{folder / 'bin'}:{venv}:{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", f"{ROOT}:{folder}")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.syspath_prepend(str(folder))
        yield folder


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The answers of servers, which stop after the first one."""
    answers = []
    serve_forever = http.server.ThreadingHTTPServer.serve_forever

    def serve_once(server: Any) -> None:
        threading.Thread(target=serve_forever, args=[server], daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/") as page:
            answers.append(page.status)
        server.shutdown()

    monkeypatch.setattr(http.server.ThreadingHTTPServer, "serve_forever", serve_once)
    interface = import_gradio().Interface
    launch = interface.launch

    def launch_once(app: Any, server_port: int, **options: Any) -> None:
        launch(app, **options, prevent_thread_lock=True, quiet=True)  # on a free port
        with urllib.request.urlopen(app.local_url) as page:
            answers.append(page.status)
        app.close()

    monkeypatch.setattr(interface, "launch", launch_once)
    return answers


@pytest.mark.parametrize("command", REHEARSED)
def test_the_command_runs(
    command: str, folder: Path, answers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(command)
    if "train " in command:
        shutil.rmtree("runs", ignore_errors=True)  # one that was trained before
    if words[0] == "fcos-zoo":
        found = [sorted(glob.glob(word)) if "*." in word else [word] for word in words[1:]]
        assert cli.run([word for each in found for word in each]) == 0
    elif words[:2] == ["python", "-m"] and not words[2].startswith("benchmarks.studies"):
        monkeypatch.setattr(sys, "argv", words[2:])
        code: Any = 0
        try:
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
        assert code in (0, None)
        GlobalHydra.instance().clear()
    elif words[0] == "torchrun":
        torchrun(words[1:])  # raises an error if a process fails
    else:
        subprocess.run(words, check=True, timeout=600)
    serves = words[1] == "serve" or "--serve" in words
    assert answers == ([200] if serves else [])


@pytest.mark.parametrize("line", [line for line in PRINTED if run_elsewhere(line)])
def test_a_command_that_is_run_elsewhere_is_found_there(line: str) -> None:
    where = run_elsewhere(line)
    assert where is not None
    file, word = where
    assert word in (ROOT / file).read_text()
