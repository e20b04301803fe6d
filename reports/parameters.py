"""Parameter counts of all entries: `python -m reports.parameters > reports/parameters.md`."""

from __future__ import annotations

import torch

import zoo


def page() -> str:
    """A markdown table; counted on networks without storage, so it takes seconds."""
    lines = [
        "# Parameters",
        "",
        "Learnable tensors of every entry in millions, frozen ones included, constants of frozen",
        "norms not; counted by `python -m reports.parameters`. Published: what a system's own page",
        "prints (HRNet-FCOS counts trained tensors alone).",
        "",
        "| entry | backbone | pyramid | head | whole | published |",
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
