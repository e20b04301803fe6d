"""How each code base names the tensors of its FCOS detectors.

Each has its own prefix for the backbone's keys, numbers the pyramid's levels by stage or from 0,
and the towers' layers with or without the activations between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from zoo.formats.backbones import Rule, rename


@dataclass(frozen=True)
class Format:
    """How one code base writes its checkpoints.

    Attributes:
        name: its name in messages.
        marker: a pattern that matches a key of this format, and no key of another one.
        rules: makes the rules of a detector from those of its backbone; the backbone's first stage
            (of stride 2 ** stage) that the pyramid uses; and the pyramid's number of output
            convolutions, after which its extra levels are numbered.
        ignored: keys that hold nothing learned.
        prepare: converts tensors to the form of our modules, under the published keys.
    """

    name: str
    marker: str
    rules: Callable[[Sequence[Rule], int, int], list[Rule]]
    ignored: str = ""
    prepare: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict


def under(prefix: str, rules: Sequence[Rule], ours: str = "") -> Rule:
    """Make a rule for keys under `prefix` (a pattern): `rules` rename the rest, under `ours`."""

    def replace(match: re.Match[str]) -> str:
        name = rename(match["rest"], rules)
        if name is None:
            return match[0]  # unknown, under a name that no detector has
        return name and ours + name

    return f"{prefix}(?P<rest>.+)", replace


TOWERS = {
    **{"cls": "cls_tower", "bbox": "box_tower", "reg": "box_tower", "share": "shared_tower"},
    **{"classification": "cls_tower", "regression": "box_tower"},
}
PREDICTORS = {
    **{"cls": "cls_logits", "reg": "box_pred", "centerness": "quality"},
    **{"cls_logits": "cls_logits", "bbox_reg": "box_pred", "bbox_ctrness": "quality"},
}
PYRAMID = {"inner": "lateral", "layer": "output"}


def _tower(match: re.Match[str]) -> str:
    """Rename a tower's layers: 3i is the i-th convolution, 3i + 1 its norm and 3i + 2 a ReLU."""
    layer, part = divmod(int(match[2]), 3)
    leaf = match[3].removeprefix("conv.")
    return f"head.{TOWERS[match[1]]}.{layer}.{'norm' if part else 'conv'}.{leaf}"


# The heads of the original FCOS and of AdelaiDet, under different prefixes.
HEAD: tuple[Rule, ...] = (
    (r"(cls|bbox|share)_tower\.(\d+)\.(.+)", _tower),
    (r"cls_logits\.(.+)", r"head.cls_logits.\1"),
    (r"bbox_pred\.(.+)", r"head.box_pred.\1"),
    (r"(?:ctrness|centerness)\.(.+)", r"head.quality.\1"),
    (r"scales\.(\d+)\.scale", r"head.scales.\1"),
)


def _adelaidet(backbone: Sequence[Rule], stage: int, outputs: int) -> list[Rule]:
    return [
        under(r"backbone\.bottom_up\.", backbone, "backbone."),
        (
            r"backbone\.fpn_(lateral|output)(\d)\.(\w+)",
            lambda m: f"pyramid.{m[1]}.{int(m[2]) - stage}.{m[3]}",
        ),
        (
            r"backbone\.top_block\.p(\d)\.(\w+)",
            lambda m: f"pyramid.extra.{int(m[1]) - 6}.{m[2]}",
        ),
        under(r"proposal_generator\.fcos_head\.", HEAD),
    ]


def _maskrcnn_benchmark(backbone: Sequence[Rule], stage: int, outputs: int) -> list[Rule]:
    first = stage - 1  # its inner<i> belongs to stage i + 1, the stem being stage 1
    return [
        under(r"backbone\.body\.", backbone, "backbone."),
        (
            r"backbone\.fpn\.fpn_(inner|layer)(\d)\.(\w+)",
            lambda m: f"pyramid.{PYRAMID[m[1]]}.{int(m[2]) - first}.{m[3]}",
        ),
        (
            r"backbone\.fpn\.top_blocks\.p(\d)\.(\w+)",
            lambda m: f"pyramid.extra.{int(m[1]) - 6}.{m[2]}",
        ),
        (r"backbone\.fpn\.reduction_conv\.0\.(\w+)", r"pyramid.reduction.\1"),
        (r"backbone\.fpn\.fpn_conv\.(\d)\.(\w+)", r"pyramid.output.\1.\2"),
        under(r"rpn\.head\.", HEAD),
    ]


def _xytpai(backbone: Sequence[Rule], stage: int, outputs: int) -> list[Rule]:
    return [
        under(r"backbone\.", backbone, "backbone."),
        (r"prj_(\d)\.(\w+)", lambda m: f"pyramid.lateral.{int(m[1]) - stage}.{m[2]}"),
        (r"conv_(\d)\.(\w+)", lambda m: f"pyramid.output.{int(m[1]) - stage}.{m[2]}"),
        (r"conv_out(\d)\.(\w+)", lambda m: f"pyramid.extra.{int(m[1]) - 6}.{m[2]}"),
        (r"conv_(cls|reg)\.8\.(\w+)", lambda m: f"head.{PREDICTORS[m[1]]}.{m[2]}"),
        (
            r"conv_(cls|reg)\.(\d)\.(\w+)",  # of convolutions and ReLUs
            lambda m: f"head.{TOWERS[m[1]]}.{int(m[2]) // 2}.conv.{m[3]}",
        ),
        (r"scale_div\.(\d)", r"head.scales.\1"),
    ]


