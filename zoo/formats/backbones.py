"""Rules that rename published keys to ours, and those for the tensors of backbones.

Each table holds rules for one backbone. They apply to a published key without the prefix of the
backbone (`backbone.body.`, `backbone.bottom_up.`, ...). An empty replacement marks a tensor of the
ImageNet classifier, which a detector does not use.

The tables apply to detectors and ImageNet files alike:

- `RESNET`: detectron2, maskrcnn-benchmark, torchvision, OpenMMLab.
- `HRNET`: HRNet-FCOS, OpenMMLab, the authors' classification files, timm.
- `VOVNET`: VoVNet-FCOS and AdelaiDet, the authors' ImageNet state dicts. timm has
squeeze-excitation only in the last block of a stage, so its weights fit no published detector. -
`DLA`: AdelaiDet, `dla34-ba72cf86`, timm. timm leaves out what `DLA_UNREAD` matches. -
`MOBILENET_V2`: the original FCOS, AdelaiDet, timm. - `MOBILENET_V2_TORCHVISION`: torchvision, which
gives some of the same names to other layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TypeAlias

import backbones

# A pattern for the whole key, and its replacement.
Rule: TypeAlias = tuple[str, str | Callable[[re.Match[str]], str]]


def rename(key: str, rules: Iterable[Rule]) -> str | None:
    """Return the key by the first rule that matches: "" to leave it out, None if none matches."""
    for pattern, replacement in rules:
        if match := re.fullmatch(pattern, key):
            return replacement(match) if callable(replacement) else match.expand(replacement)
    return None


# The two halves of a convolution with norm, as attributes or as indices of an nn.Sequential.
_HALF = {"conv": "conv", "bn": "norm", "norm": "norm", "0": "conv", "1": "norm"}


_BOTTLENECK: tuple[Rule, ...] = (
    (r"conv2[._](?:conv_)?offset\.(\w+)", r"conv2.conv.offset.\1"),
    (r"conv(\d)\.weight", r"conv\1.conv.weight"),
    (r"bn(\d)\.(\w+)", r"conv\1.norm.\2"),
    (r"(?:shortcut|downsample\.0)\.weight", r"shortcut.conv.weight"),
    (r"downsample\.1\.(\w+)", r"shortcut.norm.\1"),
    (r"(.+)", r"\1"),
)


def _bottleneck(match: re.Match[str]) -> str:
    """Rename a bottleneck: detectron2's `res2` and torchvision's `layer1` are our `stages.0`."""
    stage = int(match[2]) - (2 if match[1] == "res" else 1)
    return f"stages.{stage}.{match[3]}.{rename(match[4], _BOTTLENECK)}"


RESNET: tuple[Rule, ...] = (
    (r"(?:stem\.)?conv1\.weight", "stem.conv.weight"),
    (r"(?:stem\.)?(?:conv1\.norm|bn1)\.(\w+)", r"stem.norm.\1"),
    (r"(res|layer)(\d)\.(\d+)\.(.+)", _bottleneck),
)

_CAFFE2 = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
# Detectron's, whose norms are only affine maps, and detectron2's, which have statistics.
_NORM = {
    **{"s": "weight", "b": "bias"},
    **{"gamma": "weight", "beta": "bias"},
    **{"running_mean": "running_mean", "running_var": "running_var"},
}
_BN = rf"bn_({'|'.join(_NORM)})"

# Caffe2's blobs: `res2_0_branch2a_w`, `res2_0_branch2a_bn_s`, ... Some files also hold biases of
# convolutions, which were never read, as the norms have biases.
CAFFE2_RESNET: tuple[Rule, ...] = (
    (r"conv1_w", "stem.conv.weight"),
    (r"(conv1|res\d_\d+_branch(1|2[abc]))_b", ""),
    (rf"res_conv1_{_BN}", lambda m: f"stem.norm.{_NORM[m[1]]}"),
    (
        r"res(\d)_(\d+)_branch(1|2[abc])_w",
        lambda m: f"stages.{int(m[1]) - 2}.{m[2]}.{_CAFFE2[m[3]]}.conv.weight",
    ),
    (
        rf"res(\d)_(\d+)_branch(1|2[abc])_{_BN}",
        lambda m: f"stages.{int(m[1]) - 2}.{m[2]}.{_CAFFE2[m[3]]}.norm.{_NORM[m[4]]}",
    ),
)


HRNET: tuple[Rule, ...] = (
    (r"(conv|bn)([12])\.(\w+)", lambda m: f"stem.{int(m[2]) - 1}.{_HALF[m[1]]}.{m[3]}"),
    (
        r"layer1\.(\d)\.(conv|bn)(\d)\.(\w+)",
        lambda m: f"stage1.{m[1]}.conv{m[3]}.{_HALF[m[2]]}.{m[4]}",
    ),
    (
        r"layer1\.(\d)\.downsample\.([01])\.(\w+)",
        lambda m: f"stage1.{m[1]}.shortcut.{_HALF[m[2]]}.{m[3]}",
    ),
    (r"transition1\.0\.([01])\.(\w+)", lambda m: f"transitions.0.{_HALF[m[1]]}.{m[2]}"),
    (
        r"transition\d\.(\d)\.0\.([01])\.(\w+)",
        lambda m: f"transitions.{m[1]}.{_HALF[m[2]]}.{m[3]}",
    ),
    (
        r"stage(\d)\.(\d)\.branches\.(\d)\.(\d)\.(conv|bn)(\d)\.(\w+)",
        lambda m: (
            f"stages.{int(m[1]) - 2}.{m[2]}.branches.{m[3]}.{m[4]}.conv{m[6]}.{_HALF[m[5]]}.{m[7]}"
        ),
    ),
    (
        r"stage(\d)\.(\d)\.fuse_layers\.(\d)\.(\d)\.(\d)\.([01])\.(\w+)",
        lambda m: (
            f"stages.{int(m[1]) - 2}.{m[2]}.fusions.{m[3]}.down.{m[4]}.{m[5]}.{_HALF[m[6]]}.{m[7]}"
        ),
    ),
    (
        r"stage(\d)\.(\d)\.fuse_layers\.(\d)\.(\d)\.([01])\.(\w+)",
        lambda m: (
            f"stages.{int(m[1]) - 2}.{m[2]}.fusions.{m[3]}.up.{int(m[4]) - int(m[3]) - 1}"
            f".{_HALF[m[5]]}.{m[6]}"
        ),
    ),
    (r"(incre_modules|downsamp_modules|final_layer|classifier)\..+", ""),
)


def _osa(match: re.Match[str]) -> str:
    """Return `stages.<stage>.<block>` for a match that begins with stage<k>.OSA<k>_<n>."""
    return f"stages.{int(match[1]) - 2}.{int(match[2]) - 1}"


VOVNET: tuple[Rule, ...] = (
    (r"stem\.stem_(\d)/(conv|norm)\.(\w+)", lambda m: f"stem.{int(m[1]) - 1}.{m[2]}.{m[3]}"),
    (
        r"stage(\d)\.OSA\d_(\d+)\.layers\.(\d)\.OSA\d_\d+_\d/(conv|norm)\.(\w+)",
        lambda m: f"{_osa(m)}.layers.{m[3]}.{m[4]}.{m[5]}",
    ),
    (
        r"stage(\d)\.OSA\d_(\d+)\.concat\.OSA\d_\d+_concat/(conv|norm)\.(\w+)",
        lambda m: f"{_osa(m)}.concat.{m[3]}.{m[4]}",
    ),
    (r"stage(\d)\.OSA\d_(\d+)\.ese\.fc\.(\w+)", lambda m: f"{_osa(m)}.ese.fc.{m[3]}"),
    (r"classifier\..+", ""),
)


DLA: tuple[Rule, ...] = (
    (r"base_layer\.([01])\.(\w+)", lambda m: f"stem.0.{_HALF[m[1]]}.{m[2]}"),
    (r"level([01])\.([01])\.(\w+)", lambda m: f"stem.{int(m[1]) + 1}.{_HALF[m[2]]}.{m[3]}"),
    (
        r"level(\d)\.((?:tree\d\.)*)(conv|bn)(\d)\.(\w+)",
        lambda m: f"stages.{int(m[1]) - 2}.{m[2]}conv{m[4]}.{_HALF[m[3]]}.{m[5]}",
    ),
    (
        r"level(\d)\.((?:tree\d\.)*)root\.(conv|bn)\.(\w+)",
        lambda m: f"stages.{int(m[1]) - 2}.{m[2]}root.{_HALF[m[3]]}.{m[4]}",
    ),
    (
        r"level(\d)\.((?:tree\d\.)*)project\.([01])\.(\w+)",
        lambda m: f"stages.{int(m[1]) - 2}.{m[2]}project.{_HALF[m[3]]}.{m[4]}",
    ),
    (r"fc\..+", ""),
)
DLA_UNREAD = r"stages\.[12]\.project\..+"  # our keys of tensors that the network never uses


# The last block of each of our stages; published code numbers all blocks consecutively.
_MOBILENET_ENDS = tuple(accumulate((1, 2, 3, 7, 4)))


def _mobilenet(block: int, layer: str) -> str:
    """Return our name of a `layer` in the `block`-th inverted residual, counted from 1."""
    stage = next(i for i, end in enumerate(_MOBILENET_ENDS) if block <= end)
    first = _MOBILENET_ENDS[stage - 1] if stage else 0
    return f"stages.{stage}.{block - first - 1}.{layer}"


def _mobilenet_flat(match: re.Match[str]) -> str:
    """Rename convolutions, norms and activations that are numbered 0 1 2, 3 4 5, 6 7."""
    block, place = int(match[1]), int(match[2])
    layers = ("depthwise", "project") if block == 1 else ("expand", "depthwise", "project")
    if place % 3 == 2 or place // 3 >= len(layers):
        return match[0]  # activations have no tensors: this is another network
    return _mobilenet(block, f"{layers[place // 3]}.{_HALF[str(place % 3)]}.{match[3]}")


def _mobilenet_nested(match: re.Match[str]) -> str:
    """Rename layers that are grouped with their activation, except for the last ones."""
    block, group, half, leaf = int(match[1]), int(match[2]), match[3], match[4]
    layers = ("depthwise",) if block == 1 else ("expand", "depthwise")
    if half is None:
        return _mobilenet(block, f"project.{_HALF[str(group - len(layers))]}.{leaf}")
    return _mobilenet(block, f"{layers[group]}.{_HALF[half]}.{leaf}")


def _mobilenet_timm(match: re.Match[str]) -> str:
    """Rename timm's keys: row of the paper's table, block, layer by name, norm by number."""
    row, block, layer, leaf = int(match[1]), int(match[2]), match[3], match[4]
    layers = ("conv_dw", "conv_pw") if row == 0 else ("conv_pw", "conv_dw", "conv_pwl")
    names = ("depthwise", "project") if row == 0 else ("expand", "depthwise", "project")
    norm = layer.startswith("bn")
    place = int(layer[2:]) - 1 if norm else layers.index(layer)
    before = sum((1, 2, 3, 4, 3, 3, 1)[:row])
    return _mobilenet(before + block + 1, f"{names[place]}.{'norm' if norm else 'conv'}.{leaf}")


_MOBILENET_STEM: Rule = (
    r"features\.0\.([01])\.(\w+)",
    lambda m: f"stem.{_HALF[m[1]]}.{m[2]}",
)
_MOBILENET_CLASSIFIER: Rule = (r"(features\.18|classifier)\..+", "")

MOBILENET_V2: tuple[Rule, ...] = (
    _MOBILENET_STEM,
    _MOBILENET_CLASSIFIER,
    (r"features\.(\d+)\.conv\.(\d)\.(\w+)", _mobilenet_flat),
    (r"conv_stem\.(\w+)", r"stem.conv.\1"),
    (r"bn1\.(\w+)", r"stem.norm.\1"),
    (r"blocks\.(\d)\.(\d)\.(\w+)\.(\w+)", _mobilenet_timm),
    (r"(conv_head|bn2)\..+", ""),
)
MOBILENET_V2_TORCHVISION: tuple[Rule, ...] = (
    _MOBILENET_STEM,
    _MOBILENET_CLASSIFIER,
    (r"features\.(\d+)\.conv\.(\d)(?:\.([01]))?\.(\w+)", _mobilenet_nested),
)

TABLES: dict[type, Sequence[Rule]] = {
    backbones.ResNet: RESNET,
    backbones.HRNet: HRNET,
    backbones.VoVNet: VOVNET,
    backbones.DLA: DLA,
    backbones.MobileNetV2: MOBILENET_V2,
}
