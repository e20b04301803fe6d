"""Weights on the Hugging Face Hub: `fcos-zoo push`."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
import yaml

import zoo
from benchmarks import store
from benchmarks.cases import ACCURACY
from fcos.text import TextConsole
from tools.arguments import TRAINED, Trainable, Weights
from zoo import cache
from zoo.download import hub_errors
from zoo.registry import fetch_weights
from zoo.sources import SourceError, endpoint, offline

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from fcos import Detector

CITATION = """\
@inproceedings{tian2019fcos,
  title     = {{FCOS}: Fully Convolutional One-Stage Object Detection},
  author    = {Tian, Zhi and Shen, Chunhua and Chen, Hao and He, Tong},
  booktitle = {Proc. Int. Conf. Computer Vision (ICCV)},
  year      = {2019}
}"""
PERMISSIVE = {"Apache-2.0", "BSD-3-Clause", "BSD-2-Clause", "MIT"}  # licenses that the Hub knows

Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]
DryRun = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Write the files there, upload nothing.")
]


def push(
    name: Trainable,
    repository: Annotated[str, typer.Argument(help="hf://owner/repository")],
    weights: Weights = None,
    license: Annotated[
        str | None,
        typer.Option(help="License of the weights.", show_default="that of the published weights"),
    ] = None,
    results: Annotated[
        list[Path] | None, typer.Option(help="Results of `fcos-zoo bench` for the model card.")
    ] = None,
    private: Private = False,
    dry_run: DryRun = None,
) -> None:
    """Publish weights on the Hugging Face Hub: a safetensors file and its model card."""
    from zoo.checkpoint import file_of, write_safetensors

    def write(address: str, folder: Path) -> list[Path]:
        trained = weights or (name if Path(name).suffix in TRAINED else None)
        source = file_of(trained) if trained else fetch_weights(zoo.card(name))
        entry = None if name == trained else zoo.card(name).name
        detector = zoo.get(entry, weights=source) if entry and trained else zoo.get(name)
        card, digest = detector.card, cache.sha256(source)
        origin = "trained with fcos-zoo by the publisher of this page"
        if trained is None:
            origin = f"converted from the published `{card.filename}`"
        rows = [r for r in store.newest(store.read(results or ())) if _of(r, card.name, digest)]
        file, page = folder / f"{card.name}.safetensors", folder / "README.md"
        write_safetensors(detector, file)
        text = model_card(detector, address, license or card.license, origin, rows)
        page.write_text(text, encoding="utf-8")
        shutil.copymode(page, file)  # safetensors makes the file private
        return [file, page]

    publish(repository, "model", write, private, dry_run)


def publish(
    repository: str,
    kind: Literal["model", "dataset"],
    write: Callable[[str, Path], list[Path]],
    private: bool,
    dry_run: Path | None,
) -> None:
    """Upload files to a repository of the Hub in one commit, and create it if necessary.

    Args:
        repository: its hf:// address.
        kind: the type of the repository.
        write: a function of "owner/repository" and a folder that writes the files there and returns
            them.
        private: whether a new repository is private.
        dry_run: the folder to write, without uploading anything.

    Raises:
        ValueError: it is not such an address, or the network must not be used.
        WeightsError: the Hub cannot be reached, or refuses it.
    """
    prefix = "datasets/" if kind == "dataset" else ""
    match = re.fullmatch(rf"hf://{prefix}([\w.-]+/[\w.-]+)/?", repository)
    if not match:
        raise ValueError(f"{repository!r} is not a repository: write hf://{prefix}owner/repository")
    name, api = match[1], None if dry_run else hub()
    with nullcontext(dry_run) if dry_run else tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        files = write(name, folder)
        console = TextConsole(soft_wrap=True)
        if api is None:
            console.print("\n".join(map(str, files)))
            return
        names = ", ".join(file.name for file in files)
        message = f"Upload {names}"
        try:
            with hub_errors():
                api.create_repo(name, private=private, exist_ok=True, repo_type=kind)
                api.upload_folder(
                    repo_id=name, folder_path=folder, commit_message=message, repo_type=kind
                )
        except SourceError as error:
            raise zoo.WeightsError(f"{repository} was not written: {error}") from error
        console.print(f"{repository}: {names}")


def hub() -> HfApi:
    """Return the Hub's client.

    Raises:
        ValueError: the network must not be used.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if offline():
        raise ValueError("FCOS_ZOO_OFFLINE forbids the network: --dry-run DIR writes without it")
    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(endpoint=endpoint(), library_name="fcos-zoo")


def model_card(
    detector: Detector, repository: str, license: str, origin: str, results: Sequence[store.Row]
) -> str:
    """Return the repository's page: description, use, measured figures, license, citation."""
    from reports import tables

    card = detector.card
    known = {"license": license.lower()} if license in PERMISSIVE else {"license": "other"}
    facts = {
        **known,
        "library_name": "fcos-zoo",
        "pipeline_tag": "object-detection",
        "tags": ["object-detection", "fcos", card.family],
    }
    count = sum(parameter.numel() for parameter in detector.parameters()) / 1e6
    measured = "No figures have been measured with these weights."
    if results:
        _, _, measured = tables.page(results).strip().split("\n", 2)  # under a heading of this page
    return f"""\
---
{yaml.safe_dump(facts, sort_keys=False).strip()}
---
# {card.name}

An FCOS detector of {count:.2f} M parameters and {len(detector.classes)} classes, {origin}.
The architecture is that of `{card.source}` in {card.repository}.

## Use

```python
import zoo

address = "hf://{repository}/{card.name}.safetensors"
detector = zoo.get("{card.name}", weights=address)
for detections in detector.detect(["street.jpg"], score_threshold=0.3):
    print(detections.names, detections.boxes)
```

## Measured

{measured}

## License

Of the weights: {license}.

## Citation

```bibtex
{CITATION}
```
"""


def _of(row: store.Row, entry: str, digest: str) -> bool:
    """Whether a row is of the entry and, for an AP, was measured with these weights."""
    cell = row["cell"]
    same = cell["weights"].endswith(f"@{digest[:12]}") or cell["metric"] not in ACCURACY
    return bool(cell["entry"] == entry and same)


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["push", *sys.argv[1:]]))