def _prepare_xytpai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split the scales by level, and reorder boxes to left, top, right, bottom.

    Missing or misshapen tensors are left as they are, so that the strict comparison reports them.
    """
    state = dict(state)
    if "scale_div" in state and state["scale_div"].dim() == 1:
        for level, scale in enumerate(state.pop("scale_div").unbind()):
            state[f"scale_div.{level}"] = scale.view(1)
    for key in ("conv_reg.8.weight", "conv_reg.8.bias"):
        if key in state and state[key].shape[:1] == (4,):
            state[key] = state[key][[1, 0, 3, 2]]  # from top, left, bottom, right
    return state


def _openmmlab(backbone: Sequence[Rule], stage: int, outputs: int) -> list[Rule]:
    def output(index: int) -> str:
        extra = index - outputs
        return f"output.{index}" if extra < 0 else f"extra.{extra}"

    return [
        under(r"backbone\.", backbone, "backbone."),
        (r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", r"pyramid.lateral.\1.\2"),
        (r"neck\.reduction_conv\.conv\.(\w+)", r"pyramid.reduction.\1"),
        (r"neck\.fpn_convs\.(\d)\.conv\.(\w+)", lambda m: f"pyramid.{output(int(m[1]))}.{m[2]}"),
        (
            r"bbox_head\.(cls|reg)_convs\.(\d)\.conv\.(?:conv_(offset\.))?(\w+)",
            lambda m: f"head.{TOWERS[m[1]]}.{m[2]}.conv.{m[3] or ''}{m[4]}",
        ),
        (
            r"bbox_head\.(cls|reg)_convs\.(\d)\.gn\.(\w+)",
            lambda m: f"head.{TOWERS[m[1]]}.{m[2]}.norm.{m[3]}",
        ),
        (
            r"bbox_head\.(?:conv|fcos)_(cls|reg|centerness)\.(\w+)",  # fcos_* until version 2.0
            lambda m: f"head.{PREDICTORS[m[1]]}.{m[2]}",
        ),
        (r"bbox_head\.scales\.(\d)\.scale", r"head.scales.\1"),
    ]


def _prepare_openmmlab(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the scales of levels from scalars to vectors of one element."""
    return {
        key: value.view(1) if key.endswith(".scale") and value.dim() == 0 else value
        for key, value in state.items()
    }


def _torchvision(backbone: Sequence[Rule], stage: int, outputs: int) -> list[Rule]:
    return [
        under(r"backbone\.body\.", backbone, "backbone."),
        (
            r"backbone\.fpn\.(inner|layer)_blocks\.(\d)(?:\.0)?\.(\w+)",  # `.0` since 2022
            lambda m: f"pyramid.{PYRAMID[m[1]]}.{m[2]}.{m[3]}",
        ),
        (
            r"backbone\.fpn\.extra_blocks\.p(\d)\.(\w+)",
            lambda m: f"pyramid.extra.{int(m[1]) - 6}.{m[2]}",
        ),
        (r"head\.(classification|regression)_head\.conv\.(\d+)\.(\w+)", _tower),
        (
            r"head\.\w+_head\.(cls_logits|bbox_reg|bbox_ctrness)\.(\w+)",
            lambda m: f"head.{PREDICTORS[m[1]]}.{m[2]}",
        ),
    ]


NATIVE = Format(
    "fcos-zoo",
    r"head\.cls_logits\.weight",
    lambda backbone, stage, outputs: [],  # the keys are ours
)
MASKRCNN_BENCHMARK = Format("maskrcnn-benchmark", r"rpn\.head\.cls_logits\..+", _maskrcnn_benchmark)
# The format in which each family of entries was published.
PUBLISHED = {
    "adelaidet": Format(
        "AdelaiDet (detectron2)",
        r"proposal_generator\.fcos_head\..+",
        _adelaidet,
        ignored=r"pixel_(mean|std)",  # of some versions of detectron2; `load_state` compares them
    ),
    "fcos": MASKRCNN_BENCHMARK,
    "hrnet": MASKRCNN_BENCHMARK,
    "vovnet": MASKRCNN_BENCHMARK,
    "xytpai": Format(
        "xytpai/fcos",
        r"conv_cls\.\d+\.weight",
        _xytpai,
        # Computed grids, and the classifier of the ImageNet network.
        ignored=r"a_(center_yx|tlbr_max_minmax|center_offset_max)|backbone\.fc\..+",
        prepare=_prepare_xytpai,
    ),
    "openmmlab": Format(
        "OpenMMLab (mmdetection)",
        r"bbox_head\.(conv|fcos)_centerness\.weight",
        _openmmlab,
        prepare=_prepare_openmmlab,
    ),
    "torchvision": Format(
        "torchvision", r"head\.classification_head\.cls_logits\.weight", _torchvision
    ),
}
