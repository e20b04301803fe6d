"""The files and commands of CONTRIBUTING.md, written and run as printed."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import zoo
from benchmarks import store
from fcos.data import registry as datasets
from fcos.data.dataset import CocoDataset
from fcos.data.shapes import write
from tools import cli, data
from zoo import registry

PAGE = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text().replace("\\\n", "")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
FILES = {
    match[1]: text[match.end() :] for _, text in BLOCKS if (match := re.match(r"# (.+)\n", text))
}


TRAIN, EXPORT, BENCH = (text for language, text in BLOCKS if language == "bash")


def run(commands: str) -> None:
    for line in commands.splitlines():
        assert cli.run(shlex.split(line)[1:]) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's folder of entries beside what its commands have trained."""
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("contributing")
    for name, text in FILES.items():
        if name.startswith("my_zoo/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(registry, "_registered", [])
        patch.setenv("FCOS_ZOO_CONFIGS", "my_zoo")
        patch.setenv("PYTHONPATH", str(folder / "my_zoo"))  # for the benchmark's processes
        patch.syspath_prepend("my_zoo")
        run(TRAIN)
        yield folder


def test_the_example_backbones_train(folder: Path) -> None:
    assert {"FCOS_mine", "FCOS_atto"} <= {*zoo.names()}
    assert (folder / "runs" / "mine" / "FCOS_mine.pth").is_file()


def test_a_timm_backbone_is_exported(folder: Path) -> None:
    run(EXPORT)
    assert list((folder / "outputs" / "export").glob("*.pt2"))


def test_a_user_s_detector_is_measured(folder: Path) -> None:
    run(BENCH)
    rows = store.read([folder / "outputs" / "bench" / "results.jsonl"])
    measured = {row["cell"]["entry"] for row in rows if row["status"] == "measured"}
    assert measured == {"FCOS_shapes_tiny", "adapter:detector"}


def test_a_named_dataset_is_downloaded_and_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = write(tmp_path / "toys", 8, size=64)
    drawn.rename(drawn.with_name("toys.json"))
    archive = shutil.make_archive(str(tmp_path / "toys"), "zip", tmp_path, "toys")
    (tmp_path / "dataset").mkdir()
    text = FILES["configs/dataset/toys.yaml"].replace("https://example.org/toys.zip", archive)
    (tmp_path / "dataset" / "toys.yaml").write_text(text)
    monkeypatch.setattr(data, "CONFIGS", tmp_path)
    line = FILES["fcos/data/registry.py, in NAMED_DATASETS"]
    for name, source in eval(f"{{{line}}}", vars(datasets)).items():
        monkeypatch.setitem(datasets.NAMED_DATASETS, name, source)
    data.download(SimpleNamespace(info_name="toys"), tmp_path / "root", keep=True)
    sources = datasets.resolve_dataset("toys", tmp_path / "root")
    assert len(CocoDataset(*sources[0])) > 0
