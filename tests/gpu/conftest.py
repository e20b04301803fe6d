"""The device that the GPU tests run on: a CUDA card, or, in a rehearsal, the CPU.

`make gpu` runs these tests on the card, `make gpu DEVICE=cpu` rehearses them on a CPU with small
inputs, so that a mistake in a test is found without a card. `make test` leaves them out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """`FCOS_ZOO_TEST_DEVICE`, by default "cuda"; the test is skipped where there is no card."""
    chosen = torch.device(os.environ.get("FCOS_ZOO_TEST_DEVICE", "cuda"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA card on this machine; FCOS_ZOO_TEST_DEVICE=cpu rehearses the tests")
    return chosen


@pytest.fixture(autouse=True)
def _exact_float32() -> Iterator[None]:
    """Float32 is compared with the CPU's: TF32 would round convolutions to ten bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
