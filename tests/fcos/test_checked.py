"""Arguments given to a class directly are held to its signature, as settings of a config are."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import fcos
from fcos.preprocess import resize_image
from fcos.settings import check

IMAGENET = {"mean": (103.5, 116.3, 123.7), "std": (1, 1, 1)}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fcos.Loss(box="ciou"), "Loss.box=\"ciou\" should be 'giou', 'iou' or "),
        (lambda: fcos.Head((8,), 3, norm="ln"), "Head.norm=\"ln\" should be 'gn' or 'none' or"),
        (lambda: fcos.FPN((8,), (8,), upsample="x"), "FPN.upsample=\"x\" should be 'nearest' or"),
        (
            lambda: fcos.ImageNormalizer(**IMAGENET, channel_order="bgr"),
            "ImageNormalizer.channel_order=\"bgr\" should be 'BGR' or 'RGB'",
        ),
        (
            lambda: fcos.TargetAssigner([(0, 9)], region="disk", radius="1"),
            "TargetAssigner.region=\"disk\" should be 'square' or 'disc'; "
            'TargetAssigner.radius="1" should be a valid number',
        ),
        (
            lambda: fcos.Decoder(nms_threshold=60),
            "Decoder.nms_threshold=60 should be less than or equal to 1",
        ),
        (
            lambda: replace(fcos.Decoder(), clip="never"),
            "Decoder.clip=\"never\" should be 'before' or 'after'",
        ),
        (lambda: fcos.ShortestSide(0), "ShortestSide.size=0 should be greater than or equal to 1"),
        (lambda: fcos.Augmentation(0), "Augmentation.scale=0 should be greater than 0"),
        (lambda: fcos.Loss(quality=all), 'Loss.quality="<built-in function all>" should be'),
        (
            lambda: resize_image(torch.zeros(3, 4, 4), (2, 2), "bicubic"),  # type: ignore[arg-type]
            "resize method 'bicubic' is not one of pil, opencv, tensor, antialias",
        ),
    ],
)
def test_a_wrong_word_or_number_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build()


def test_in_the_words_of_a_wrong_setting() -> None:
    wrong: Any = {"box": "ciou", "alpha": 2}
    message = r"^Loss\.box=\"ciou\" should be .*; Loss\.alpha=2 should be less than or equal to 1$"
    with pytest.raises(ValueError, match=message):
        check(fcos.Loss, wrong, "Loss")
    with pytest.raises(ValueError, match=message):
        fcos.Loss(**wrong)


def test_right_arguments_pass() -> None:
    class Doubled(fcos.Loss):
        def __init__(self, factor: float, **options: Any) -> None:
            super().__init__(**options)
            self.factor = factor

    assert Doubled(2, quality=None).quality is None
    with pytest.raises(ValueError, match=r"Loss\.box="):
        Doubled(2, box="ciou")
    decoder = fcos.Decoder(top_k=None, score_threshold=0)
    for twin in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder)), replace(decoder)):
        assert vars(twin) == vars(decoder)
    with pytest.raises(TypeError, match="unexpected keyword argument 'bxo'"):
        fcos.Loss(bxo="giou")  # type: ignore[call-arg]
