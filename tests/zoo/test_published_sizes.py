"""Published files are as large as the tensors that the strict loader expects, and pinned.

Without a download this is the strongest proof of an entry's key set: what a file holds beside its
tensors' bytes is a few hundred bytes a tensor, nearly the same in all files of one writer.
"""

from __future__ import annotations

import pytest
from mirrors import FaultyServer
from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

import zoo
from zoo.config import build_detector

# Bytes beside each tensor, (least, most), by the container and what its keys are like. A tensor of
# 256 channels that is missing or too many moves the mean of a ResNet-50 by about 4 bytes.
DETECTRON2_RESNET = (215.5, 218)
DETECTRON2_DLA = (221, 224)
DETECTRON2_ZIP = (386, 388)  # torch's container since version 1.6
MASKRCNN_BENCHMARK_RESNET = (200, 201)
MASKRCNN_BENCHMARK_MOBILENET = (208, 210)
TORCHVISION_ZIP = (340, 344)

OVERHEAD = {
    "FCOS_R_50_1x": DETECTRON2_RESNET,
    "FCOS_MS_R_50_2x": DETECTRON2_RESNET,
    "FCOS_MS_R_101_2x": DETECTRON2_RESNET,
    "FCOS_MS_X_101_32x8d_2x": DETECTRON2_RESNET,
    "FCOS_MS_X_101_32x8d_dcnv2_2x": DETECTRON2_RESNET,
    "FCOS_MS_R_50_2x_iou": DETECTRON2_ZIP,
    "FCOS_MS_R_101_2x_iou": DETECTRON2_ZIP,
    "FCOS_MS_X_101_32x8d_2x_iou": DETECTRON2_ZIP,
    "FCOS_MS_X_101_32x8d_2x_dcnv2_iou": DETECTRON2_ZIP,
    "FCOS_RT_MS_DLA_34_4x_shtw": DETECTRON2_DLA,
    "FCOS_RT_MS_DLA_34_4x_shtw_bn": DETECTRON2_DLA,
    "FCOS_X_101_32x8d_FPN_2x": MASKRCNN_BENCHMARK_RESNET,
    "FCOS_X_101_64x4d_FPN_2x": MASKRCNN_BENCHMARK_RESNET,
    "FCOS_imprv_R_101_FPN_2x": MASKRCNN_BENCHMARK_RESNET,
    "FCOS_bn_bs16_MNV2_FPN_1x": MASKRCNN_BENCHMARK_MOBILENET,
}

# Megabytes, as the pages of the Hugging Face Hub round them.
ROUNDED = {
    "FCOS_MS_X_101_64x4d_2x": "362",
    "FCOS_RT_MS_DLA_34_4x_bn": "89",
    "FCOS_RT_MS_R_50_4x_bn": "125",
    "FCOS_R_50_FPN_1x": "129",
    "FCOS_R_101_FPN_2x": "206",
    "FCOS_imprv_R_50_FPN_1x": "129",
    "FCOS_imprv_X_101_32x8d_FPN_2x": "383",
    "FCOS_imprv_X_101_64x4d_FPN_2x": "362",
    "FCOS_imprv_dcnv2_R_50_FPN_1x": "133",
    "FCOS_imprv_dcnv2_R_101_FPN_2x": "214",
    "FCOS_imprv_dcnv2_X_101_32x8d_FPN_2x": "412",
    "FCOS_imprv_dcnv2_X_101_64x4d_FPN_2x": "391",
    "FCOS_syncbn_bs32_MNV2_FPN_1x": "39.4",
}

PINNED = {*OVERHEAD, *list(ROUNDED)[:3], "FCOS_imprv_R_50_FPN_1x"}


def expected(name: str) -> tuple[int, int]:
    """How many tensors the strict loader expects of a file, and how many bytes they take."""
    state = build_detector(zoo.card(name).config, empty=True).state_dict()
    return len(state), sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def sizes(name: str) -> set[int]:
    """The exact sizes that an entry states of its published file."""
    return {place.size for place in zoo.card(name).weights if place.size}


def test_every_stated_size_is_compared() -> None:
    assert {name for name in zoo.names() if sizes(name)} == {*OVERHEAD, "FCOS_shapes_tiny"}


@pytest.mark.parametrize("name", OVERHEAD)
def test_tensors_add_up_to_the_published_size(name: str) -> None:
    (size,) = sizes(name)
    tensors, total = expected(name)
    least, most = OVERHEAD[name]
    beside = (size - total) / tensors
    assert least <= beside <= most, (
        f"{name}: {size:,} bytes are {beside:.1f} a tensor more than the {total:,} of "
        f"{tensors} tensors"
    )


@pytest.mark.parametrize("name", ROUNDED)
def test_tensors_add_up_to_the_rounded_size(name: str) -> None:
    tensors, total = expected(name)
    digits = len(ROUNDED[name].partition(".")[2])
    possible = {f"{(total + tensors * beside) / 1e6:.{digits}f}" for beside in range(200, 389)}
    assert ROUNDED[name] in possible, f"{name}: {total:,} bytes in {tensors} tensors"


def test_torchvisions_tensors_add_up_to_the_size_that_it_states() -> None:
    size = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["_file_size"] * 2**20
    tensors, total = expected("FCOS_TV_R_50")
    least, most = TORCHVISION_ZIP
    assert least <= (size - total) / tensors <= most


@pytest.mark.parametrize("name", sorted(PINNED))
def test_every_place_of_a_pinned_file_states_its_sha256(name: str) -> None:
    live = [place for place in zoo.card(name).weights if not place.dead]
    assert {len(place.sha256 or "") for place in live if place.url.startswith("hf://")} == {64}


def test_nineteen_published_files_are_pinned() -> None:
    assert len(PINNED) == 19
    digests = {place.sha256 for name in PINNED for place in zoo.card(name).weights if place.sha256}
    assert len(digests) == 19


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("FCOS_MS_R_50_2x", "not 129471951"),  # its size is known too
        ("FCOS_MS_X_101_64x4d_2x", "sha256 [0-9a-f]{64} is not that"),
    ],
)
def test_a_download_that_differs_from_the_pinned_file_is_refused(
    mirror: FaultyServer, name: str, reason: str
) -> None:
    mirror.add(str(zoo.card(name).filename), b"\x80\x02 of somebody else")
    with pytest.raises(zoo.WeightsError, match=reason):
        zoo.get(name)
