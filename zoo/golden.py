"""Compare an entry with numbers that its original code computed.

A fixture is `<entry>.json` and `<entry>.npz`: the shapes of the published checkpoint's tensors,
which are drawn at random by name, an image, ground truth, and the outputs of the original code for
them (see tests/golden/README.md).
"""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcos import Detector
from fcos.detections import matches
from fcos.images import load_image
from zoo import formats
from zoo.pretrained import build, load_checkpoint

ATOL, RTOL = 2e-4, 1e-3  # logits and quality
LTRB_ATOL = 0.05  # pixels
MATCHED = 0.98  # fraction of the detections


@dataclass(frozen=True)
class Check:
    """One comparison: its name, its largest error as a fraction of the tolerance, and a detail.

    `unstable` means that no implementation could pass, since our own network does not agree with
    itself when rounding errors change with the order of operations.
    """

    what: str
    excess: float
    detail: str
    unstable: bool = False

    @property
    def passed(self) -> bool:
        return self.excess <= 1 or self.unstable


class Fixture:
    """A golden fixture on disk; `path` is its JSON."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec: dict[str, Any] = json.loads(path.read_text())
        self.entry: str = self.spec["entry"]
        with np.load(path.with_suffix(".npz")) as arrays:
            self.arrays = {key: torch.from_numpy(arrays[key]) for key in arrays.files}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the checkpoint, with keys and shapes as published."""
        return {tensor["key"]: draw_tensor(**tensor) for tensor in self.spec["tensors"]}

    def image(self) -> Tensor:
        """Return the generated RGB image (3, H, W), uint8."""
        spec = self.spec["input"]
        return draw_image(spec["seed"], spec["height"], spec["width"])

    def ground_truth(self) -> dict[str, Tensor]:
        """Return the boxes and labels of the loss values."""
        spec, size = self.spec["losses"], self.spec["input"]
        return draw_boxes(
            spec["gt_seed"],
            spec["gt_count"],
            size["height"],
            size["width"],
            self.spec["num_classes"],
        )


def find(folder: Path) -> list[Fixture]:
    """Return all fixtures in a folder and its subfolders.

    Raises:
        FileNotFoundError: there is none.
    """
    paths = sorted(path for path in folder.rglob("*.json") if path.with_suffix(".npz").exists())
    if not paths:
        raise FileNotFoundError(f"no fixtures (NAME.json beside NAME.npz) in {folder}")
    return [Fixture(path) for path in paths]


def verify(
    fixture: Fixture, images: Path | None = None, device: str | torch.device = "cpu"
) -> Iterator[Check]:
    """Compare everything that a fixture holds, and yield one check at a time.

    Args:
        images: the folder of real images; None leaves out that comparison.
        device: device of our detector.
    """
    detector = build(fixture.entry)
    state = fixture.state_dict()
    load_checkpoint(detector, state)
    detector.eval().to(device)
    image = fixture.image()
    with torch.no_grad():
        yield from _check_levels(detector, fixture, image)
    yield _check_detections("detections", detector([image])[0], fixture.arrays, "")
    yield from _check_losses(detector, fixture, state, image)
    real = fixture.spec["real"]
    if images is not None:
        photograph = images / real["image"]
        if photograph.is_file():
            yield _check_real(detector, fixture, photograph)
        else:
            missing = f"no photograph, {photograph} is missing: name the folder that has it"
            yield Check("real image", float("inf"), missing)


def _check_real(detector: Detector, fixture: Fixture, image: Path) -> Check:
    ours = _detect(detector, image)
    check = _check_detections("real image", ours, fixture.arrays, "real_")
    if check.passed:
        return check
    # Deep deformable networks with random weights can amplify a rounding error without bound.
    key = {"boxes": "real_boxes", "scores": "real_scores", "labels": "real_classes"}
    fused = _detect(copy.deepcopy(detector).fuse(), image)
    itself = _check_detections("", fused, {key[k]: v for k, v in ours.items()}, "real_")
    if itself.passed:
        return check
    detail = f"{check.detail}, unstable: {itself.detail} with itself, norms fused"
    return Check("real image", check.excess, detail, unstable=True)


def _detect(detector: Detector, image: Path) -> dict[str, Tensor]:
    """Return the detections in an image file, with the test-time resize."""
    with torch.no_grad():
        return detector.find([load_image(image)])[0]


def _check_levels(detector: Detector, fixture: Fixture, image: Tensor) -> Iterator[Check]:
    levels = detector.levels([image])
    tolerances = {"logits": (ATOL, RTOL), "ltrb": (LTRB_ATOL, RTOL), "quality": (ATOL, RTOL)}
    for what, (atol, rtol) in tolerances.items():
        worst = 0.0
        for i, level in enumerate(levels):
            ours = getattr(level, what)
            key = f"{what}_{i}"
            if (ours is None) != (key not in fixture.arrays):
                yield Check(what, float("inf"), f"{key}: only one side has it")
                return
            if ours is None:
                continue
            theirs = fixture.arrays[key]
            if ours[0].numel() != theirs.numel():
                yield Check(what, float("inf"), f"{key}: {tuple(ours.shape)}")
                return
            worst = max(worst, _excess(ours[0].reshape(theirs.shape), theirs, atol, rtol))
        if f"{what}_0" in fixture.arrays:
            yield Check(what, worst, f"{worst:.3f} of tolerance")


