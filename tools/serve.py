"""A web app for a model, which runs on this machine: `fcos-zoo serve`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fcos.text import TextConsole
from tools.arguments import (
    Device,
    Model,
    Precision,
    Weights,
    exact_float32,
    load_model,
)

if TYPE_CHECKING:
    from fcos import Detector
    from zoo import ExportedDetector

COLUMNS = ["name", "score", "x1", "y1", "x2", "y2"]


def serve(
    name: Model = "FCOS_shapes_tiny",
    weights: Weights = None,
    device: Device = None,
    precision: Precision = "fp32",
    port: Annotated[int, typer.Option(min=0, help="Port of 127.0.0.1.")] = 7860,
) -> None:
    """Serve an app that draws the detections of a model in uploaded images.

    It needs the extra `demo`, which installs Gradio. Only this machine can open the app.
    """
    with TextConsole(stderr=True).status("importing Gradio"):
        import_gradio()
    exact_float32()
    detector = load_model(name, weights, device, precision)
    app(detector, name).launch(server_name="127.0.0.1", server_port=port)


def app(detector: Detector | ExportedDetector, name: str) -> Any:
    """Make a Gradio app that draws the detections in an image and lists them in a table."""
    gradio = import_gradio()

    def detect(image: Any, score_threshold: float) -> tuple[Any, Any]:
        if image is None:
            raise gradio.Error("Choose an image first.")
        [detections] = detector.detect([image], score_threshold=score_threshold)
        return detections.draw(), detections.to_pandas()[COLUMNS].round(4)

    return gradio.Interface(
        detect,
        [
            gradio.Image(type="pil", label="image"),
            gradio.Slider(0.05, 0.95, 0.3, label="score threshold"),
        ],
        [gradio.Image(label="detections"), gradio.Dataframe(headers=COLUMNS, label="boxes")],
        title=name,
        flagging_mode="never",
        analytics_enabled=False,
    )


def import_gradio() -> Any:
    """Import Gradio, with its reports to its makers switched off.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError:
        raise ImportError("gradio is not installed: pip install 'fcos-zoo[demo]'") from None
    return gradio


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["serve", *sys.argv[1:]]))
