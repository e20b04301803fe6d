"""Our deformable convolutions and torchvision's: `python -m benchmarks.studies.deformable_speed`.

All deformable layers of an entry run with our sampling and with torchvision's CPU kernel in
alternating rounds, on their inputs in the network at 800x1088: batch 1, fp32, random weights with
offsets of a pixel or two. A ratio is the median over the rounds of the kernel's time divided by
ours in the same round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

import zoo
from backbones.deformable import DeformConv2d
from benchmarks.dataset import embedded, read_images
from benchmarks.random_weights import calibrate_batchnorm
from benchmarks.studies import side_by_side as study
from fcos.preprocess import resize_image

ENTRIES = ("FCOS_imprv_dcnv2_R_50_FPN_1x", "FCOS_MS_X_101_32x8d_dcnv2_2x")
SIZE = (800, 1088)
OFFSETS = 1.5  # pixels, standard deviation


def main() -> None:
    """Print a row for every entry."""
    parser = study.arguments(__doc__, rounds=5)
    parser.add_argument("names", nargs="*", default=ENTRIES, help="entries (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    [photo] = read_images(embedded(), 1)
    photo = resize_image(photo, SIZE)
    rows = []
    for name in options.names:
        layers = inputs(name, photo)
        if not layers:
            raise ValueError(f"{name} has no deformable convolution: choose an entry with dcnv2")
        with torch.inference_mode():
            difference = max(
                float((layer(x) - kernel(layer, x)).abs().max() / layer(x).abs().max())
                for layer, x in layers
            )
            contenders = {
                "torchvision": partial(run_layers, kernel, layers),
                "own": partial(run_layers, DeformConv2d.__call__, layers),
            }
            frame = study.side_by_side(contenders, options.rounds)
        ms = 1e3 * study.medians(frame)["seconds"]
        rows.append(
            {
                "entry": name,
                "layers": str(len(layers)),
                "torchvision ms": f"{ms['torchvision']:.0f}",
                "ms": f"{ms['own']:.0f}",
                "times as fast": study.speedup(frame, "own", over="torchvision"),
                "differs by": f"{difference:.0e}",
            }
        )
    title = "All deformable convolutions of a network"
    print(study.markdown(rows, title, study.conditions("cpu", options.rounds)))


def run_layers(
    run: Callable[[DeformConv2d, Tensor], Tensor], layers: Sequence[tuple[DeformConv2d, Tensor]]
) -> None:
    """Run every layer on its input."""
    for layer, x in layers:
        run(layer, x)


def inputs(name: str, photo: Tensor) -> list[tuple[DeformConv2d, Tensor]]:
    """Return an entry's deformable layers, each with its input for an image."""
    torch.manual_seed(0)
    detector = zoo.build(name).eval().to(memory_format=torch.channels_last)
    calibrate_batchnorm(detector, lambda: detector.network(detector.normalizer([photo])))
    layers = [m for m in detector.modules() if isinstance(m, DeformConv2d)]
    seen: list[tuple[DeformConv2d, Tensor]] = []
    hooks = [
        layer.offset.register_forward_pre_hook(
            lambda _, args, layer=layer: seen.append((layer, args[0]))
        )
        for layer in layers
    ]
    with torch.inference_mode():
        detector.network(detector.normalizer([photo]))
        for hook in hooks:
            hook.remove()
        for layer, x in seen:
            nn.init.normal_(layer.offset.weight)
            layer.offset.weight.mul_(OFFSETS / layer.offset(x).std())
    return seen


def kernel(layer: DeformConv2d, x: Tensor) -> Tensor:
    """Run the layer by torchvision's kernel, as with gradients and on GPUs."""
    return layer.forward_operator(x, *layer.offset_and_mask(x), layer.weight, layer.bias)


if __name__ == "__main__":
    main()
