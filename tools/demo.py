"""Try a model in a web browser: `fcos-zoo demo`."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from fcos.text import TextConsole
from tools.arguments import Model
from tools.export import check_requirements

PAGE = Path(__file__).with_suffix(".html")
RUNTIME = "onnxruntime-web@1.30.0"  # an npm package, under the MIT license
RUNTIME_FILES = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)


def demo(
    name: Model = "FCOS_shapes_tiny",
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("outputs/demo"),
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="The dist folder of the npm package onnxruntime-web.",
            show_default=f"npm downloads {RUNTIME}",
        ),
    ] = None,
    serve: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Serve the page on this port until Ctrl-C."),
    ] = None,
) -> None:
    """Write a web page that runs a model in the browser, on images and the webcam.

    NAME is an entry or an ONNX file that `fcos-zoo export` wrote. The page works offline from any
    web server, and uploads nothing.
    """
    if runtime and (lacking := [each for each in RUNTIME_FILES if not (runtime / each).is_file()]):
        raise FileNotFoundError(
            f"{runtime} lacks {lacking[0]}: name the dist folder of the npm package {RUNTIME}"
        )
    check_requirements("onnx")
    import zoo

    detector = zoo.load(name) if name.endswith(".onnx") else zoo.get(name)
    out.mkdir(parents=True, exist_ok=True)
    console = TextConsole(soft_wrap=True)
    with console.status(f"{out}: adding {RUNTIME}"):
        add_runtime(out, runtime)
    with console.status(f"{out}: adding {name}"):
        console.print(f"{name}: {add_model(detector, out / 'model.onnx')}")
    shutil.copyfile(PAGE, out / "index.html")
    if serve is None:
        console.print(f"{out}: look at it with python -m http.server --directory {out}")
        return
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(out))
    with http.server.ThreadingHTTPServer(("127.0.0.1", serve), handler) as server:
        console.print(f"{out}: open http://127.0.0.1:{server.server_port} (Ctrl-C ends)")
        server.serve_forever()


def add_runtime(out: Path, folder: Path | None) -> None:
    """Put the runtime's files beside the page, unless they exist.

    Raises:
        RuntimeError: npm is not installed, or could not download the package.
    """
    if folder is None and all((out / name).is_file() for name in RUNTIME_FILES):
        return
    with tempfile.TemporaryDirectory() as unpacked:
        if folder is None:
            folder = download_runtime(Path(unpacked))
        for name in RUNTIME_FILES:
            shutil.copyfile(folder / name, out / name)


def download_runtime(folder: Path) -> Path:
    """Download the npm package into a folder; returns the folder of its files.

    Raises:
        RuntimeError: npm is not installed, or could not download it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            "npm is not installed: install Node.js, or name the dist folder of the npm package "
            "onnxruntime-web with --runtime"
        )
    command = [npm, "pack", RUNTIME, "--silent", "--pack-destination", str(folder)]
    packed = subprocess.run(command, capture_output=True, text=True)
    if packed.returncode:
        reason = (packed.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RuntimeError(f"npm could not download {RUNTIME}: {reason}")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as package:
        for name in RUNTIME_FILES:
            member = package.extractfile(f"package/dist/{name}")
            assert member is not None
            (folder / name).write_bytes(member.read())
    return folder


def add_model(detector: Any, path: Path) -> str:
    """Copy an ONNX file, or export a detector as one that takes images of any size.

    Returns:
        A sentence that says what was done.

    Raises:
        RuntimeError: the file's detections differ from those of the detector.
    """
    import zoo
    from benchmarks import exported
    from fcos import export_formats
    from fcos.export import program

    if isinstance(detector, zoo.ExportedDetector):
        shutil.copyfile(detector.path, path)
        return "copied"
    draft = path.with_name("unfinished.onnx")
    try:
        graph = program(detector, batched_nms=True)
        export_formats.write_onnx(graph, draft, export_formats.describe(detector))
        outcome = exported.compare(detector, zoo.load(draft))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return outcome


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["demo", *sys.argv[1:]]))
