"""Print how much code there is, and how many files the two main calls go through.

    python .ci/size.py

The way of a call is every file of the packages in which a function runs, up to the first step of
the optimiser for `fcos-zoo train` and up to the return for `zoo.get`.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("backbones", "fcos", "zoo", "benchmarks", "reports", "tools")
ENTRY = "FCOS_shapes_tiny"
LONG = 300  # lines


class Arrived(BaseException):
    """Ends a traced call; no handler of errors catches it."""


def lines_of(*folders: str) -> dict[str, int]:
    """Lines of the Python files that git tracks below folders."""
    command = ["git", "-C", str(ROOT), "ls-files", *(f"{folder}/*.py" for folder in folders)]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {name: len((ROOT / name).read_text().splitlines()) for name in names}


def files_of(call: Callable[[], Any]) -> list[str]:
    """Files of the packages in which a function ran during a call, in the order of arrival."""
    seen: dict[str, None] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        function = code.co_flags & inspect.CO_OPTIMIZED  # neither a module nor a class body
        if event == "call" and function and code.co_filename.startswith(str(ROOT)):
            name = str(Path(code.co_filename).relative_to(ROOT))
            if name.split("/")[0] in PACKAGES:
                seen.setdefault(name)

    sys.setprofile(note)
    try:
        call()
    except Arrived:
        pass
    finally:
        sys.setprofile(None)
    return list(seen)


def train() -> None:
    """`fcos-zoo train` up to the optimiser's first step."""
    import torch

    from tools.cli import main

    def arrive(*_: Any, **__: Any) -> None:
        raise Arrived

    torch.optim.SGD.step = arrive  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        count = [f"data.shapes.{part}.count=16" for part in ("train", "test")]
        main(["train", ENTRY, "data.workers=0", *count])


def get() -> None:
    """`zoo.get`."""
    import zoo

    zoo.get(ENTRY)


def main() -> None:
    if sys.argv[1:]:
        print(*files_of({"train": train, "get": get}[sys.argv[1]]), sep="\n")
        return
    source, tests = lines_of(*PACKAGES), lines_of("tests")
    print(f"source: {len(source)} files, {sum(source.values())} lines")
    print(f"tests:  {len(tests)} files, {sum(tests.values())} lines")
    for name, count in sorted({**source, **tests}.items()):
        if count > LONG:
            print(f"over {LONG} lines: {name} ({count})")
    for call in ("train", "get"):
        command = [sys.executable, __file__, call]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        out = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        files = [line for line in out.stdout.splitlines() if line.split("/")[0] in PACKAGES]
        core = [
            name
            for name in files
            if name.startswith(("backbones/", "fcos/")) and name.count("/") == 1
        ]
        print(f"{call}: {len(files)} files, {len(core)} of them the model's")
        print("   " + "\n   ".join(files))


if __name__ == "__main__":
    main()
