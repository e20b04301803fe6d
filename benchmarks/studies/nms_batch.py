"""Three ways to run NMS on a batch: `python -m benchmarks.studies.nms_batch`.

- loop: one call of `torchvision.ops.nms` per image, as in `fcos.Decoder`. On a GPU the host waits
  once per image.
- groups: one call per group of images with at most 20,000 candidates together, whose boxes are
  shifted apart. NMS is quadratic in the size of the group, and the host waits once per group.
- matrix: a matrix per image, in chunks of images, says which candidate suppresses which; the
  greedy choice is the fixed point of an iteration on it. The host waits once per iteration of a
  chunk.

All three must keep the same candidates. Times are medians over rounds in which the three alternate,
in milliseconds per image. The candidates are random boxes around random objects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torchvision.ops import nms

from benchmarks.studies import side_by_side as study
from fcos.postprocess import PADDING, Candidates, Decoder

CLASSES, OBJECTS = 80, 60
SIDE = 1000.0  # pixels
GROUP = 20_000  # candidates per call
CHUNK = 2**28  # pairs of candidates in memory at a time

Method = Callable[[Decoder, Candidates, Sequence[int]], Tensor]


def main() -> int:
    """Print a row for each batch size.

    Returns 1 if the methods keep different candidates.
    """
    parser = study.arguments(__doc__, rounds=5)
    add = parser.add_argument
    add("--device", default="cpu", help="cpu or cuda (%(default)s)")
    add("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256], help="%(default)s")
    add("--places", type=int, default=5000, help="per image, with padding (%(default)s)")
    add("--candidates", type=int, default=3000, help="per image, at most (%(default)s)")
    add("--matrix-up-to", type=int, default=256, help="largest batch for it (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for size in options.batches:
        batch = random_candidates(size, options.places, options.candidates, options.device)
        methods = dict(METHODS)
        if size > options.matrix_up_to:
            del methods["matrix"]
        same = "yes" if same_result(list(methods.values()), batch) else "NO"
        times = milliseconds(batch, methods, options.rounds)
        row = {"batch": size, **dict.fromkeys(METHODS, "-"), **times, "same result": same}
        print(row, flush=True)
        rows.append(row)
    title = (
        f"NMS of up to {options.candidates} candidates per image in {options.places} places, "
        "milliseconds per image"
    )
    print(study.markdown(rows, title, study.conditions(options.device, options.rounds)))
    return int(any(row["same result"] == "NO" for row in rows))


def loop(decoder: Decoder, candidates: Candidates, counts: Sequence[int]) -> Tensor:
    """Process one image at a time."""
    return decoder.nms_mask(candidates, counts)


def groups(decoder: Decoder, candidates: Candidates, counts: Sequence[int]) -> Tensor:
    """Process as many images at a time as have `GROUP` candidates together."""
    kept = torch.zeros_like(candidates.labels)
    start = 0
    while start < len(counts):
        stop = start + 1
        while stop < len(counts) and sum(counts[start : stop + 1]) <= GROUP:
            stop += 1
        kept[start:stop] = _one_group(decoder, candidates, counts, start, stop)
        start = stop
    return kept > 0


def _one_group(
    decoder: Decoder, candidates: Candidates, counts: Sequence[int], start: int, stop: int
) -> Tensor:
    chosen = range(start, stop)
    boxes = torch.cat([candidates.boxes[i, : counts[i]] for i in chosen])
    scores = torch.cat([candidates.scores[i, : counts[i]] for i in chosen])
    labels = torch.cat([candidates.labels[i, : counts[i]] + i * CLASSES for i in chosen])
    keep = nms(decoder.separate_classes(boxes, labels), scores.double(), decoder.nms_threshold)
    flat = torch.zeros_like(labels).index_fill(0, keep, 1)
    places = candidates.labels.shape[1]
    rows = flat.split([counts[i] for i in chosen])
    return torch.stack([torch.nn.functional.pad(row, (0, places - len(row))) for row in rows])


def matrix(decoder: Decoder, candidates: Candidates, counts: Sequence[int]) -> Tensor:
    """Compute the fixed point of "kept unless a kept candidate of higher score suppresses it"."""
    places = candidates.labels.shape[1]
    most = max(counts)
    images = max(1, CHUNK // most**2)
    parts = []
    for start in range(0, len(counts), images):
        chunk = [values[start : start + images, :most] for values in candidates]
        parts.append(_fixed_point(decoder, Candidates(*chunk)))
    return torch.nn.functional.pad(torch.cat(parts), (0, places - most))


def _fixed_point(decoder: Decoder, candidates: Candidates) -> Tensor:
    boxes, scores, labels = candidates
    boxes = torch.stack(
        [decoder.separate_classes(*image) for image in zip(boxes, labels, strict=True)]
    )
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    overlap = shared / (area[:, :, None] + area[:, None, :] - shared)
    suppresses = (overlap > decoder.nms_threshold).triu(diagonal=1)  # (image, better, worse)
    real = kept = scores > PADDING
    while True:
        before, kept = kept, real & ~(suppresses & kept[:, :, None]).any(dim=1)
        if torch.equal(before, kept):
            return kept


METHODS: dict[str, Method] = {"loop": loop, "groups": groups, "matrix": matrix}


def random_candidates(images: int, places: int, most: int, device: str) -> Candidates:
    """Return sorted candidates, jittered objects, of which each image has `most` / 2 to `most`."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    centre, extent = rand(images, OBJECTS, 2) * SIDE, 20 + rand(images, OBJECTS, 2) * SIDE / 4
    label = torch.randint(0, CLASSES, (images, OBJECTS), generator=generator)
    which = torch.randint(0, OBJECTS, (images, places), generator=generator)
    pairs = which[..., None].expand(-1, -1, 2)
    extent = extent.gather(1, pairs) * (0.7 + 0.6 * rand(images, places, 2))
    centre = centre.gather(1, pairs) + extent * (rand(images, places, 2) - 0.5) / 2
    count = (most * (1 + rand(images, 1)) / 2).long()
    scores = rand(images, places).where(torch.arange(places) < count, PADDING)
    boxes = torch.cat((centre - extent / 2, centre + extent / 2), dim=2)
    sorted_ = Candidates(boxes, scores, label.gather(1, which)).best()
    return Candidates(*(values.to(device) for values in sorted_))


def same_result(methods: Sequence[Method], candidates: Candidates) -> bool:
    """Whether all methods keep the same candidates."""
    masks = [method(Decoder(), candidates, candidates.counts()) for method in methods]
    return all(torch.equal(masks[0], mask) for mask in masks)


def milliseconds(
    candidates: Candidates, methods: Mapping[str, Method], rounds: int
) -> dict[str, str]:
    """Return the median milliseconds per image of each method."""
    decoder = Decoder()

    def run(method: Method) -> None:
        method(decoder, candidates, candidates.counts())
        if candidates.scores.is_cuda:
            torch.cuda.synchronize()

    contenders = {name: partial(run, method) for name, method in methods.items()}
    seconds = study.medians(study.side_by_side(contenders, rounds, warmup=1))["seconds"]
    return {name: f"{1e3 * seconds[name] / len(candidates.scores):.2f}" for name in methods}


if __name__ == "__main__":
    sys.exit(main())
