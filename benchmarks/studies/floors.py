"""The least time that an H100 needs for FCOS_R_50_1x: `python -m benchmarks.studies.floors`.

Writes `reports/floors.md`. Nothing is timed: the operations and bytes of one image are counted on
the network and divided by the rates of NVIDIA's datasheet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import zoo
from benchmarks import flops

ENTRY = "FCOS_R_50_1x"
IMAGE = (800, 1333)
REPORT = Path(__file__).resolve().parents[2] / "reports" / "floors.md"
BANDWIDTH = 3.35e12  # bytes per second


@dataclass(frozen=True)
class Arithmetic:
    """Bytes of a number, and operations per second."""

    name: str
    size: int
    rate: float


# "NVIDIA H100 Tensor Core GPU" datasheet, H100 SXM. It states the rates of tensor cores for sparse
# matrices, which are twice those of dense ones.
ARITHMETIC = (
    Arithmetic("fp32", 4, 67e12),
    Arithmetic("TF32", 4, 989e12 / 2),
    Arithmetic("bf16, fp16", 2, 1979e12 / 2),
)


def main() -> None:
    """Count and write the report."""
    detector = zoo.build(ENTRY).eval()
    divisor = detector.normalizer.divisor
    height, width = (-(-side // divisor) * divisor for side in IMAGE)
    counted = flops.count_at(detector, height, width)
    parameters = flops.parameters(detector)["parameters"]
    REPORT.write_text(report(counted["gflops"], counted["mega_activations"], parameters))
    print(f"written to {REPORT}")


def report(gflops: float, mega_activations: float, parameters: int) -> str:
    """The page.

    Args:
        gflops: multiply-adds of one image, in 10^9.
        mega_activations: outputs of all convolutions, in 10^6.
        parameters: of the detector.
    """
    operations = 2e9 * gflops
    values = parameters + 2e6 * mega_activations
    lines = [
        f"# Floors for {ENTRY} on an H100\n",
        f"One image of {IMAGE[0]}x{IMAGE[1]}, computed by `python -m benchmarks.studies.floors`, "
        "not measured.\n",
        f"- {gflops:.1f} billion multiply-adds, two operations each;",
        f"- {parameters / 1e6:.1f} million parameters, read once;",
        f"- {mega_activations:.1f} million activations (outputs of convolutions), each written "
        "once and read once, as if norms, ReLUs and sums were fused into the convolutions.\n",
        f"Rates of NVIDIA's datasheet for the H100 SXM: {BANDWIDTH / 1e12} TB/s, and operations as "
        "in the table (for dense matrices, which is half of the sparse rates that it states for "
        "tensor cores). A real run cannot be faster than the larger of both times; preprocessing, "
        "decoding and NMS come on top.\n",
        "| arithmetic | TFLOP/s | operations / rate, ms | MB moved | bytes / bandwidth, ms |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for one in ARITHMETIC:
        moved = one.size * values
        lines.append(
            f"| {one.name} | {one.rate / 1e12:.0f} | {1e3 * operations / one.rate:.2f} "
            f"| {moved / 1e6:.0f} | {1e3 * moved / BANDWIDTH:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
