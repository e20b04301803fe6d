"""Weights on the Hugging Face Hub: `fcos-zoo push`."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from zoo.checkpoint import file_of

    address = repository_of(repository)
    api = None if dry_run else hub()
    trained = weights or (name if Path(name).suffix in TRAINED else None)
    source = file_of(trained) if trained else fetch_weights(zoo.card(name))
    entry = None if name == trained else zoo.card(name).name
    detector = zoo.get(entry, weights=source) if entry and trained else zoo.get(name)
    card = detector.card
    folder = nullcontext(dry_run) if dry_run else tempfile.TemporaryDirectory()
    with folder as place:
        files = write(
            detector,
            Path(place),
            address,
            license=license or card.license,
            origin=f"converted from the published `{card.filename}`"
            if trained is None
            else "trained with fcos-zoo by the publisher of this page",
            results=store.newest(store.read(results or ())),
            digest=cache.sha256(source),
        )
        console = TextConsole(soft_wrap=True)
        if api is not None:
            upload(api, address, place, private, f"Upload {card.name}")
            console.print(f"{repository}: {', '.join(file.name for file in files)}")
        else:
            for file in files:
                console.print(str(file))


def repository_of(address: str, prefix: str = "") -> str:
    """The "owner/repository" of an hf:// address; datasets have the `prefix` "datasets/".

    Raises:
        ValueError: it is not such an address.
    """
    match = re.fullmatch(rf"hf://{prefix}([\w.-]+/[\w.-]+)/?", address)
    if not match:
        raise ValueError(f"{address!r} is not a repository: write hf://{prefix}owner/repository")
    return match[1]


def upload(
    api: HfApi,
    repository: str,
    folder: str | Path,
    private: bool,
    message: str,
    kind: str = "model",
) -> None:
    """Upload a folder in one commit; the repository is created if need be.

    Raises:
        WeightsError: the Hub cannot be reached, or refuses it.
    """
    try:
        with hub_errors():
            api.create_repo(repository, private=private, exist_ok=True, repo_type=kind)
            api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=message, repo_type=kind
            )
    except SourceError as error:
        raise zoo.WeightsError(f"{repository} was not written: {error}") from error


def hub() -> HfApi:
    """The Hub's client.

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


def write(
    detector: Detector,
    folder: Path,
    repository: str,
    *,
    license: str,
    origin: str,
    results: Sequence[store.Row],
    digest: str,
) -> list[Path]:
    """Write `<entry>.safetensors` and `README.md`; `digest` is of the file the weights are from."""
    from zoo.checkpoint import write_safetensors

    folder.mkdir(parents=True, exist_ok=True)
    weights, page = folder / f"{detector.card.name}.safetensors", folder / "README.md"
    write_safetensors(detector, weights)
    mine = [row for row in results if _of(row, detector.card.name, digest)]
    page.write_text(model_card(detector, repository, license, origin, mine), encoding="utf-8")
    shutil.copymode(page, weights)  # safetensors lets nobody else read
    return [weights, page]


def model_card(
    detector: Detector, repository: str, license: str, origin: str, results: Sequence[store.Row]
) -> str:
    """The repository's page: what it is, how to load it, measured figures, license, citation."""
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
    """Whether a row is of the entry; an AP must have been measured with these weights."""
    cell = row["cell"]
    same = cell["weights"].endswith(f"@{digest[:12]}") or cell["metric"] not in ACCURACY
    return bool(cell["entry"] == entry and same)


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["push", *sys.argv[1:]]))
