"""Detectors that AOTInductor compiled to machine code."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor
from torch._inductor import config

import zoo
from fcos import export_formats
from tools.cli import main, run
from zoo.exported import ExportedDetector

TINY = "FCOS_shapes_tiny"


class Brightness(torch.nn.Module):
    """Detects one box in each image, whose upper left pixel is its size and score."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        corner = images[:, :, 0, 0].contiguous()  # (N, 3)
        boxes = torch.cat((torch.zeros_like(corner), corner + 1), dim=1)[:, None, 1:5]
        return boxes, corner[:, :1], corner[:, :1].long()


def check(file: ExportedDetector, facts: dict[str, Any]) -> None:
    """Run `Brightness` from a file on arrays whose channels come last in memory."""
    assert file.runtime.startswith("AOTInductor")
    assert file.description == json.loads(json.dumps(facts))
    for shape in [(2, 6, 8, 3), (4, 20, 10, 3)]:
        images = np.random.default_rng(0).random(shape, dtype=np.float32).transpose(0, 3, 1, 2)
        for image, found in zip(images, file.detect_arrays(images), strict=True):
            assert found["scores"].tolist() == [image[0, 0, 0]]
            np.testing.assert_allclose(found["boxes"][0, 2:], 1 + image[:2, 0, 0])


@pytest.mark.compiler
def test_a_compiled_file_takes_images_of_every_size_and_number(tmp_path: Path) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    graph = torch.export.export(
        Brightness(),
        (torch.zeros(2, 3, 6, 8),),
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
    )
    path, facts = tmp_path / "brightness.pt2", export_formats.describe(zoo.get(TINY))
    export_formats.write_aoti(graph, path, facts)
    check(zoo.load(path), facts)


def test_compiled_code_gets_contiguous_arrays_and_its_errors_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = export_formats.describe(zoo.get(TINY))

    class Compiled(Brightness):
        loader = SimpleNamespace(get_metadata=lambda: {export_formats.METADATA: json.dumps(facts)})

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            assert images.is_contiguous()
            if images.shape[2] == 1:
                raise RuntimeError("Expected Ne(s14, 1) to be True but received 1")
            return super().forward(images)

    path = tmp_path / "brightness.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("brightness/data/aotinductor/model/model.so", b"")
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda _: Compiled())
    check(zoo.load(path), facts)
    with pytest.raises(RuntimeError, match=r"brightness\.pt2: .* fails on an array .*1, 3, 1, 8"):
        zoo.load(path).detect_arrays(np.zeros((1, 3, 1, 8), np.float32))


def test_a_missing_compiler_is_reported_before_tracing(tmp_path: Path) -> None:
    with (
        config.patch({"cpp.cxx": ("no_such_compiler",)}),
        pytest.raises(RuntimeError, match=r"--format aoti needs a C\+\+ compiler: install g\+\+"),
    ):
        run(["export", TINY, "--format", "aoti", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [["--with-preprocessing"], ["--precision", "bf16"]])
def test_options_that_aoti_does_not_support_are_refused(wrong: list[str], tmp_path: Path) -> None:
    assert main(["export", TINY, "--format", "aoti", "--out", str(tmp_path), *wrong]) == 2
