"""One file for other runtimes: `fcos-zoo export`."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from filelock import FileLock

from fcos.text import TextConsole
from tools.arguments import EXPORTED, Trainable, Weights, name_for_files, words

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.cases import Dataset

SUFFIXES = {"pt2": ".pt2", "aoti": "_aoti.pt2", "onnx": ".onnx", "openvino": ".xml"}
# The package that a format or a precision needs, and the extra that installs it.
PACKAGES: dict[str, tuple[Sequence[str], str]] = {
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "onnx"),
    "openvino": (("openvino", "onnx", "onnxscript"), "openvino"),
    "int8": (("nncf",), "quantize"),
}
# ONNX has no convolution in bf16 before opset 22. Files by AOTInductor were only compared in fp32.
IMPOSSIBLE = {"int8": ("pt2", "aoti"), "fp16": ("aoti",), "bf16": ("onnx", "aoti")}
CALIBRATION = 300  # maximum number of images
LOCK = "export.lock"  # held in an export's folder while it runs


def export(
    name: Trainable,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="WORDS",
            help="Comma-separated: pt2, onnx, openvino, or aoti: .pt2 compiled for this processor.",
        ),
    ] = "pt2",
    weights: Weights = None,
    with_preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing",
            help="Take uint8 images (N, H, W, 3) of any size, and return boxes in their pixels.",
        ),
    ] = False,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            min=1, metavar="HEIGHT WIDTH", help="Size of the input, in pixels.", show_default="any"
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images per forward pass.", show_default="any")
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="The lowest score of a detection.", show_default="the entry's"
        ),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(min=1, help="Keep only the best detections.", show_default="the entry's"),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"],
        typer.Option(
            help="Precision of the network: bf16 not for onnx, int8 not for pt2, aoti only fp32. "
            "OpenVINO computes in fp16 or bf16 only on processors that have it."
        ),
    ] = "fp32",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images like those that the file will get, from which int8 takes the "
            "ranges of values. With --max-drop, a dataset with annotations.",
            show_default="31 embedded photographs",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            metavar="POINTS",
            help="Maximum loss of AP on --calibrate by int8, in points. Layers return to fp32 "
            "until it is not exceeded. This evaluates many times.",
            show_default="any",
        ),
    ] = None,
    fast_bias_correction: Annotated[
        bool,
        typer.Option(
            "--fast-bias-correction",
            help="Correct the biases of OpenVINO's int8 all at once, as those of ONNX always are. "
            "This saves most of the time, and loses more AP.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("outputs/export"),
) -> None:
    """Export an entry as one file for other runtimes, from images to boxes.

    The file takes batches of any number of images of equal size. It is run on photographs, and only
    kept if its detections match the detector's; int8 may differ more. `zoo.load`, `fcos-zoo
    predict` and `fcos-zoo evaluate` read it.

    The how-to guides say how to build an engine of TensorRT from an ONNX file.
    """
    chosen = words(formats, tuple(SUFFIXES), "--format")
    if not chosen:
        raise typer.BadParameter(f"{formats!r} names no format", param_hint="--format")
    if with_preprocessing and size:
        raise typer.BadParameter("it is for images of every size", param_hint="--size")
    if with_preprocessing and "aoti" in chosen:
        raise typer.BadParameter(
            "aoti cannot compile sizes that are computed in the graph",
            param_hint="--with-preprocessing",
        )
    check_precision(precision, chosen)
    if Path(name).suffix in EXPORTED:
        raise typer.BadParameter(
            f"{name} is an exported file: name an entry, or a file that training wrote",
            param_hint="NAME",
        )
    if calibrate and precision != "int8":
        raise typer.BadParameter("is for --precision int8", param_hint="--calibrate")
    if max_drop is not None and calibrate is None:
        raise typer.BadParameter(
            "needs --precision int8 and --calibrate with an annotated dataset",
            param_hint="--max-drop",
        )
    if fast_bias_correction and (precision != "int8" or "openvino" not in chosen):
        raise typer.BadParameter(
            "is for --format openvino --precision int8", param_hint="--fast-bias-correction"
        )
    if out.suffix in EXPORTED:
        raise typer.BadParameter(f"is a folder, not a file like {out}", param_hint="--out")
    for needed in (*chosen, precision):
        check_requirements(needed)

    import zoo
    from backbones.deformable import DeformConv2d
    from benchmarks import exported
    from fcos import export_formats
    from fcos.export import program
    from tools.evaluate import read_dataset
    from zoo.pretrained import DTYPES

    export_formats.check_torch()
    detector = zoo.get(name, weights)
    if "openvino" in chosen and any(isinstance(m, DeformConv2d) for m in detector.modules()):
        raise ValueError(
            f"OpenVINO cannot read the deformable convolutions of {name}: choose --format onnx"
        )
    decoder = detector.decoder
    if score_threshold is not None:
        # The decoder's threshold may be for class scores, which differ from those of detections.
        decoder.score_threshold = min(decoder.score_threshold, score_threshold)
        decoder.min_score = score_threshold
    decoder.max_detections = max_detections or decoder.max_detections
    facts = export_formats.describe(detector, size, images, with_preprocessing, precision)
    tolerance = exported.TOLERANCES.get(
        precision, exported.RESIZED if with_preprocessing else exported.EXACT
    )
    stem = name_for_files(name) + ("" if precision == "fp32" else f"_{precision}")
    out.mkdir(parents=True, exist_ok=True)
    console = TextConsole(soft_wrap=True)
    done: dict[str, Path] = {}
    remove_unfinished(out)
    # A separate folder for this export, as others may write the same names.
    drafts_folder = tempfile.TemporaryDirectory(prefix=f".{stem}.", dir=out)
    with drafts_folder as folder, FileLock(Path(folder) / LOCK):
        drafts = Path(folder)
        dataset = read_dataset([calibrate], drafts) if calibrate and max_drop is not None else None
        photos = []  # read before a minute is spent on tracing
        if precision == "int8":
            photos = exported.calibration_images(dataset or calibrate, CALIBRATION)
        for form in chosen:
            draft, onnx = drafts / f"{stem}{SUFFIXES[form]}", drafts / f"{stem}.onnx"
            dtype = DTYPES.get(precision, DTYPES["fp32"])
            if form == "openvino" and precision in ("fp16", "bf16"):
                # OpenVINO chooses the precision when it loads the file, and refuses graphs of mixed
                # precision.
                dtype, onnx = DTYPES["fp32"], drafts / "fp32.onnx"
            with console.status(f"{name}: tracing and writing {form}"):
                trace = partial(program, detector, size, images, with_preprocessing, dtype=dtype)
                if form == "pt2":
                    export_formats.write_pt2(trace(), draft, facts)
                elif form == "aoti":
                    export_formats.write_aoti(trace(own_sizes=False), draft, facts)
                elif not onnx.exists():
                    export_formats.write_onnx(trace(batched_nms=True), onnx, facts)
                if form == "openvino":
                    export_formats.write_openvino(onnx, draft, facts)
            if precision == "int8":
                with console.status(f"{draft.name}: quantising"):
                    draft = _quantised(
                        draft, photos, dataset, max_drop, fast_bias_correction, facts
                    )
            with console.status(f"{draft.name}: comparing with the detector"):
                outcome = exported.compare(detector, zoo.load(draft), tolerance)
            size_mb = sum(part.stat().st_size for part in _files(draft)) / 1e6
            done[f"{stem}{SUFFIXES[form]}"] = draft
            console.print(f"{out / stem}{SUFFIXES[form]}, {size_mb:.1f} MB: {outcome}")
        for target_name, draft in done.items():
            for part, final in zip(_files(draft), _files(out / target_name), strict=True):
                part.replace(final)


def remove_unfinished(out: Path) -> None:
    """Remove the hidden folders that killed exports left in `out`."""
    for path in out.glob(f".*/{LOCK}"):
        lock = FileLock(path)
        with suppress(OSError):  # an export is running, or the folder is another user's
            lock.acquire(timeout=0)
            lock.release()
            shutil.rmtree(path.parent)


def check_precision(precision: str, formats: Sequence[str]) -> None:
    """Raise a typer.BadParameter if a format cannot be written in a precision."""
    possible = set(SUFFIXES) - set(IMPOSSIBLE.get(precision, ()))
    for form in formats:
        if form not in possible:
            raise typer.BadParameter(
                f"{form} cannot be written in {precision}: choose --format "
                f"{','.join(sorted(possible))}",
                param_hint="--precision",
            )


def _quantised(
    path: Path,
    photos: Sequence[Tensor],
    dataset: Dataset | None,
    max_drop: float | None,
    fast_bias_correction: bool,
    description: dict[str, Any],
) -> Path:
    """Write an int8 file beside the fp32 one; with a `max_drop`, the dataset has annotations."""
    import zoo
    from benchmarks import exported
    from fcos import quantize

    file, control = zoo.load(path), None
    inputs = [exported.graph_input(file, photo) for photo in photos]
    if dataset is not None and max_drop is not None:
        control = exported.accuracy_control(file, dataset, max_drop)
    target = path.with_name(f"int8{path.suffix}")
    if path.suffix == ".onnx":
        quantize.quantize_onnx(path, target, inputs, description, control)
    else:
        quantize.quantize_openvino(path, target, inputs, description, control, fast_bias_correction)
    return target


def _files(path: Path) -> list[Path]:
    """Return the files of a format; OpenVINO's weights are a separate file, which comes first."""
    return [path.with_suffix(".bin"), path] if path.suffix == ".xml" else [path]


def check_requirements(form: str) -> None:
    """Check that a format or precision can be written here, before tracing takes a minute.

    Raises:
        ImportError: a package is not installed.
        RuntimeError: there is no C++ compiler, which AOTInductor needs.
    """
    packages, extra = PACKAGES.get(form, ((), ""))
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"{package} is not installed: pip install 'fcos-zoo[{extra}]'")
    if form == "aoti":
        from torch._inductor import cpp_builder, exc

        try:
            cpp_builder.get_cpp_compiler()
        except exc.InvalidCxxCompiler:
            raise RuntimeError(
                "--format aoti needs a C++ compiler: install g++, or name another in CXX"
            ) from None


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["export", *sys.argv[1:]]))