def _check_detections(
    what: str, ours: Mapping[str, Tensor], arrays: Mapping[str, Tensor], prefix: str
) -> Check:
    theirs = {name: arrays[f"{prefix}{name}"] for name in ("boxes", "scores")}
    theirs["labels"] = arrays[f"{prefix}classes"]
    matched = matches(theirs, {name: value.cpu() for name, value in ours.items()})
    n = max(len(theirs["boxes"]), len(ours["boxes"]))
    excess = (1 - matched / n) / (1 - MATCHED) if n else 0.0
    return Check(what, excess, f"{matched} of {n}")


def _check_losses(
    detector: Detector, fixture: Fixture, state: Mapping[str, Tensor], image: Tensor
) -> list[Check]:
    """Compare losses and gradients in float32 and, if that fails, in float64.

    With batch statistics, a rounding error that changes the sign of a ReLU's input can change a
    gradient by more than the tolerance; whether that happens depends on the number of threads.
    """
    checks = list(_compare_losses(detector, fixture, state, image))
    if all(check.passed for check in checks):
        return checks
    precise = build(fixture.entry).double()
    load_checkpoint(precise, state)
    precise.to(detector.head.cls_logits.weight.device)
    return list(_compare_losses(precise, fixture, state, image))


def _compare_losses(
    detector: Detector, fixture: Fixture, state: Mapping[str, Tensor], image: Tensor
) -> Iterator[Check]:
    detector.train()
    losses = detector([image], [fixture.ground_truth()])
    assert isinstance(losses, dict)
    names = ("loss_cls", "loss_box", "loss_quality")
    expected = dict(zip(names, fixture.spec["losses"]["values"].values(), strict=False))
    worst = max(
        _excess(losses[name].detach(), torch.tensor(value), 0, RTOL)
        for name, value in expected.items()
    )
    same = set(losses) == set(expected)
    yield Check("losses", worst if same else float("inf"), f"{worst:.3f} of tolerance")

    torch.stack(list(losses.values())).sum().backward()
    gradients = dict(detector.named_parameters())
    keys = formats.translate(formats.prepare(state), detector)
    worst, at = 0.0, ""
    for key, value in fixture.spec["losses"]["grad_norms"].items():
        parts = [name for k, name in keys.items() if k == key or k.startswith(f"{key}.")]
        grads = [gradients[name].grad for name in parts if name]
        if not grads or any(grad is None for grad in grads):
            yield Check("gradients", float("inf"), f"{key}: no gradient")
            return
        norm = torch.stack([grad.norm() for grad in grads if grad is not None]).norm()
        excess = _excess(norm, torch.tensor(value), 0, RTOL)
        worst, at = max((worst, at), (excess, key))
    yield Check("gradients", worst, f"{worst:.3f} of tolerance ({at})")
    detector.zero_grad(set_to_none=True)
    detector.eval()
    if any(name and name.endswith("running_mean") for name in keys.values()):
        load_checkpoint(detector, state)  # the step changed the running statistics


def _excess(ours: Tensor, theirs: Tensor, atol: float, rtol: float) -> float:
    """Return the largest difference as a fraction of the tolerance."""
    error = (ours.double().cpu() - theirs.double()).abs()
    return float((error / (atol + rtol * theirs.double().abs() + 1e-30)).nan_to_num(1e30).max())


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def draw_tensor(
    key: str, shape: list[int], dist: str, loc: float = 0.0, scale: float = 1.0
) -> Tensor:
    """Draw a checkpoint tensor, with its key as the seed."""
    if dist == "count":
        return torch.zeros(shape, dtype=torch.int64)
    if dist == "constant":
        return torch.full(shape, loc)
    noise = _generator(key).standard_normal(shape, dtype=np.float32)
    if dist == "normal":
        return torch.from_numpy(np.asarray(np.float32(loc) + np.float32(scale) * noise))
    if dist == "lognormal":
        return torch.from_numpy(np.asarray(np.float32(scale) * np.exp(np.float32(0.1) * noise)))
    raise ValueError(f"tensor {key}: unknown distribution {dist!r}")


def draw_image(name: str, height: int, width: int) -> Tensor:
    """Draw smooth blobs, which are coarse random values interpolated bilinearly, and noise."""
    rng = _generator(name)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3)).astype(np.float32)
    axes = [
        np.linspace(0, cells - 1.001, size, dtype=np.float32)
        for cells, size in zip(coarse.shape, (height, width), strict=False)
    ]
    (y0, x0) = (axis.astype(int) for axis in axes)
    fy, fx = (axes[0] - y0)[:, None, None], (axes[1] - x0)[None, :, None]
    upper = coarse[y0][:, x0] * (1 - fx) + coarse[y0][:, x0 + 1] * fx
    lower = coarse[y0 + 1][:, x0] * (1 - fx) + coarse[y0 + 1][:, x0 + 1] * fx
    noise = rng.integers(-20, 21, (height, width, 3)).astype(np.float32)
    pixels = np.clip(upper * (1 - fy) + lower * fy + noise, 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def draw_boxes(
    name: str, count: int, height: int, width: int, num_classes: int
) -> dict[str, Tensor]:
    """Draw ground-truth boxes of log-uniform sizes within the image."""
    rng = _generator(name)
    longest = 0.9 * min(height, width)
    extent = np.exp(rng.uniform(np.log(12), np.log(longest), (count, 2)))
    centre = rng.uniform(0, 1, (count, 2)) * np.array([width, height])
    low = np.clip(centre - extent / 2, 0, [width - 9, height - 9])
    high = np.clip(centre + extent / 2, low + 8, [width - 1, height - 1])
    labels = rng.integers(0, num_classes, count)
    return {
        "boxes": torch.from_numpy(np.concatenate([low, high], axis=1).astype(np.float32)),
        "labels": torch.from_numpy(labels),
    }
