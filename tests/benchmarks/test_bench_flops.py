"""Counts against the published GFLOPs column and against arithmetic."""

from __future__ import annotations

import pytest

import zoo
from benchmarks import flops
from zoo import published

TABLE = published.read(published.DIRECTORY / "hrnet_backbone_gflops.yaml")


@pytest.mark.parametrize("entry", ["FCOS_R_50_5l_2x", "FCOS_HRNet_W18_5l_2x"])
def test_backbone_gflops_are_the_published_ones(entry: str) -> None:
    row = next(row for row in TABLE.rows if row.entry == entry)
    counted = flops.count(zoo.build(entry).eval())
    assert counted["input"] == "800x1216"
    assert counted["backbone_gflops"] == pytest.approx(row["backbone_gflops"], rel=0.01)
    # To the printed digit with those ReLUs that are modules in the original code: all of HRNet's.
    if "HRNet" in entry:
        kinds = counted["kinds"]
        relus = kinds["backbone"]["relus"] + kinds["pyramid"]["relus"]
        assert counted["backbone_gflops"] + relus == pytest.approx(row["backbone_gflops"], abs=0.06)


def test_a_deformable_convolution_counts_as_a_plain_one_and_its_offsets() -> None:
    def of_head(name: str) -> float:
        counted = flops.count(zoo.build(name).eval(), (64, 96))
        return float(counted["kinds"]["head"]["convolutions"])

    # 27 offsets and masks by a 3x3 convolution of 256 channels, in both towers, on every level.
    cases = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1 * 1
    offsets = 2 * 27 * 256 * 9 * cases / 1e9
    plain, deformable = of_head("FCOS_imprv_R_50_FPN_1x"), of_head("FCOS_imprv_dcnv2_R_50_FPN_1x")
    assert deformable - plain == pytest.approx(offsets)


@pytest.mark.parametrize(
    ("entry", "millions"),
    [("FCOS_R_50_1x", 32.24), ("FCOS_RT_MS_R_50_4x", 31.11), ("FCOS_R_50_6l_2x", 32.90)],
)
def test_parameters(entry: str, millions: float) -> None:
    counted = flops.parameters(zoo.build(entry))
    assert counted["parameters"] / 1e6 == pytest.approx(millions, abs=0.005)
    assert 0 < counted["trained"] <= counted["parameters"]
