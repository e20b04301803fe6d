"""Parameter counts of all models: `python -m reports.parameters > reports/parameters.md`."""

from __future__ import annotations

import torch

import zoo


def page() -> str:
    """A markdown table; the models are built on the meta device, so it takes seconds."""
    lines = [
        "# Parameters",
        "",
        "Learnable parameters of every model in millions, including frozen ones but not the",
        "constants of frozen norms; counted by `python -m reports.parameters`. Published: the",
        "count on the page of the model (HRNet-FCOS counts only trained tensors).",
        "",
        "| model | backbone | pyramid | head | total | published |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in zoo.names():
        with torch.device("meta"):
            detector = zoo.build(name)
        parts = (detector.backbone, detector.pyramid, detector.head, detector)
        counts = " | ".join(f"{_count(part):.3f}" for part in parts)
        printed = zoo.card(name).published.get("params_m", "-")
        lines.append(f"| {name} | {counts} | {printed} |")
    return "\n".join(lines) + "\n"


def _count(module: object) -> float:
    assert isinstance(module, torch.nn.Module)
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


if __name__ == "__main__":
    print(page(), end="")
