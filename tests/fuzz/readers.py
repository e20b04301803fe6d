"""Fuzz the readers of annotations, results rows and checkpoints.

    pip install atheris
    python tests/fuzz/readers.py annotations corpus/ -max_total_time=3600

The first argument is a reader; the others go to libFuzzer, which keeps what it finds in `corpus/`.
Whatever the bytes, a reader returns or raises one of its documented errors. What another error or
a crash was found with belongs into `CASES`, which `test_fuzz_cases.py` replays.
"""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import atheris

    instrumented: Any = atheris.instrument_imports(include=["benchmarks", "fcos", "zoo"])
else:
    instrumented = nullcontext()
with instrumented:
    import zoo
    from benchmarks import store
    from fcos.coco_eval import evaluate_detections
    from fcos.data.annotations import load_annotations, valid_objects
    from zoo.checkpoint import read_checkpoint

TEMPORARY = tempfile.TemporaryDirectory()  # removed at the end of the program
FOLDER = Path(TEMPORARY.name)


def annotations(content: bytes) -> None:
    """What training and evaluation read; both must accept the same objects."""
    path = FOLDER / "annotations.json"
    path.write_bytes(content)
    try:
        loaded = load_annotations(path)
        objects = valid_objects(loaded)
    except ValueError:
        return
    rows = [{**thing, "score": 0.5} for thing in objects if min(thing["bbox"][2:]) >= 0]
    evaluate_detections(rows, loaded)


def rows(content: bytes) -> None:
    """A results file."""
    path = FOLDER / "results.jsonl"
    path.write_bytes(content)
    try:
        store.newest(store.read([path]))
    except ValueError:
        return


def checkpoint(content: bytes) -> None:
    """A file of weights of any format."""
    path = FOLDER / "weights.pth"
    path.write_bytes(content)
    try:
        read_checkpoint(path)
    except (zoo.WeightsError, zoo.CheckpointError):
        return


READERS: dict[str, Callable[[bytes], None]] = {
    "annotations": annotations,
    "rows": rows,
    "checkpoint": checkpoint,
}


def _with(**changed: Any) -> bytes:
    """Annotations of one object, with some of its fields changed."""
    image = {"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}
    thing = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3], "area": 9}
    content = {"images": [image], "categories": [{"id": 1, "name": "a"}]}
    return json.dumps({**content, "annotations": [{**thing, **changed}]}).encode()


CASES: dict[str, list[bytes]] = {
    "annotations": [
        *(_with(bbox=box) for box in ([1e308] * 4, [0, 0, -1, 3], ["1"] * 4, None, [1] * 3, {})),
        *(_with(area=area) for area in ("9", float("inf"), -1, [9], 1e300)),
        *(_with(iscrowd=crowd) for crowd in ("0", 2, [1], {"a": 1}, float("nan"))),
        *(_with(image_id=key) for key in ([1], "1", 1.0, None, True, 10**30)),
        *(_with(segmentation=mask, bbox=None) for mask in ([[1, 1]], {"counts": "x"}, [[]], "")),
        *(b"", b"[]", b"{}", b"[" * 100_000, b"\xff\xfe{", b'{"images": [[]]}', b"null"),
    ],
    "rows": [
        b"",
        b"{}\n",
        b"[]\nnull\n",
        b'{"schema": 99}',
        b'{"schema": [1]}',
        b"\xff",
        b"[" * 9999,
    ],
    "checkpoint": [
        b"",
        b"PK\x03\x04",
        pickle.dumps({"model": {1: 2}}),
        pickle.dumps(print),
        pickle.dumps({"model": {"a": b"x"}, "classes": 3}),
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
    ],
}


if __name__ == "__main__":
    reader = READERS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, reader)
    atheris.Fuzz()
