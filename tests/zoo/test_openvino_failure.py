"""OpenVINO's state after an image on which a network fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo import exported


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failed_image_raises_and_the_next_one_is_right(tmp_path: Path, threads: int) -> None:
    openvino = pytest.importorskip("openvino")
    ops = openvino.opset13
    images = ops.parameter([-1, 3, -1, -1], np.float32, name="images")
    pooled = ops.max_pool(ops.relu(images), [2, 2], [1, 1], [0, 0], [0, 0], [3, 3])
    path = tmp_path / "model.xml"
    openvino.save_model(openvino.Model(pooled.outputs()[:1] * 3, [images]), path)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _, _, run = exported._openvino(path)
    finally:
        torch.set_num_threads(before)

    large, small = (np.full((1, 3, side, side), side, np.float32) for side in (8, 2))
    for _ in range(2):
        assert run(large)[0].shape == (1, 3, 3, 3)
        assert run(large)[0].max() == 8
        with pytest.raises(RuntimeError, match=r"failed on an array of shape \(1, 3, 2, 2\)"):
            run(small)
