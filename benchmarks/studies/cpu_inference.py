"""Ways to run FCOS_R_50_1x in fp32 on a CPU: `python -m benchmarks.studies.cpu_inference`.

Every contender takes the same 8-bit photograph to its boxes, batch 1, 800x1088, in one process and
in alternating rounds, in channels_last. OpenVINO's files are those that `fcos-zoo export` writes
for the entry. A second table shows the time of the network by kind of layer.

Two alternatives were not faster than Winograd's algorithm in eager mode (medians of six rounds on
two cores of an AMD EPYC with AVX2, which a compiler kept partly busy). torch.compile with freezing
took 3185 ms, Winograd's algorithm 2565 ms and torchvision 3701 ms. Compiled with Winograd's
convolutions as a custom operator, the network took 2679 ms, eager 2521 ms and torchvision 3417 ms.
Both were compared with an earlier, slower implementation of Winograd's algorithm. Keeping freed
memory instead of returning it to the system, by glibc's MALLOC_TRIM_THRESHOLD_ and its companions,
saves 4% of the CPU time (2.62 s instead of 2.73 s on one thread).
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

import zoo
from benchmarks import baselines
from benchmarks.studies import side_by_side as study
from benchmarks.studies.compare_torchvision import our_detector, photograph, time_torchvision
from fcos import Detector

KINDS = {  # their names in torch and OpenVINO
    "convolutions": ("mkldnn_convolution", "_slow_conv2d_forward", "bmm", "mm", "Convolution"),
    "group norms": ("native_group_norm", "MVN", "GroupNormalization"),
    "ReLU": ("clamp_min_", "clamp_min", "Relu"),
    "other layouts, copies": ("copy_", "Reorder"),
}


def main() -> None:
    """Print the time of each contender, and of the kinds of layers of each network."""
    parser = study.arguments(__doc__, rounds=7)
    add = parser.add_argument
    add("--compile", action="store_true", help="also torch.compile with freezing, 30 s each")
    add("--openvino", type=Path, nargs="*", default=[], help="exported .xml files")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    photo = photograph()
    ours: dict[str, Any] = {
        "eager": our_detector(None, photo, "fp32"),
        "eager, Winograd": our_detector(None, photo, "fp32").use_winograd(),
    }
    if options.compile:
        ours["compiled with freezing"] = frozen(our_detector(None, photo, "fp32"))
    files = {f"OpenVINO {(f := zoo.load(path)).precision}": f for path in options.openvino}
    theirs = baselines.randomized_torchvision(photo).to(memory_format=torch.channels_last)
    contenders = {name: partial(each.find, [photo]) for name, each in {**ours, **files}.items()}
    contenders["torchvision"] = partial(time_torchvision, theirs, photo)
    with torch.inference_mode():
        frame = study.side_by_side(contenders, options.rounds, warmup=1)
        title = "Image to boxes, batch 1, 800x1088, fp32"
        print(study.markdown(compared(frame), title), end="\n\n")
        spent = {name: torch_layers(each, photo) for name, each in ours.items()}
        spent |= {
            name: openvino_layers(path, options.threads, photo)
            for name, path in zip(files, options.openvino, strict=True)
        }
        title = "Milliseconds of the network by kind of layer"
        print(study.markdown(layers(spent), title), end="\n\n")
        print(difference(ours["eager"], ours["eager, Winograd"], photo))
    print(study.conditions("cpu", options.rounds))


def frozen(detector: Detector) -> Detector:
    """Compile the detector with constant weights, which fuses activations and sums."""
    for part in (detector.backbone, detector.pyramid, detector.head):
        part.compile(dynamic=True, options={"freezing": True})
    return detector


def compared(frame: pd.DataFrame) -> list[dict[str, str]]:
    """Return median milliseconds, and the speedup over eager and torchvision."""
    return [
        {
            "": str(name),
            "ms": f"{1e3 * seconds:.0f}",
            **{
                f"times as fast as {other}": study.speedup(frame, str(name), other)
                for other in ("eager", "torchvision")
            },
        }
        for name, seconds in study.medians(frame)["seconds"].items()
    ]


def layers(spent: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    """Return a row for each network: milliseconds by kind of layer, and their share."""
    rows = []
    for name, times in spent.items():
        total = sum(times.values())
        known = {kind: times[kind] for kind in KINDS}
        known["others"] = total - sum(known.values())
        shares = {kind: f"{ms:.1f} ({ms / total:.1%})" for kind, ms in known.items()}
        rows.append({"": name, "total": f"{total:.0f}", **shares})
    return rows


def torch_layers(detector: Detector, photo: Tensor, runs: int = 3) -> Counter[str]:
    """Return milliseconds of the network by kind of operator, medians over runs."""
    batch = detector.prepare([photo])[0]
    measured = []
    for _ in range(runs):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            detector.network(batch)
        averages = profile.key_averages()
        measured.append(by_kind((a.key, a.self_cpu_time_total / 1e3) for a in averages))
    return _medians(measured)


def openvino_layers(path: Path, threads: int, photo: Tensor, runs: int = 3) -> Counter[str]:
    """Do the same for OpenVINO's whole graph, whose layers include fused ReLUs, sums and norms."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": True,
    }
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    images = zoo.load(path).prepare(photo)[0][None]
    measured = []
    for _ in range(runs + 1):
        request.infer([images])
        nodes = request.profiling_info
        times = ((node.node_type, node.real_time.total_seconds() * 1e3) for node in nodes)
        measured.append(by_kind(times))
    return _medians(measured[1:])


def by_kind(times: Any) -> Counter[str]:
    """Sum (operator, milliseconds) by `KINDS`; operators of no kind keep their names."""
    kinds = {operator: kind for kind, operators in KINDS.items() for operator in operators}
    total: Counter[str] = Counter()
    for operator, milliseconds in times:
        name = operator.removeprefix("aten::")
        total[kinds.get(name, name)] += milliseconds
    return total


def _medians(measured: Sequence[Counter[str]]) -> Counter[str]:
    keys = {key for times in measured for key in times}
    return Counter({key: statistics.median(times[key] for times in measured) for key in keys})


def difference(eager: Detector, other: Detector, photo: Tensor) -> str:
    """Return a sentence with the largest difference of the class logits, and their range."""
    batch = eager.prepare([photo])[0]
    pairs = zip(eager.network(batch), other.network(batch), strict=True)
    logits = [(a.logits, b.logits) for a, b in pairs]
    largest = max(float((a - b).abs().max()) for a, b in logits)
    spread = max(float(a.max() - a.min()) for a, _ in logits)
    return f"Winograd changes class logits, which have a range of {spread:.3g}, by {largest:.2g}"


if __name__ == "__main__":
    main()
